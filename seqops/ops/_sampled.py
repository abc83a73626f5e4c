"""What the losses over a target and sampled classes share: candidates, their scores, how likely each was drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..cpu._dtypes import compute_dtype
from ..cpu.rows import check_range
from ._checks import check_device, check_dtypes, check_shape
from ._logistic import check_negatives, pairs
from ._rows import gather, row_scores

if TYPE_CHECKING:
    from ..embeddings.sampler import NegativeSampler

__all__ = ["Candidates", "candidates"]


class Candidates:
    """scores [B,1+K], the target's first, and which of them there are; `present` [B] says which pairs there are.

    A score that is none is 0, and so are all of a pair that is left out.
    """

    def __init__(self, scores: Tensor, inside: Tensor, present: Tensor) -> None:
        self.scores, self.inside, self.present = scores, inside, present


def candidates(
    op: str,
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    target: Tensor,
    negatives: Tensor | NegativeSampler,
    bias: Tensor | None,
    num_negatives: int | None,
    padding_idx: int | None,
    mode: str,
    weight: Tensor | None,
    log_q: Tensor | None,
    corrected: bool,
    collision: str,
    reduction: str,
    sparse: bool,
    generator: torch.Generator | None,
) -> Candidates:
    """Checks and scores; `corrected`: less the logarithm of how often each class is expected among the draws."""
    p = pairs(op, in_weight, center, target, weight, padding_idx, mode, reduction, sparse)
    check_shape(op, "out_weight", out_weight, ("V", in_weight.shape[1]))
    V, B = out_weight.shape[0], target.shape[0]
    if bias is not None:
        check_shape(op, "bias", bias, (V,))
    check_dtypes(op, in_weight=in_weight, out_weight=out_weight, bias=bias)
    if collision not in ("skip", "keep"):
        raise ValueError(f"{op}: collision must be one of 'skip', 'keep', got {collision!r}")
    if log_q is not None:
        check_shape(op, "log_q", log_q, (V,))
        check_device(op, "log_q", log_q, "in_weight", in_weight)
        if not log_q.is_floating_point():
            raise TypeError(f"{op}: log_q must be floating, got {log_q.dtype}")
    K = check_negatives(op, negatives, num_negatives, in_weight, V, B)
    drawn = negatives if isinstance(negatives, Tensor) else negatives.sample((B, K), generator=generator)
    check_range(op, "center", center, in_weight.shape[0], low=-1)
    check_range(op, "target", target, V, low=-1)
    check_range(op, "negatives", drawn, V, low=-1)

    dtype = compute_dtype(in_weight.dtype)
    present = p.present & (p.target < V)
    if p.index is not None:
        present = present & (p.index < in_weight.shape[0])
    rows = torch.cat((p.target[:, None], drawn), 1)
    inside = present[:, None] & (rows >= 0) & (rows < V)
    if padding_idx is not None:
        inside = inside & (rows != padding_idx)
    if collision == "skip":
        own = torch.zeros_like(inside[:1])
        own[:, :1] = True
        inside = inside & (own | (rows != p.target[:, None]))
    rows = torch.where(inside, rows, -1)
    scores = row_scores(p.source, p.index, out_weight, rows, sparse=sparse)
    if bias is not None:
        scores = scores + gather(bias[:, None], rows.flatten()).view(rows.shape)
    if corrected:
        classes = torch.where(inside, rows, 0).long()
        if log_q is not None:
            chance: Any = log_q.detach()[classes] if V else log_q.new_zeros(rows.shape)
        elif not isinstance(negatives, Tensor):
            chance = negatives.log_prob(classes)
        else:
            raise ValueError(f"{op}: log_q must be given with negatives that are given, got None")
        expected = chance.to(dtype) + math.log(max(1, K))
        never = inside & (expected == -math.inf)
        if never.device.type == "cpu" and not torch.compiler.is_compiling() and bool(never.any()):
            raise ValueError(
                f"{op}: log_q must be finite for targets and negatives, got -inf for class {int(rows[never][0])}"
            )
        scores = scores - torch.where(inside, expected, 0)
    return Candidates(scores, inside, present)
