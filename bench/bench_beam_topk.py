"""Beam top-k against log_softmax + add + topk, torch.compile of it, and a top-k kernel behind the same log_softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqops import functional
from seqops.bench.harness import Bench, Inputs, Prepared, Problem, Unavailable, compiled, from_function
from seqops.bench.roofline import Work


def problem(
    B: int, beam: int, V: int, dtype: str = "float32", quick: bool = False, k: int = 0, training: bool = False
) -> Problem:
    return Problem((("B", B), ("beam", beam), ("V", V), ("k", k or 2 * beam)), dtype, training, quick)


def inputs(p: Problem) -> Inputs:
    B, beam, V, _ = p.size.values()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(B, beam, V, generator=generator) * 3
    return {"logits": logits.to(getattr(torch, p.dtype)), "scores": -torch.rand(B, beam, generator=generator)}


def composition(logits: Tensor, scores: Tensor, k: int) -> Any:
    log_p = torch.log_softmax(logits, -1, dtype=scores.dtype)
    best, flat = (scores[:, :, None] + log_p).flatten(1).topk(k)
    return best, flat // logits.shape[2], flat % logits.shape[2]


def with_k(provider: Callable[..., Any]) -> Callable[[Problem], Callable[[Inputs], Prepared]]:
    return lambda p: provider(k=p.size["k"])(p)


def flashinfer(p: Problem) -> Callable[[Inputs], Prepared]:
    try:
        from flashinfer import top_k
    except ImportError as error:
        raise Unavailable("flashinfer is not installed") from error

    def run(logits: Tensor, scores: Tensor) -> Any:
        log_p = torch.log_softmax(logits, -1, dtype=torch.float32)
        best, flat = top_k((scores[:, :, None] + log_p).flatten(1), p.size["k"], sorted=True)
        return best, flat // logits.shape[2], flat % logits.shape[2]

    return from_function(run)(p)


def work(p: Problem) -> Work:
    """One read of the logits, and an exp of each; in backward a second read and one write."""
    B, beam, V, _ = p.size.values()
    elements, size = B * beam * V, getattr(torch, p.dtype).itemsize
    read = (3 if p.training else 1) * elements * size + 4 * B * beam
    return Work(read, exp=(2 if p.training else 1) * elements)


BENCH = Bench(
    op="beam_topk",
    family="decoding",
    cpu=[
        problem(32, 4, 32000, quick=True),
        problem(64, 5, 50257),
        problem(1, 4, 32000, quick=True),
        problem(32, 4, 1000),
        problem(4, 4, 250, quick=True),
    ],
    gpu=[
        problem(B, beam, V, dtype, quick=(B, beam) == (64, 5), k=k)
        for B, beam, V, dtype, k in (
            (64, 5, 50257, "bfloat16", 0),
            (32, 4, 128256, "bfloat16", 0),
            (64, 8, 128256, "bfloat16", 0),
            (8, 512, 65660, "bfloat16", 64),
            (64, 5, 50257, "float32", 0),
            (1, 4, 32000, "bfloat16", 0),
        )
    ],
    inputs=inputs,
    reference=with_k(lambda k: from_function(composition, k=k)),
    providers={
        "seqops": with_k(lambda k: from_function(functional.beam_topk, k=k)),
        "eager": with_k(lambda k: from_function(composition, k=k)),
        "torch.compile": with_k(lambda k: compiled(composition, k=k)),
        "flashinfer": flashinfer,
    },
    work=work,
)


def test_beam_topk(timed: Callable[[], None]) -> None:
    timed()
