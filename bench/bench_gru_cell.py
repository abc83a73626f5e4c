"""One step of the GRU against torch.nn.GRUCell, the composition, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seqops import functional, reference
from seqops.bench.harness import Bench, Inputs, Problem, compiled, from_function
from seqops.bench.roofline import Work


def problem(B: int, H: int, dtype: str = "float32", training: bool = True, quick: bool = False) -> Problem:
    return Problem((("B", B), ("I", H), ("H", H)), dtype, training, quick)


def inputs(p: Problem) -> Inputs:
    B, I, H = p.size.values()
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, p.dtype)
    shapes = {"x": (B, I), "h": (B, H), "w_ih": (3 * H, I), "w_hh": (3 * H, H), "b_ih": (3 * H,), "b_hh": (3 * H,)}
    scales = {n: 1.0 if n in "xh" else H**-0.5 / 2 for n in shapes}
    return {n: (torch.randn(s, generator=generator) * scales[n]).to(dtype) for n, s in shapes.items()}


def torch_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """What torch.nn.GRUCell calls."""
    return torch.gru_cell(x, h, w_ih, w_hh, b_ih, b_hh)


def work(p: Problem) -> Work:
    B, I, H = p.size.values()
    size = getattr(torch, p.dtype).itemsize
    elements = B * (I + 2 * H) + 3 * H * (I + H + 2)
    times = 3 if p.training else 1
    return Work((2 if p.training else 1) * elements * size, times * 2 * B * 3 * H * (I + H), tanh=B * H, exp=2 * B * H)


BENCH = Bench(
    op="gru_cell",
    family="recurrent",
    cpu=[problem(32, 256, quick=True), problem(1, 256, training=False, quick=True), problem(32, 1024)],
    gpu=[
        problem(B, H, dtype, training, quick=(B, H) == (64, 1024))
        for B, H, dtype in ((64, 1024, "bfloat16"), (1, 1024, "bfloat16"), (256, 512, "float32"))
        for training in (False, True)
    ],
    inputs=inputs,
    reference=from_function(reference.gru_cell),
    providers={
        "seqops": from_function(functional.gru_cell),
        "torch.nn": from_function(torch_cell),
        "eager": from_function(reference.gru_cell),
        "torch.compile": compiled(reference.gru_cell),
    },
    work=work,
)


def test_gru_cell(timed: Callable[[], None]) -> None:
    timed()
