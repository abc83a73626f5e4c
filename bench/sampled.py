"""What the benchmarks of losses over a target and sampled classes share: problems, inputs and work."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqops.bench.harness import Bench, Inputs, Problem, compiled, from_function
from seqops.bench.roofline import Work

__all__ = ["even", "inputs", "problem", "sampled_bench", "scores", "work"]


def problem(
    V: int, D: int, B: int, K: int, quick: bool = False, dtype: str = "float32", sparse: bool = False
) -> Problem:
    """`sparse`: sparse gradients, of ids that are as frequent as words are, and drawn by the 0.75th power of that."""
    sizes = (("V", V), ("D", D), ("B", B), ("K", K), *([("sparse", 1)] if sparse else []))
    return Problem(sizes, dtype, True, quick)


def ids(p: Problem) -> Inputs:
    V, _, B, K, *sparse = p.size.values()
    generator = torch.Generator().manual_seed(0)

    def draw(power: float, *shape: int) -> Tensor:
        if not sparse:
            return torch.randint(V, shape, generator=generator)
        frequency = torch.arange(1, V + 1).double().pow(-power)
        return torch.multinomial(frequency, math.prod(shape), replacement=True, generator=generator).view(shape)

    return {"center": draw(1.0, B), "target": draw(1.0, B), "negatives": draw(0.75, B, K)}


def inputs(p: Problem) -> Inputs:
    V, D, *_ = p.size.values()
    generator = torch.Generator().manual_seed(1)
    tables = {n: torch.randn(V, D, generator=generator).mul_(0.1) for n in ("in_weight", "out_weight")}
    return {n: t.to(getattr(torch, p.dtype)) for n, t in tables.items()} | ids(p)


@functools.cache
def even(V: int, device: torch.device) -> Tensor:
    """log q of classes that are drawn alike."""
    return torch.full((V,), -math.log(V), device=device)


def scores(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    """[B,1+K], the target's first, by gathers and a product of batches."""
    h, rows = F.embedding(center, in_weight), torch.cat((target[:, None], negatives), 1)
    return (F.embedding(rows, out_weight) @ h[:, :, None])[:, :, 0].float()


def work(p: Problem) -> Work:
    """Both tables, or with sparse gradients the rows in use, read once and their gradients written once; the rows'
    products, three times.
    """
    V, D, B, K, *sparse = p.size.values()
    rows, used = B * (1 + K), 2 * V
    if sparse:
        center, *others = ids(p).values()
        used = center.unique().numel() + torch.cat([t.flatten() for t in others]).unique().numel()
    return Work(2 * used * D * getattr(torch, p.dtype).itemsize + 8 * (B + rows), flops=6 * rows * D, exp=rows)


def sampled_bench(op: str, ours: Callable[..., Any], composition: Callable[..., Any], K: int) -> Bench:
    return Bench(
        op=op,
        family="embeddings",
        cpu=[problem(50000, 128, 4096, K), problem(5000, 100, 1024, K, quick=True)],
        gpu=[problem(1_000_000, D, 65536, K, quick=D == 128) for D in (128, 300)],
        inputs=inputs,
        reference=from_function(composition),
        providers={
            "seqops": from_function(ours),
            "eager": from_function(composition),
            "torch.compile": compiled(composition),
        },
        work=work,
    )
