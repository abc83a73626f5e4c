"""Negative sampling against a composition of gathers and products and its compiled form; dense and sparse gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seqops import functional
from seqops.bench.harness import Bench, Inputs, Prepared, Problem, Provider, Unavailable, compiled, from_function
from seqops.bench.sampled import inputs, problem, work


def composition(
    in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor, sparse: bool = False
) -> Tensor:
    h = F.embedding(center, in_weight, sparse=sparse)
    positive = (h * F.embedding(target, out_weight, sparse=sparse)).sum(1)
    negative = (F.embedding(negatives, out_weight, sparse=sparse) @ h[:, :, None])[:, :, 0]
    negative = F.softplus(negative.float()).masked_fill(negatives == target[:, None], 0)
    return (F.softplus(-positive.float()) + negative.sum(1)).mean()


def either(fn: Callable[..., Any]) -> Provider:
    """fn, with sparse gradients where the problem asks for them: those are compared as dense ones."""

    def provide(p: Problem) -> Callable[[Inputs], Prepared]:
        if "sparse" not in p.size:
            return from_function(fn)(p)
        prepare = from_function(fn, sparse=True)(p)
        return lambda given: dataclasses.replace(prepare(given), restore=lambda i, grad: grad.to_dense())

    return provide


def compiled_dense(p: Problem) -> Callable[[Inputs], Prepared]:
    if "sparse" in p.size:
        raise Unavailable("torch.compile has no sparse gradients")
    return compiled(composition)(p)


BENCH = Bench(
    op="negative_sampling_loss",
    family="embeddings",
    cpu=[
        problem(50000, 128, 4096, 10),
        problem(50000, 128, 4096, 10, sparse=True),
        problem(5000, 100, 1024, 5, quick=True),
    ],
    gpu=[problem(1_000_000, D, 65536, K, quick=(D, K) == (128, 5)) for D in (128, 300) for K in (5, 20)],
    inputs=inputs,
    reference=from_function(composition),
    providers={
        "seqops": either(functional.negative_sampling_loss),
        "eager": either(composition),
        "torch.compile": compiled_dense,
    },
    work=work,
)


def test_negative_sampling_loss(timed: Callable[[], None]) -> None:
    timed()
