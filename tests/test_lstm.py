"""lstm and lstm_cell: what only they promise. What all ops do is in test_every_op.py and test_properties.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES, resets
from cases import lstm as problem
from conftest import Path
from helpers import assert_as_accurate, randn
from torch import Tensor

from seqops import functional

LSTM = CASES["lstm"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
def test_without_options(path: Path, reverse: bool, bias: bool) -> None:
    """On the CPU torch's own."""
    inputs = {n: t for n, t in problem(4, 3, 5, 6).items() if bias or not n.startswith("b_")}
    assert_as_accurate(LSTM.op, LSTM.reference, inputs, device=path.device, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_several_programs(path: Path, reverse: bool) -> None:
    inputs = problem(3, 18, 7, 37)
    options = {"reset": resets(3, 18), "lengths": torch.arange(18) % 4, "return_cells": True, "reverse": reverse}
    assert_as_accurate(LSTM.op, LSTM.reference, inputs, device=path.device, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(path: Path, dtype: torch.dtype) -> None:
    options = {"reset": resets(5, 4), "return_cells": True}
    assert_as_accurate(LSTM.op, LSTM.reference, problem(5, 4, 3, 19), dtype=dtype, device=path.device, **options)


def test_zoneout_of_the_cell_ends_with_the_item(path: Path) -> None:
    """In padding the gradient of c passes on whole."""
    zoneout = {n: randn(4, 3, 5, seed=i).abs() % 1 for i, n in enumerate(("zoneout", "zoneout_c"))}
    options = zoneout | {"lengths": torch.tensor([2, 0, 4]), "return_cells": True}
    assert_as_accurate(LSTM.op, LSTM.reference, problem(4, 3, 2, 5), device=path.device, **options)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_nan_before_a_reset_has_no_effect_after_it(path: Path, cell: str) -> None:
    """In values, in x's gradients after it and in those of the state that it put in place."""
    case = CASES[cell]
    inputs = {n: t.float().to(path.device) for n, t in case.problem(T=5, B=2, I=3, H=4).items()}
    reset = torch.zeros(5, 2, dtype=torch.bool, device=path.device)
    reset[3] = True
    results = []
    for value in (0.5, torch.nan):
        given = {n: t.clone().requires_grad_() for n, t in inputs.items()}
        with torch.no_grad():
            given["x"][:3] = value
            given["h0"].fill_(value)
        y, h_n, *_ = case.op(**given, reset=reset)
        states = [n for n in given if n.startswith("reset")]
        grads = torch.autograd.grad((y[3:].sum() + h_n.sum()), [given["x"], *(given[n] for n in states)])
        results.append([y[3:], h_n, grads[0][3:], *grads[1:]])
    for clean, after_nan in zip(*results, strict=True):
        assert torch.equal(clean, after_nan)


def test_saturates(path: Path) -> None:
    """Pre-activations of +-1e4: gates at their ends, nothing is NaN."""
    inputs = {n: t.float().to(path.device).requires_grad_() for n, t in problem(3, 4, 3, 5).items()}
    with torch.no_grad():
        inputs["x"].sign_().mul_(1e4)
    y, *_ = LSTM.op(**inputs)
    assert y.abs().max() <= 1
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), list(inputs.values())))


def test_gradcheck(cpu_path: None) -> None:
    for P in (None, 2):
        inputs = {n: t.requires_grad_() for n, t in problem(3, 2, 2, 3, P).items()}
        options: dict[str, Any] = {"reset": resets(3, 2), "lengths": torch.tensor([3, 1]), "return_cells": True}
        w_hr = inputs.pop("w_hr", None)

        def call(
            x: Tensor, h0: Tensor, c0: Tensor, *weights: Tensor, w_hr: Tensor | None = w_hr, o: Any = options
        ) -> Any:
            y, (h_n, c_n), cells = functional.lstm(x, (h0, c0), *weights, w_hr=w_hr, **o)
            return y, h_n, c_n, cells

        assert torch.autograd.gradcheck(call, list(inputs.values()))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"state": torch.zeros(2, 4)}, TypeError, "lstm: state must be a pair of Tensors, got Tensor"),
        ({"state": (torch.zeros(2, 4),)}, TypeError, "lstm: state must be a pair of Tensors, got 1 items"),
        ({"state": (torch.zeros(2, 3), torch.zeros(2, 4))}, ValueError, r"h0 must have shape \[2, 4\], got \[2, 3\]"),
        ({"w_hh": torch.zeros(12, 4)}, ValueError, r"lstm: w_hh must have shape \[16, 4\], got \[12, 4\]"),
        ({"w_hr": torch.zeros(3, 4)}, ValueError, r"lstm: w_hr must have shape \[4, 4\], got \[3, 4\]"),
        ({"reset": torch.zeros(5, 2)}, TypeError, "lstm: reset must be bool, got torch.float32"),
        ({"reset": torch.zeros(2, 5).bool()}, ValueError, r"lstm: reset must have shape \[5, 2\], got \[2, 5\]"),
        ({"reset_state": (torch.zeros(2, 4),) * 2}, ValueError, "lstm: reset_state must be None where reset is None"),
        ({"lengths": [1, 6]}, ValueError, r"lstm: lengths must lie in 0..5, got 1..6"),
    ],
)
def test_rejects(change: dict[str, Any], error: type[Exception], message: str) -> None:
    inputs = {n: t.float() for n, t in problem(5, 2, 3, 4).items()}
    arguments = {
        "x": inputs["x"],
        "state": (inputs["h0"], inputs["c0"]),
        "w_ih": inputs["w_ih"],
        "w_hh": inputs["w_hh"],
    }
    with pytest.raises(error, match=message):
        functional.lstm(**(arguments | change))
