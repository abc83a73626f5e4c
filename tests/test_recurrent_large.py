"""The recurrent ops with a library's product and an elementwise kernel a step, and which form walks what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES, gru, resets
from conftest import Path, exchange_hidden_states
from helpers import assert_as_accurate, randn, run_with_grads
from test_both_directions import build, run

from seqops import functional, reference
from seqops.nn import _recurrent

config = pytest.importorskip("seqops.kernels.config")

T, B = 4, 5


@pytest.fixture
def large(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All walks take the form for large steps, several programs each; none takes another."""
    if not path.kernels:
        pytest.skip("no kernels on this path")
    # All that take `walk` from there, before it is another for a while.
    from seqops.kernels import gru_cho, lstm_projected, recurrent  # noqa: F401

    def another(*_: Any, **__: Any) -> None:
        raise AssertionError("another form walks")

    always = config.FormLimits(resident=-1, streaming=-1)
    monkeypatch.setattr(config, "FORMS", {2: always, 4: always})
    exchange_hidden_states(monkeypatch)
    monkeypatch.setattr(config, "LARGE", config.ElementwiseConfig(2, 4, 1))
    monkeypatch.setattr(recurrent, "walk", another)
    return path


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "label", ["rnn", "rnn with relu", "gru", "lstm", "rnn with heads", "gru with heads", "lstm with heads"]
)
def test_equals_the_reference(large: Path, label: str, reverse: bool) -> None:
    """With resets to a state of their own and lengths; with heads with a recurrent mask and zoneout too."""
    case = CASES[label]
    sizes = {"T": T, "B": B, "I": 3, "H": 7, "D": 3}
    sizes = {n: sizes[n] for n in case.largest}
    options = case.usual(**sizes) | {"lengths": torch.tensor([3, 0, 4, 1, 4]), "reverse": reverse}
    if label == "lstm with heads":
        options |= {"zoneout_c": randn(T, B, 9, seed=16).abs() % 1}
    assert_as_accurate(case.op, case.reference, case.problem(**sizes), device=large.device, **options)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_both_directions(large: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads in each; against a call for each direction on the torch path."""
    joined = run(build(name, num_heads=2), large.device, True)
    monkeypatch.setattr(_recurrent, "takes_torch_path", lambda *_: True)
    apart = run(build(name, num_heads=2), large.device, True)
    for key, value in joined.items():
        torch.testing.assert_close(value, apart[key], msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes(large: Path, dtype: torch.dtype) -> None:
    assert_as_accurate(functional.gru, reference.gru, gru(T, B, 3, 7), dtype=dtype, device=large.device)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 2, 5), (3, 1, 2, 9)])
def test_small_sizes(large: Path, shape: tuple[int, ...]) -> None:
    assert_as_accurate(functional.gru, reference.gru, gru(*shape), device=large.device)


def test_repeats_to_the_bit_and_rows_are_independent(large: Path) -> None:
    inputs = gru(T, B, 3, 7)
    options: dict[str, Any] = {"reset": resets(T, B)}
    found = []
    for spoilt in (False, False, True):
        if spoilt:
            inputs = inputs | {"x": inputs["x"].clone(), "h0": inputs["h0"].clone()}
            inputs["x"][:, 1], inputs["h0"][3] = torch.nan, torch.inf
        given = {n: t.clone() for n, t in inputs.items()}
        found.append(run_with_grads(functional.gru, given, {"x", "h0"}, torch.float32, large.device, **options))
    kept = [0, 2, 4]
    for name, first in found[0].items():
        assert torch.equal(first, found[1][name]), name
        rows = 0 if name in ("output 1", "gradient of h0") else 1
        assert torch.equal(*(t.index_select(rows, torch.tensor(kept).to(t.device)) for t in (first, found[2][name])))


RESIDENT, STREAMING = (config.RecurrentConfig(16, 16, 64, 4, resident=r) for r in (True, False))
ALONE = config.RecurrentConfig(16, 64, 64, 4)


@pytest.mark.parametrize(
    ("tile", "dtype", "gates", "hidden_size", "batch", "heads", "form"),
    [
        (RESIDENT, torch.bfloat16, 3, 1024, 64, 1, "resident"),
        (RESIDENT, torch.bfloat16, 3, 1024, 1024, 1, "large"),
        (RESIDENT, torch.bfloat16, 1, 1024, 1024, 1, "resident"),
        (RESIDENT, torch.bfloat16, 3, 256, 1024, 4, "resident"),
        (RESIDENT, torch.float32, 4, 512, 128, 1, "resident"),
        (RESIDENT, torch.float32, 4, 512, 1024, 1, "large"),
        (ALONE, torch.bfloat16, 3, 64, 1 << 20, 4, "alone"),
        (STREAMING, torch.bfloat16, 3, 4096, 1, 1, "streaming"),
        (STREAMING, torch.bfloat16, 3, 4096, 64, 1, "large"),
        (STREAMING, torch.float32, 3, 2048, 1, 1, "streaming"),
        (STREAMING, torch.float32, 3, 2048, 64, 1, "large"),
    ],
)
def test_form(tile: Any, dtype: torch.dtype, gates: int, hidden_size: int, batch: int, heads: int, form: str) -> None:
    assert config.form(tile, dtype, gates, hidden_size, batch, heads) == form
