"""gru and gru_cell against the float64 reference and torch's own."""

from __future__ import annotations

import pytest
import torch
from conftest import Path
from helpers import assert_as_accurate, randn
from torch import Tensor

from seqops import functional, reference

# T, B, I, H: ones, odd sizes, several programs in rows and in units, an H that no block divides
SHAPES = [(1, 1, 1, 1), (4, 3, 2, 5), (3, 18, 7, 37), (2, 35, 3, 16)]


def problem(T: int, B: int, I: int, H: int, bias: bool = True) -> dict[str, Tensor]:
    scale = H**-0.5
    inputs = {
        "x": randn(T, B, I, seed=1),
        "h0": randn(B, H, seed=2),
        "w_ih": randn(3 * H, I, seed=3, scale=scale),
        "w_hh": randn(3 * H, H, seed=4, scale=scale),
    }
    if bias:
        inputs |= {"b_ih": randn(3 * H, seed=5, scale=scale), "b_hh": randn(3 * H, seed=6, scale=scale)}
    return inputs


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gru(path: Path, shape: tuple[int, ...], reverse: bool) -> None:
    assert_as_accurate(functional.gru, reference.gru, problem(*shape), device=path.device, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_gru_lengths(path: Path, reverse: bool) -> None:
    lengths = torch.tensor([3, 0, 5, 1, 5])
    inputs = problem(5, 5, 3, 6)
    assert_as_accurate(functional.gru, reference.gru, inputs, device=path.device, lengths=lengths, reverse=reverse)


def test_gru_without_bias(path: Path) -> None:
    assert_as_accurate(functional.gru, reference.gru, problem(3, 2, 4, 5, bias=False), device=path.device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_gru_dtypes(path: Path, dtype: torch.dtype) -> None:
    path.skip_unless_computes(dtype)
    assert_as_accurate(functional.gru, reference.gru, problem(6, 5, 4, 19), dtype=dtype, device=path.device)


@pytest.mark.parametrize("shape", SHAPES)
def test_gru_cell(path: Path, shape: tuple[int, ...]) -> None:
    inputs = problem(*shape)
    inputs["x"], inputs["h"] = inputs["x"][0], inputs.pop("h0")
    assert_as_accurate(functional.gru_cell, reference.gru_cell, inputs, device=path.device)
