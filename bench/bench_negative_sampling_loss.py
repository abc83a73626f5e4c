"""Negative sampling against a composition of gathers and products, with dense gradients, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seqops import functional
from seqops.bench.harness import Bench, Inputs, Problem, compiled, from_function
from seqops.bench.roofline import Work


def problem(V: int, D: int, B: int, K: int, quick: bool = False, dtype: str = "float32") -> Problem:
    return Problem((("V", V), ("D", D), ("B", B), ("K", K)), dtype, True, quick)


def inputs(p: Problem) -> Inputs:
    V, D, B, K = p.size.values()
    generator = torch.Generator().manual_seed(0)
    tables = {n: torch.randn(V, D, generator=generator).mul_(0.1) for n in ("in_weight", "out_weight")}
    ids = {"center": (B,), "target": (B,), "negatives": (B, K)}
    return {n: t.to(getattr(torch, p.dtype)) for n, t in tables.items()} | {
        n: torch.randint(V, shape, generator=generator) for n, shape in ids.items()
    }


def composition(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    h = F.embedding(center, in_weight)
    positive = (h * F.embedding(target, out_weight)).sum(1)
    negative = (F.embedding(negatives, out_weight) @ h[:, :, None])[:, :, 0]
    negative = F.softplus(negative.float()).masked_fill(negatives == target[:, None], 0)
    return (F.softplus(-positive.float()) + negative.sum(1)).mean()


def work(p: Problem) -> Work:
    """Both tables read once and both gradients written once; the rows' products, three times."""
    V, D, B, K = p.size.values()
    rows = B * (1 + K)
    return Work(4 * V * D * getattr(torch, p.dtype).itemsize + 8 * (B + rows), flops=6 * rows * D, exp=rows)


BENCH = Bench(
    op="negative_sampling_loss",
    family="embeddings",
    cpu=[problem(50000, 128, 4096, 10), problem(5000, 100, 1024, 5, quick=True)],
    gpu=[problem(1_000_000, D, 65536, K, quick=(D, K) == (128, 5)) for D in (128, 300) for K in (5, 20)],
    inputs=inputs,
    reference=from_function(composition),
    providers={
        "seqops": from_function(functional.negative_sampling_loss),
        "eager": from_function(composition),
        "torch.compile": compiled(composition),
    },
    work=work,
)


def test_negative_sampling_loss(timed: Callable[[], None]) -> None:
    timed()
