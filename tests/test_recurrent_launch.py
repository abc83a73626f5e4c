"""How the recurrent kernels would be launched on GPUs that are not here."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

recurrent = pytest.importorskip("seqops.kernels.recurrent")
config = pytest.importorskip("seqops.kernels.config")

H100, T4 = (232448, 132), (32768, 40)
LIKE: Any = SimpleNamespace(is_cuda=True, device=torch.device("cpu"), dtype=torch.bfloat16)
TILE = config.RecurrentConfig(16, 16, 64, 4)
# The arguments of a kernel that follow the launcher's own.
BARRIER, B0, STEP0, STEPS = range(4)


def launches(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], T: int, B: int, H: int, **options: Any
) -> list[tuple[int, tuple[Any, ...], dict[str, Any]]]:
    """The programs, arguments and options of each launch of a walk."""
    monkeypatch.setattr(recurrent, "resident_limits", lambda device: limits)
    monkeypatch.setattr(recurrent, "device_guard", lambda tensor: nullcontext())
    seen: list[tuple[int, tuple[Any, ...], dict[str, Any]]] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda *arguments, **constants: seen.append((grid[0], arguments, constants))

    recurrent.walk(Kernel(), (), TILE, H, T, B, LIKE, **options)
    return seen


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize(("multiprocessors", "programs"), [(16, [16] * 4), (40, [32, 32]), (132, [64])])
def test_programs_that_wait_for_one_another_are_as_few_as_multiprocessors(
    monkeypatch: pytest.MonkeyPatch, multiprocessors: int, programs: list[int], halves: bool
) -> None:
    """16 programs a row of them, for 64 rows of a batch."""
    seen = launches(monkeypatch, (1 << 20, multiprocessors), 100, 64, 256, halves=halves)
    assert [grid for grid, _, _ in seen] == programs
    assert [arguments[B0] for _, arguments, _ in seen] == [64 * i // len(seen) for i in range(len(seen))]
    for _, arguments, constants in seen:
        assert constants["launch_cooperative_grid"]
        assert constants["BARRIER"]
        assert (arguments[STEP0], arguments[STEPS]) == (0, 100)
        assert arguments[BARRIER].dtype == torch.int32
        assert not arguments[BARRIER].any()


def test_programs_are_not_counted_past_2_31(monkeypatch: pytest.MonkeyPatch) -> None:
    T, B, H = 2**27 + 5, 40, 256
    seen = launches(monkeypatch, H100, T, B, H, halves=True)
    ends = []
    for _, arguments, _ in seen:
        assert arguments[STEP0] == (ends[-1] if ends else 0)
        assert 2 * 16 * arguments[STEPS] < 2**31  # two barriers a step, of 16 programs
        assert not arguments[BARRIER].any()
        ends.append(arguments[STEP0] + arguments[STEPS])
    assert len(ends) == 3
    assert ends[-1] == T


@pytest.mark.parametrize(
    ("limits", "H", "resident"),
    [
        (H100, 1024, True),
        ((232448, 60), 1024, False),  # 64 programs would wait for one another
        ((232448, 14), 128, True),  # a part of an H100: one program has all units
        ((101376, 82), 256, True),
        ((101376, 82), 1024, False),
        (T4, 32, True),
        (T4, 300, False),
        ((0, 304), 32, False),
    ],
)
def test_weights_are_kept_where_they_fit(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], H: int, resident: bool
) -> None:
    monkeypatch.setattr(recurrent, "resident_limits", lambda device: limits)
    assert recurrent.pick(config.GRU_FWD, LIKE, 5, H, (H,) * 3).resident == resident


@pytest.mark.parametrize(
    ("major", "hip", "memory"), [(9, None, 100_000), (8, None, 100_000), (7, None, 50_000), (9, "6.4", 0)]
)
def test_memory_in_which_weights_are_kept(
    monkeypatch: pytest.MonkeyPatch, major: int, hip: str | None, memory: int
) -> None:
    """Before sm_80 Triton keeps them as fp32, whatever they are."""
    properties = SimpleNamespace(major=major, shared_memory_per_block_optin=100_000, multi_processor_count=40)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert recurrent.resident_limits(torch.device("cuda", 0)) == (memory, 40)


def test_tf32_is_not_asked_of_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton refuses it for most of their GPUs."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        assert recurrent.dot_precision(torch.float32) == "tf32"
        monkeypatch.setattr(torch.version, "hip", "6.4")
        assert recurrent.dot_precision(torch.float32) == "ieee"
    finally:
        matmul.fp32_precision = before
