"""In-batch softmax with its correction against a composition, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seqops import functional
from seqops.bench.harness import Bench, Inputs, Problem, compiled, from_function
from seqops.bench.roofline import Work


def problem(B: int, D: int, quick: bool = False, dtype: str = "float32") -> Problem:
    return Problem((("B", B), ("D", D)), dtype, True, quick)


def inputs(p: Problem) -> Inputs:
    B, D = p.size.values()
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, p.dtype)
    drawn: Inputs = {n: torch.randn(B, D, generator=generator).mul_(0.1).to(dtype) for n in ("query", "key")}
    return drawn | {"ids": torch.randint(10 * B, (B,), generator=generator)}


def ours(query: Tensor, key: Tensor, ids: Tensor) -> Tensor:
    return functional.in_batch_softmax_loss(query, key, ids=ids, log_q=-(1 + ids).float().log(), temperature=0.1)


def composition(query: Tensor, key: Tensor, ids: Tensor) -> Tensor:
    scores = (query @ key.t()).float() / 0.1 + (1 + ids).float().log()
    twins = (ids[:, None] == ids) & ~torch.eye(ids.shape[0], dtype=torch.bool, device=ids.device)
    return F.cross_entropy(scores.masked_fill(twins, -torch.inf), torch.arange(ids.shape[0], device=ids.device))


def work(p: Problem) -> Work:
    """Queries and keys read, their gradients written; three products. The scores need not be in memory."""
    B, D = p.size.values()
    itemsize = getattr(torch, p.dtype).itemsize
    return Work(4 * B * D * itemsize + 8 * B, flops=6 * B * B * D, exp=2 * B * B)


BENCH = Bench(
    op="in_batch_softmax_loss",
    family="embeddings",
    cpu=[problem(2048, 128), problem(512, 64, quick=True)],
    gpu=[problem(8192, D, quick=D == 128) for D in (128, 300)],
    inputs=inputs,
    reference=from_function(composition),
    providers={
        "seqops": from_function(ours),
        "eager": from_function(composition),
        "torch.compile": compiled(composition),
    },
    work=work,
)


def test_in_batch_softmax_loss(timed: Callable[[], None]) -> None:
    timed()
