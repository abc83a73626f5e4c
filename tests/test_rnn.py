"""rnn and rnn_cell: what only they promise. What all ops do is in test_every_op.py and test_properties.py."""

from __future__ import annotations

import pytest
import torch
from cases import resets
from cases import rnn as problem
from conftest import Path
from helpers import assert_as_accurate

from seqops import functional, reference


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("reverse", [False, True])
def test_several_programs(path: Path, reverse: bool, nonlinearity: str) -> None:
    options = {"reset": resets(3, 18), "lengths": torch.arange(18) % 4, "nonlinearity": nonlinearity}
    inputs = problem(3, 18, 7, 37)
    assert_as_accurate(functional.rnn, reference.rnn, inputs, device=path.device, reverse=reverse, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(path: Path, dtype: torch.dtype) -> None:
    options = {"reset": resets(5, 4), "device": path.device, "dtype": dtype}
    assert_as_accurate(functional.rnn, reference.rnn, problem(5, 4, 3, 19), **options)


def test_relu_passes_nan_and_grows(path: Path) -> None:
    """As torch.relu; and what tanh would bound, relu does not."""
    inputs = {n: t.float().to(path.device) for n, t in problem(3, 2, 2, 4).items()}
    inputs["x"][0, 0] = torch.nan
    y, _ = functional.rnn(**inputs, nonlinearity="relu")
    assert y[:, 0].isnan().all()
    assert (y[:, 1] >= 0).all()
    inputs["x"] = torch.full_like(inputs["x"], 1e4)
    inputs["w_ih"] = inputs["w_ih"].abs()
    assert functional.rnn(**inputs, nonlinearity="relu")[0].max() > 1e3


def test_gradcheck(cpu_path: None) -> None:
    inputs = [t.requires_grad_() for t in problem(3, 2, 2, 3).values()]
    options = {"reset": resets(3, 2), "lengths": torch.tensor([3, 1])}
    assert torch.autograd.gradcheck(lambda *a: functional.rnn(*a, **options), inputs)


def test_rejects() -> None:
    inputs = {n: t.float() for n, t in problem(5, 2, 3, 4).items()}
    with pytest.raises(ValueError, match="rnn: nonlinearity must be 'tanh' or 'relu', got 'gelu'"):
        functional.rnn(**inputs, nonlinearity="gelu")
    with pytest.raises(ValueError, match=r"rnn: reset_state must have shape \[2, 4\], got \[4\]"):
        functional.rnn(**inputs, reset=torch.zeros(5, 2).bool(), reset_state=torch.zeros(4))
    with pytest.raises(ValueError, match=r"rnn: w_hh must have shape \[4, 4\], got \[12, 4\]"):
        functional.rnn(**inputs | {"w_hh": torch.zeros(12, 4)})
