"""Sampled softmax against a composition of gathers and products, with dense gradients, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seqops import functional
from seqops.bench.sampled import even, sampled_bench, scores


def composition(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    # Of classes that are drawn alike the correction is one number, which a softmax does not see.
    s = scores(in_weight, out_weight, center, target, negatives)
    return F.cross_entropy(s, torch.zeros_like(target))


def ours(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    log_q = even(out_weight.shape[0], out_weight.device)
    return functional.sampled_softmax_loss(in_weight, out_weight, center, target, negatives, log_q=log_q)


BENCH = sampled_bench("sampled_softmax_loss", ours, composition, 64)


def test_sampled_softmax_loss(timed: Callable[[], None]) -> None:
    timed()
