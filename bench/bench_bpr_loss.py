"""Bayesian personalised ranking against a composition of gathers and products, dense gradients, and torch.compile."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from seqops import functional
from seqops.bench.sampled import sampled_bench, scores


def composition(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    s = scores(in_weight, out_weight, center, target, negatives)
    above = F.softplus(s[:, 1:] - s[:, :1])
    return above.masked_fill(negatives == target[:, None], 0).sum(1).mean()


def ours(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    return functional.bpr_loss(in_weight, out_weight, center, target, negatives)


BENCH = sampled_bench("bpr_loss", ours, composition, 1)


def test_bpr_loss(timed: Callable[[], None]) -> None:
    timed()
