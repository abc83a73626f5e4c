"""Recurrent layers so small that one program has all units of its rows, and walks all steps by itself."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from cases import CASES, resets
from conftest import PATHS, Path, taken
from helpers import assert_as_accurate, randn

from seqops import nn

CELLS = ["rnn", "rnn with relu", "gru", "lstm"]
HEADS = ["rnn with heads", "gru with heads", "gru with heads alone", "lstm with heads"]
SIZES: list[dict[str, int]] = [
    {"T": 1, "B": 1, "I": 1, "H": 1},
    {"T": 3, "B": 17, "I": 2, "H": 7},
    {"T": 4, "B": 2, "I": 3, "H": 33},
]


@pytest.fixture(params=[p for p in PATHS if p.id != "cpu"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, poisoned_empty: None) -> Path:
    """The kernels with the tables as they are."""
    return taken(request.param, monkeypatch)


@pytest.fixture
def launches(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """The steps of each launch, and whether its programs wait for one another."""
    recurrent = importlib.import_module("seqops.kernels.recurrent")
    seen = []

    def watch(kernel: Any) -> Any:
        class Watched:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                def launch(*args: Any, **options: Any) -> None:
                    seen.append((args[-3], options["BARRIER"]))
                    kernel[grid](*args, **options)

                return launch

        return Watched()

    for name in ("recurrent_fwd_kernel", "recurrent_bwd_kernel"):
        monkeypatch.setattr(recurrent, name, watch(getattr(recurrent, name)))
    return seen


def options_of(label: str, sizes: dict[str, int], device: str) -> dict[str, Any]:
    T, B = sizes["T"], sizes["B"]
    options = CASES[label].usual(**sizes) | {"reset": resets(T, B), "reverse": T > 1}
    if T > 1:
        options["lengths"] = torch.arange(B) % (T + 1)
    return options


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("label", CELLS)
def test_as_accurate_as_the_reference(
    path: Path, label: str, sizes: dict[str, int], launches: list[tuple[int, Any]]
) -> None:
    case = CASES[label]
    given = options_of(label, sizes, path.device)
    assert_as_accurate(case.op, case.reference, case.problem(**sizes), device=path.device, **given)
    if sizes["T"] > 1:
        assert set(launches) == {(sizes["T"], False)}


@pytest.mark.parametrize("label", HEADS)
def test_heads_dropout_and_zoneout(path: Path, label: str, launches: list[tuple[int, Any]]) -> None:
    case, sizes = CASES[label], {"T": 3, "B": 2, "I": 2, "D": 3}
    given = options_of(label, sizes, path.device)
    assert_as_accurate(case.op, case.reference, case.problem(**sizes), device=path.device, **given)
    assert set(launches) == {(3, False)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("label", CELLS)
def test_dtypes(path: Path, label: str, dtype: torch.dtype) -> None:
    case, sizes = CASES[label], {"T": 3, "B": 3, "I": 2, "H": 5}
    given = options_of(label, sizes, path.device)
    assert_as_accurate(case.op, case.reference, case.problem(**sizes), dtype=dtype, device=path.device, **given)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_rows_do_not_depend_on_their_neighbours(path: Path, name: str) -> None:
    torch.manual_seed(0)
    module = getattr(nn, name)(3, 6, bidirectional=True).to(path.device)
    x = randn(3, 18, 3, seed=1).float().to(path.device)
    others = x + 1
    others[:, 5] = x[:, 5]
    assert torch.equal(module(x)[0][:, 5], module(others)[0][:, 5])
