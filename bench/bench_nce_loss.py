"""Noise-contrastive estimation against a composition of gathers and products, dense gradients, and torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from seqops import functional
from seqops.bench.sampled import even, sampled_bench, scores


def composition(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    s = scores(in_weight, out_weight, center, target, negatives)
    s = s - math.log(negatives.shape[1] / out_weight.shape[0])
    return (F.softplus(-s[:, 0]) + F.softplus(s[:, 1:]).sum(1)).mean()


def ours(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    log_q = even(out_weight.shape[0], out_weight.device)
    return functional.nce_loss(in_weight, out_weight, center, target, negatives, log_q=log_q)


BENCH = sampled_bench("nce_loss", ours, composition, 10)


def test_nce_loss(timed: Callable[[], None]) -> None:
    timed()
