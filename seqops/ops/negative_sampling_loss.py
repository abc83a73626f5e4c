"""Negative sampling: the public function, the autograd Function and the registration of its op."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..cpu._dtypes import compute_dtype
from ._checks import check_dtypes, check_shape
from ._logistic import check_negatives, logistic_backward, pairs, reduce
from ._register import register
from ._rows import kernel_takes
from ._sampler import draw_seed

if TYPE_CHECKING:
    from ..embeddings.sampler import NegativeSampler

__all__ = ["negative_sampling_loss"]

# How often at most a negative is drawn, where it may not be the target; 0: it may.
ATTEMPTS = {"keep": 0, "skip": 1, "redraw": 16}


def negative_sampling_loss(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    target: Tensor,
    negatives: Tensor | NegativeSampler,
    *,
    num_negatives: int | None = None,
    padding_idx: int | None = None,
    mode: str = "mean",
    weight: Tensor | None = None,
    positive_weight: float = 1.0,
    collision: str = "skip",
    reduction: str = "mean",
    sparse: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Negative sampling: a logistic loss of each pair against the same centre with sampled classes.

    h[b]    = in_weight[center[b]], or the mean or sum of in_weight over a bag of centres (CBOW)
    loss[b] = weight[b] * (positive_weight * softplus(-h[b] . out_weight[target[b]])
                           + sum_k softplus(h[b] . out_weight[negatives[b,k]]))

    Args:
        in_weight, out_weight: [U, D] and [V, D], fp16, bf16, fp32 or fp64; they may be one tensor. Scores, losses and
            sums are fp32 for 16 bits, and a row's gradient is rounded once.
        center: int32 or int64 [B], or bags [B, W]. In all ids, -1 stands for none: a member of a bag or a negative that
            is none is left out, and so is a pair without centre or target: loss and gradient 0.
        target: int [B].
        negatives: int [B, K], or a `seqops.embeddings.NegativeSampler`, from which K = num_negatives are drawn a pair,
            in the kernel, with a seed from `generator`.
        padding_idx: an id that is none, in all ids; one that is drawn is treated as `collision` says.
        mode: "mean" or "sum", of a bag.
        weight: [B], of a pair, in fp32, fp64 or the tables' dtype; differentiable.
        positive_weight: of the target's term: gBCE has its beta here.
        collision: what happens to a negative that is the target: "skip" leaves it out, "redraw" draws up to 15 times
            again, then leaves it out, "keep" keeps it.
        reduction: "none", "sum", or "mean" over the pairs that are not left out.
        sparse: gradients as coalesced sparse COO tensors, of the rows that occur, to count which the host waits for a
            GPU; not inside torch.compile.

    Returns:
        [B] where reduction is "none", else a scalar; fp32, or fp64 where the tables are. Gradients repeat to the bit.

    Raises:
        ValueError: a shape, a device or an option does not fit; on a CPU, an id is out of range. On a GPU, where to
            look would make the host wait, what is out of range is left out. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative.

    Source: Mikolov et al. 2013, arXiv:1310.4546. gBCE: Petrov and Macdonald 2023, arXiv:2308.07192.
    """
    op = "negative_sampling_loss"
    p = pairs(op, in_weight, center, target, weight, padding_idx, mode, reduction, sparse)
    check_shape(op, "out_weight", out_weight, ("V", in_weight.shape[1]))
    check_dtypes(op, in_weight=in_weight, out_weight=out_weight)
    V, B = out_weight.shape[0], target.shape[0]
    if collision not in ATTEMPTS:
        raise ValueError(f"{op}: collision must be one of 'skip', 'redraw', 'keep', got {collision!r}")
    table: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
    num_negatives = check_negatives(op, negatives, num_negatives, in_weight, V, B)
    if isinstance(negatives, Tensor):
        if collision == "redraw":
            raise ValueError(f"{op}: collision must be 'skip' or 'keep' where the negatives are given, got 'redraw'")
        given = negatives
    else:
        table = (negatives.threshold, negatives.alias, draw_seed(in_weight.device, generator))
        given = None
    loss, _, _ = negative_sampling_fwd(
        p.source,
        p.index,
        out_weight,
        p.target,
        given,
        *table,
        num_negatives,
        ATTEMPTS[collision],
        -1 if padding_idx is None else padding_idx,
        float(positive_weight),
        sparse,
    )
    return reduce(loss, p.present, weight, reduction)


class NegativeSamplingLoss(torch.autograd.Function):
    """Saves the tables, and of each pair the rows and the slopes of the loss in their scores."""

    @staticmethod
    def forward(
        ctx: Any, source: Tensor, index: Tensor | None, weight: Tensor, target: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss, slopes, rows = negative_sampling_fwd(source, index, weight, target, *rest)
        ctx.sparse = rest[-1]
        ctx.mark_non_differentiable(slopes, rows)
        ctx.save_for_backward(source, index, weight, slopes, rows)
        return loss, slopes, rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dsource, dweight = logistic_backward(ctx, *grads)
        return dsource, None, dweight, *(None,) * 10


def _fwd_fake(
    source: Tensor,
    index: Tensor | None,
    weight: Tensor,
    target: Tensor,
    negatives: Tensor | None,
    threshold: Tensor | None,
    alias: Tensor | None,
    seed: Tensor | None,
    num_negatives: int,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    B, R, dtype = target.shape[0], 1 + num_negatives, compute_dtype(weight.dtype)
    slopes = weight.new_empty(B, R, dtype=dtype)
    return weight.new_empty(B, dtype=dtype), slopes, slopes.new_empty(B, R, dtype=torch.int32)


# target [B], -1: the pair is left out. negatives [B,K], or a sampler's table and a seed. Gives loss [B], and for each
# pair, the target first, slopes [B,1+K], the loss's in the scores, and rows [B,1+K] int32, -1 where left out.
negative_sampling_fwd = register(
    "negative_sampling_fwd(Tensor source, Tensor? index, Tensor weight, Tensor target, Tensor? negatives, "
    "Tensor? threshold, Tensor? alias, Tensor? seed, SymInt num_negatives, int attempts, int padding_idx, "
    "float positive_weight, bool sparse) -> (Tensor, Tensor slopes, Tensor rows)",
    "logistic",
    _fwd_fake,
    kernel_takes,
    NegativeSamplingLoss,
)
