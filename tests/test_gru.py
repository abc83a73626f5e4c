"""gru and gru_cell against the float64 reference and torch's own."""

from __future__ import annotations

import pytest
import torch
from cases import gru as problem
from conftest import Path
from helpers import assert_as_accurate

from seqops import functional, reference

# T, B, I, H: ones, odd sizes, several programs in rows and in units, an H that no block divides
SHAPES = [(1, 1, 1, 1), (4, 3, 2, 5), (3, 18, 7, 37), (2, 35, 3, 16)]


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
    without_bias = {n: t for n, t in problem(3, 2, 4, 5).items() if not n.startswith("b_")}
    assert_as_accurate(functional.gru, reference.gru, without_bias, device=path.device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_gru_dtypes(path: Path, dtype: torch.dtype) -> None:
    assert_as_accurate(functional.gru, reference.gru, problem(6, 5, 4, 19), dtype=dtype, device=path.device)


@pytest.mark.parametrize("shape", SHAPES)
def test_gru_cell(path: Path, shape: tuple[int, ...]) -> None:
    inputs = problem(*shape)
    inputs["x"], inputs["h"] = inputs["x"][0], inputs.pop("h0")
    assert_as_accurate(functional.gru_cell, reference.gru_cell, inputs, device=path.device)


@pytest.mark.parametrize("reverse", [False, True])
def test_gru_kernels_without_resident_weights(path: Path, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not path.kernels:
        pytest.skip("no kernels on this path")
    config = pytest.importorskip("seqops.kernels.config")
    monkeypatch.setattr(config, "GRU_FWD", ())
    monkeypatch.setattr(config, "GRU_BWD", ())
    inputs = problem(3, 35, 4, 70)
    assert_as_accurate(functional.gru, reference.gru, inputs, device=path.device, reverse=reverse)


def test_gru_gradcheck(cpu_path: None) -> None:
    inputs = [t.requires_grad_() for t in problem(3, 2, 2, 3).values()]
    lengths = torch.tensor([3, 1])
    for options in ({}, {"reverse": True}, {"lengths": lengths}, {"lengths": lengths, "reverse": True}):
        assert torch.autograd.gradcheck(lambda *a, o=options: functional.gru(*a, **o), inputs)


def test_gru_only_one_output_used(path: Path) -> None:
    inputs = problem(3, 2, 3, 4)
    for i in (0, 1):
        assert_as_accurate(
            lambda i=i, **a: functional.gru(**a)[i],
            lambda i=i, **a: reference.gru(**a)[i],
            inputs,
            device=path.device,
        )


def test_gru_rows_are_independent(path: Path) -> None:
    """A row's result is the same to the bit whatever its neighbours hold, NaN too."""
    inputs = {n: t.float().to(path.device) for n, t in problem(4, 5, 3, 6).items()}
    y, h = functional.gru(**inputs)
    inputs["x"][:, 1] = float("nan")
    inputs["h0"][3] = float("inf")
    y2, h2 = functional.gru(**inputs)
    kept = [0, 2, 4]
    assert torch.equal(y[:, kept], y2[:, kept])
    assert torch.equal(h[kept], h2[kept])
    assert y2[:, 1].isnan().all()
    assert h2[1].isnan().all()


def test_gru_saturates(path: Path) -> None:
    """Pre-activations of +-1e4: gates at their ends, nothing is NaN, gradients are 0."""
    inputs = {n: t.float().to(path.device).requires_grad_() for n, t in problem(3, 4, 3, 5).items()}
    with torch.no_grad():
        inputs["x"].sign_().mul_(1e4)
    y, h = functional.gru(**inputs)
    assert y.abs().max() <= max(1.0, inputs["h0"].abs().max().item())
    for g in torch.autograd.grad(y.sum() + h.sum(), list(inputs.values())):
        assert g.isfinite().all()


@pytest.mark.parametrize("reverse", [False, True])
def test_gru_lengths_that_are_clamped_on_a_gpu(path: Path, reverse: bool) -> None:
    """What the host cannot check without waiting, the ops read as a length in 0..T."""
    inputs = [t.float().to(path.device) for t in problem(3, 2, 2, 4).values()]
    got, expected = (
        torch.ops.seqops.gru_sequence_fwd(
            *inputs, torch.tensor(lengths, dtype=torch.int32).to(path.device), *[None] * 4, 1, reverse, True, False
        )
        for lengths in ([9, -5], [3, 0])
    )
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 3)}, ValueError, r"gru: x must have shape \[T, B, I\], got \[2, 3\]"),
        ({"h0": torch.zeros(3, 4)}, ValueError, r"gru: h0 must have shape \[2, H\], got \[3, 4\]"),
        ({"w_ih": torch.zeros(12, 4)}, ValueError, r"gru: w_ih must have shape \[12, 3\], got \[12, 4\]"),
        ({"w_hh": torch.zeros(9, 4)}, ValueError, r"gru: w_hh must have shape \[12, 4\], got \[9, 4\]"),
        ({"b_ih": torch.zeros(4)}, ValueError, r"gru: b_ih must have shape \[12\], got \[4\]"),
        ({"b_hh": torch.zeros(1, 12)}, ValueError, r"gru: b_hh must have shape \[12\], got \[1, 12\]"),
        (
            {"h0": torch.zeros(2, 4).double()},
            TypeError,
            "gru: h0 must have the dtype of x, torch.float32, got torch.float64",
        ),
        (
            {"x": torch.zeros(5, 2, 3).long()},
            TypeError,
            "gru: x must be float16, bfloat16, float32 or float64, got torch.int64",
        ),
        (
            {"w_hh": torch.zeros(12, 4, device="meta")},
            ValueError,
            "gru: w_hh must be on the device of x, cpu, got meta",
        ),
        ({"h0": None}, TypeError, "gru: h0 must be a Tensor, got NoneType"),
        ({"lengths": torch.tensor([1.0, 2.0])}, TypeError, "gru: lengths must be int32 or int64, got torch.float32"),
        ({"lengths": torch.tensor([1, 2, 3])}, ValueError, r"gru: lengths must have shape \[2\], got \[3\]"),
        ({"lengths": [1, 6]}, ValueError, r"gru: lengths must lie in 0..5, got 1..6"),
        ({"lengths": [-1, 5]}, ValueError, r"gru: lengths must lie in 0..5, got -1..5"),
    ],
)
def test_gru_rejects(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {n: t.float() for n, t in problem(5, 2, 3, 4).items()}
    with pytest.raises(error, match=message):
        functional.gru(**(arguments | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(1, 2, 3)}, ValueError, r"gru_cell: x must have shape \[B, I\], got \[1, 2, 3\]"),
        ({"h": torch.zeros(3, 4)}, ValueError, r"gru_cell: h must have shape \[2, H\], got \[3, 4\]"),
        ({"h": torch.zeros(2, 4).half()}, TypeError, "gru_cell: h must have the dtype of x"),
        ({"w_ih": None}, TypeError, "gru_cell: w_ih must be a Tensor, got NoneType"),
    ],
)
def test_gru_cell_rejects(cpu_path: None, change: dict[str, object], error: type[Exception], message: str) -> None:
    """On a CPU by the quick look too, where torch would have an error of its own."""
    arguments: dict[str, object] = {n: t.float() for n, t in problem(1, 2, 3, 4).items()}
    arguments["x"], arguments["h"] = torch.zeros(2, 3), arguments.pop("h0")
    with pytest.raises(error, match=message):
        functional.gru_cell(**(arguments | change))  # type: ignore[arg-type]


def test_products_follow_torchs_setting() -> None:
    common = pytest.importorskip("seqops.kernels.common")
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "ieee"
        assert common.dot_precision(torch.float32) == "ieee"
        matmul.fp32_precision = "tf32"
        assert common.dot_precision(torch.float32) == "tf32"
        assert common.dot_precision(torch.bfloat16) == "ieee"
    finally:
        matmul.fp32_precision = before
