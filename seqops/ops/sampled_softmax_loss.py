"""Sampled softmax: the public function, made of the differentiable row ops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._logistic import reduce
from ._sampled import candidates

if TYPE_CHECKING:
    from ..embeddings.sampler import NegativeSampler

__all__ = ["sampled_softmax_loss"]


def sampled_softmax_loss(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    target: Tensor,
    negatives: Tensor | NegativeSampler,
    *,
    bias: Tensor | None = None,
    num_negatives: int | None = None,
    padding_idx: int | None = None,
    mode: str = "mean",
    weight: Tensor | None = None,
    log_q: Tensor | None = None,
    collision: str = "keep",
    reduction: str = "mean",
    sparse: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Softmax cross entropy of a target among sampled classes, corrected for how often each is drawn.

    h[b]    = in_weight[center[b]], or the mean or sum of in_weight over a bag of centres (CBOW)
    s[b,v]  = h[b] . out_weight[v] + bias[v] - log(K q[v])
    loss[b] = weight[b] * (log(exp(s[b,target[b]]) + sum_k exp(s[b,negatives[b,k]])) - s[b,target[b]])

    Args:
        in_weight, out_weight: [U, D] and [V, D], fp16, bf16, fp32 or fp64; they may be one tensor. Scores, losses and
            sums are fp32 for 16 bits, and a row's gradient is rounded once.
        center: int32 or int64 [B], or bags [B, W]. In all ids, -1 stands for none: a member of a bag or a negative that
            is none is left out, and so is a pair without centre or target: loss and gradient 0.
        target: int [B].
        negatives: int [B, K], or a `seqops.embeddings.NegativeSampler`, from which K = num_negatives are drawn a pair,
            with a seed from `generator`.
        bias: [V] or None, of the tables' dtype, added to the scores.
        padding_idx: an id that is none, in all ids.
        mode: "mean" or "sum", of a bag.
        weight: [B], of a pair, in fp32, fp64 or the tables' dtype; differentiable.
        log_q: [V], the logarithm of the probability with which a draw gives each class; None: the sampler's. It has no
            gradient. Negatives that are given need it.
        collision: what happens to a negative that is the target: "keep" keeps it, with which the gradient tends to the
            full softmax's as K grows; "skip" leaves it out, for draws that hardly ever give the target.
        reduction: "none", "sum", or "mean" over the pairs that are not left out.
        sparse: gradients of the tables as coalesced sparse COO tensors, of the rows that occur, to count which the host
            waits for a GPU; not inside torch.compile.

    Returns:
        [B] where reduction is "none", else a scalar; fp32, or fp64 where the tables are. Gradients repeat to the bit.

    Raises:
        ValueError: a shape, a device or an option does not fit; on a CPU, an id is out of range, or a class cannot be
            drawn. On a GPU, where to look would make the host wait, what is out of range is left out. TypeError: a
            dtype does not fit.
        RuntimeError: on a second derivative.

    Source: Bengio and Senecal 2008, doi:10.1109/TNN.2007.912312; Jean et al. 2015, arXiv:1412.2007.
    """
    c = candidates(
        "sampled_softmax_loss", in_weight, out_weight, center, target, negatives, bias, num_negatives, padding_idx,
        mode, weight, log_q, True, collision, reduction, sparse, generator,
    )  # fmt: skip
    scores = c.scores.masked_fill(c.present[:, None] & ~c.inside, -torch.inf)
    loss = -torch.log_softmax(scores, 1)[:, 0]
    return reduce(torch.where(c.present, loss, 0), c.present, weight, reduction)
