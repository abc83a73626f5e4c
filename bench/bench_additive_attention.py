"""Additive attention against the composition that builds [B,Q,T,D], and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seqops import functional
from seqops.bench.harness import Bench, Inputs, Problem, compiled, from_function
from seqops.bench.roofline import Work


def problem(
    B: int, Q: int, T: int, D: int, dtype: str = "float32", training: bool = True, quick: bool = False
) -> Problem:
    return Problem((("B", B), ("Q", Q), ("T", T), ("D", D)), dtype, training, quick)


def inputs(p: Problem) -> Inputs:
    B, Q, T, D = p.size.values()
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, p.dtype)
    shapes = {"query": (B, Q, D), "keys": (B, T, D), "values": (B, T, D), "v": (D,)}
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}


def composition(query: Tensor, keys: Tensor, values: Tensor, v: Tensor) -> Tensor:
    score = torch.tanh(query[:, :, None] + keys[:, None]) @ v
    return torch.softmax(score, -1) @ values


def ours(query: Tensor, keys: Tensor, values: Tensor, v: Tensor) -> Tensor:
    return functional.additive_attention(query, keys, values, v)[0]


def work(p: Problem) -> Work:
    """Exponentials of each query and key give tanh of their sums by a product, a sum and a quotient an element, or one
    exponential an element where those are fewer; in backward again: its values are not kept.
    """
    B, Q, T, D = p.size.values()
    elements = B * (2 * Q + 2 * T) * D
    passes = 2 if p.training else 1
    products = 3 if p.training else 1
    return Work(
        passes * elements * getattr(torch, p.dtype).itemsize,
        (2 * products + 3 * passes) * B * Q * T * D,
        exp=passes * B * min(Q * T, Q + T) * D,
    )


BENCH = Bench(
    op="additive_attention",
    family="attention",
    cpu=[
        problem(8, 32, 128, 256, quick=True),
        problem(2, 64, 512, 512),
        problem(128, 10, 30, 96),
        problem(32, 1, 128, 256, training=False, quick=True),
        problem(4, 1, 10, 32),
    ],
    gpu=[
        problem(B, Q, T, D, dtype, training, quick=(B, Q) == (32, 128) and dtype == "bfloat16")
        for B, Q, T, D, dtype in (
            (32, 128, 512, 512, "bfloat16"),
            (32, 128, 512, 512, "float32"),
            (64, 1, 512, 512, "bfloat16"),
            (128, 10, 30, 96, "float32"),
        )
        for training in (False, True)
    ],
    inputs=inputs,
    reference=from_function(composition),
    providers={
        "seqops": from_function(ours),
        "eager": from_function(composition),
        "torch.compile": compiled(composition),
    },
    work=work,
)


def test_additive_attention(timed: Callable[[], None]) -> None:
    timed()
