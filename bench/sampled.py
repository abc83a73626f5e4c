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


@functools.cache
def even(V: int, device: torch.device) -> Tensor:
    """log q of classes that are drawn alike."""
    return torch.full((V,), -math.log(V), device=device)


def scores(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    """[B,1+K], the target's first, by gathers and a product of batches."""
    h, rows = F.embedding(center, in_weight), torch.cat((target[:, None], negatives), 1)
    return (F.embedding(rows, out_weight) @ h[:, :, None])[:, :, 0].float()


def work(p: Problem) -> Work:
    """Both tables read once and both gradients written once; the rows' products, three times."""
    V, D, B, K = p.size.values()
    rows = B * (1 + K)
    return Work(4 * V * D * getattr(torch, p.dtype).itemsize + 8 * (B + rows), flops=6 * rows * D, exp=rows)


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
