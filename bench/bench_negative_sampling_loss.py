"""Negative sampling against a composition of gathers and products, with dense gradients, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from seqops import functional
from seqops.bench.harness import Bench, compiled, from_function
from seqops.bench.sampled import inputs, problem, work


def composition(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    h = F.embedding(center, in_weight)
    positive = (h * F.embedding(target, out_weight)).sum(1)
    negative = (F.embedding(negatives, out_weight) @ h[:, :, None])[:, :, 0]
    negative = F.softplus(negative.float()).masked_fill(negatives == target[:, None], 0)
    return (F.softplus(-positive.float()) + negative.sum(1)).mean()


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
