"""What the logistic losses over gathered rows share: their pairs, their gradients, their reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..cpu._dtypes import compute_dtype
from ._autograd import once_differentiable
from ._checks import check_device, check_dtypes, check_shape
from ._rows import check_ids, check_sparse, row_sums, score_gradients

if TYPE_CHECKING:
    from ..embeddings.sampler import NegativeSampler

__all__ = ["Pairs", "check_negatives", "logistic_backward", "pairs", "reduce"]


class Pairs:
    """The pairs of a loss: item b is row index[b] of `source`, or row b where there is no index.

    target [B] is -1 where the pair is left out, which `present` says too.
    """

    def __init__(self, source: Tensor, index: Tensor | None, target: Tensor, present: Tensor) -> None:
        self.source, self.index, self.target, self.present = source, index, target, present


def pairs(
    op: str,
    in_weight: Tensor,
    center: Tensor,
    target: Tensor,
    weight: Tensor | None,
    padding_idx: int | None,
    mode: str,
    reduction: str,
    sparse: bool,
) -> Pairs:
    """Checks what the losses have in common; of bags the means or sums of their rows are the source."""
    check_shape(op, "in_weight", in_weight, ("V", "D"))
    check_dtypes(op, in_weight=in_weight)
    check_sparse(op, sparse)
    for name, given, allowed in (("mode", mode, ("mean", "sum")), ("reduction", reduction, ("none", "mean", "sum"))):
        if given not in allowed:
            raise ValueError(f"{op}: {name} must be one of {', '.join(map(repr, allowed))}, got {given!r}")
    if not isinstance(center, Tensor):
        raise TypeError(f"{op}: center must be a Tensor, got {type(center).__name__}")
    bags = center.dim() == 2
    check_ids(op, "center", center, ("B", "W") if bags else ("B",), "in_weight", in_weight)
    B = center.shape[0]
    check_ids(op, "target", target, (B,), "in_weight", in_weight)
    if weight is not None:
        check_shape(op, "weight", weight, (B,))
        check_device(op, "weight", weight, "in_weight", in_weight)
        if weight.dtype not in (in_weight.dtype, compute_dtype(in_weight.dtype)):
            raise TypeError(f"{op}: weight must be {compute_dtype(in_weight.dtype)}, got {weight.dtype}")
    if padding_idx is not None:
        center = torch.where(center == padding_idx, -1, center)
        target = torch.where(target == padding_idx, -1, target)
    member = center >= 0
    # Of a pair without centre too a target that is out of range stays what it is, and is found.
    target = torch.where(member.any(1) if bags else member, target, target.clamp(max=-1))
    present = target >= 0
    if not bags:
        return Pairs(in_weight, center, target, present)
    coefficients = member.to(compute_dtype(in_weight.dtype))
    if mode == "mean":
        coefficients = coefficients / coefficients.sum(1, keepdim=True).clamp(min=1)
    return Pairs(row_sums(in_weight, center, coefficients, sparse=sparse), None, target, present)


def check_negatives(
    op: str, negatives: Tensor | NegativeSampler, num_negatives: int | None, in_weight: Tensor, V: int, B: int
) -> int:
    """How many there are a pair, given or to be drawn."""
    from ..embeddings.sampler import NegativeSampler

    if isinstance(negatives, NegativeSampler):
        if num_negatives is None or num_negatives < 0:
            raise ValueError(f"{op}: num_negatives must be at least 0 with a sampler, got {num_negatives}")
        if negatives.num_classes != V:
            raise ValueError(f"{op}: negatives must sample from {V} classes, got {negatives.num_classes}")
        check_device(op, "negatives", negatives.threshold, "in_weight", in_weight)
        return num_negatives
    if not isinstance(negatives, Tensor):
        raise TypeError(f"{op}: negatives must be a Tensor or a NegativeSampler, got {type(negatives).__name__}")
    check_ids(op, "negatives", negatives, (B, "K" if num_negatives is None else num_negatives), "in_weight", in_weight)
    return negatives.shape[1]


def reduce(loss: Tensor, present: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is not None:
        loss = torch.where(present, loss * weight, 0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / present.sum()


@once_differentiable
def logistic_backward(ctx: Any, saved: Sequence[Tensor], dloss: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of source and weight from those of the pairs' losses."""
    source, index, weight, slopes, rows = saved
    need_source, _, need_weight, *_ = ctx.needs_input_grad
    scored = source, index, weight, rows
    return score_gradients(scored, slopes * dloss[:, None], (need_source, need_weight), ctx.sparse)
