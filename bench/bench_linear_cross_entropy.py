"""Cross entropy of a linear layer against layer and loss by themselves, torch's own function, and torch.compile."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seqops import functional
from seqops.bench.harness import Bench, Inputs, Prepared, Problem, Unavailable, compiled, from_function
from seqops.bench.roofline import Work


def problem(N: int, V: int, D: int, quick: bool = False, dtype: str = "float32") -> Problem:
    return Problem((("N", N), ("V", V), ("D", D)), dtype, True, quick)


def inputs(p: Problem) -> Inputs:
    N, V, D = p.size.values()
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, p.dtype)
    drawn = {n: torch.randn(s, D, generator=generator) for n, s in (("input", N), ("linear_weight", V))}
    drawn["linear_weight"] *= D**-0.5
    return {n: t.to(dtype) for n, t in drawn.items()} | {"target": torch.randint(V, (N,), generator=generator)}


def composition(input: Tensor, linear_weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(input, linear_weight), target)


def chunked(p: Problem) -> Callable[[Inputs], Prepared]:
    """torch's own, in chunks of its choice."""
    if not hasattr(F, "linear_cross_entropy"):
        raise Unavailable(f"torch {torch.__version__} has none")
    options = torch.nn.LinearCrossEntropyOptions()

    def call(input: Tensor, linear_weight: Tensor, target: Tensor) -> Tensor:
        return F.linear_cross_entropy(input, linear_weight, target, options=options)

    return from_function(call)(p)


def work(p: Problem) -> Work:
    """Inputs and weights read once, their gradients written once; three products. The logits need not be in memory."""
    N, V, D = p.size.values()
    itemsize = getattr(torch, p.dtype).itemsize
    return Work(2 * (N + V) * D * itemsize + 8 * N, flops=6 * N * V * D, exp=N * V)


BENCH = Bench(
    op="linear_cross_entropy",
    family="embeddings",
    cpu=[problem(1024, 32000, 256), problem(512, 8000, 128, quick=True)],
    gpu=[
        problem(8192, 32000, 1024, quick=True, dtype="bfloat16"),
        problem(8192, 128256, 4096, dtype="bfloat16"),
        problem(8192, 32000, 1024),
    ],
    inputs=inputs,
    reference=from_function(composition),
    providers={
        "seqops": from_function(functional.linear_cross_entropy),
        "eager": from_function(composition),
        "torch": chunked,
        "torch.compile": compiled(composition),
    },
    work=work,
)


def test_linear_cross_entropy(timed: Callable[[], None]) -> None:
    timed()
