"""GloVe's loss against a composition of gathers and products, with dense gradients, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seqops import functional
from seqops.bench.harness import Bench, Inputs, Problem, compiled, from_function
from seqops.bench.roofline import Work


def problem(V: int, D: int, N: int, quick: bool = False, dtype: str = "float32") -> Problem:
    return Problem((("V", V), ("D", D), ("N", N)), dtype, True, quick)


def inputs(p: Problem) -> Inputs:
    V, D, N = p.size.values()
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, p.dtype)
    shapes = {"weight": (V, D), "context_weight": (V, D), "bias": (V,), "context_bias": (V,)}
    drawn = {n: torch.randn(s, generator=generator).mul_(0.1).to(dtype) for n, s in shapes.items()}
    drawn |= {n: torch.randint(V, (N,), generator=generator) for n in ("i", "j")}
    # Counts are no place to learn at: integers have no gradient.
    return drawn | {"x": 1 + torch.randint(200, (N,), generator=generator)}


def ours(
    weight: Tensor, context_weight: Tensor, bias: Tensor, context_bias: Tensor, i: Tensor, j: Tensor, x: Tensor
) -> Tensor:
    return functional.glove_loss(weight, context_weight, bias, context_bias, i, j, x.float())


def composition(
    weight: Tensor, context_weight: Tensor, bias: Tensor, context_bias: Tensor, i: Tensor, j: Tensor, x: Tensor
) -> Tensor:
    score = (F.embedding(i, weight) * F.embedding(j, context_weight)).sum(1) + bias[i] + context_bias[j]
    return ((x / 100).pow(0.75).clamp(max=1) * (score - x.log()).square()).mean()


def work(p: Problem) -> Work:
    """Both tables read once and both gradients written once; the products of the rows, three times."""
    V, D, N = p.size.values()
    return Work(4 * V * (D + 1) * getattr(torch, p.dtype).itemsize + 24 * N, flops=6 * N * D, exp=2 * N)


BENCH = Bench(
    op="glove_loss",
    family="embeddings",
    cpu=[problem(50000, 128, 16384), problem(5000, 100, 4096, quick=True)],
    gpu=[problem(1_000_000, D, 65536, quick=D == 128) for D in (128, 300)],
    inputs=inputs,
    reference=from_function(composition),
    providers={
        "seqops": from_function(ours),
        "eager": from_function(composition),
        "torch.compile": compiled(composition),
    },
    work=work,
)


def test_glove_loss(timed: Callable[[], None]) -> None:
    timed()
