"""Beam top-k: the public function, its autograd Function and its registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._autograd import once_differentiable
from ._checks import check_device, check_dtypes, check_shape
from ._register import register

__all__ = ["BeamTopK", "beam_topk"]


class BeamTopK(NamedTuple):
    """The best k continuations of each item's beams, best first."""

    scores: Tensor
    parents: Tensor
    tokens: Tensor


def beam_topk(logits: Tensor, scores: Tensor, k: int) -> BeamTopK:
    """The best k continuations over all beams of an item: one step of beam search.

    value[b,i,v] = scores[b,i] + log_softmax(logits[b,i])[v]

    The order is that of a stable descending sort of value[b].flatten(): higher value first, then lower i, then lower v.
    NaN ranks first, as in torch.sort, and is returned, so that bad input shows. A logit of -inf has the value -inf, and
    so has every token of a row that is all -inf; such candidates come last.

    Args:
        logits: [B, beam, V], fp16, bf16, fp32 or fp64, any strides.
        scores: [B, beam], the beams' log-probabilities so far: fp32, or fp64 where logits are; -inf: an empty beam;
            never +inf.
        k: 1..beam*V.

    Returns:
        BeamTopK: scores [B, k] in the dtype of `scores`; parents [B, k] int64, the beam i; tokens [B, k] int64, v.
        Sums are fp32, or fp64 where logits are. `scores` is differentiable in both arguments.

    Raises:
        ValueError: a shape, a device or k does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative.

    Source: torch.log_softmax, then torch.sort(stable=True, descending=True).
    """
    check_shape("beam_topk", "logits", logits, ("B", "beam", "V"))
    check_dtypes("beam_topk", logits=logits)
    B, beam, V = logits.shape
    check_shape("beam_topk", "scores", scores, (B, beam))
    wanted = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if scores.dtype != wanted:
        raise TypeError(f"beam_topk: scores must be {wanted} with logits in {logits.dtype}, got {scores.dtype}")
    check_device("beam_topk", "scores", scores, "logits", logits)
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"beam_topk: k must be an int, got {type(k).__name__}")
    if not 1 <= k <= beam * V:
        raise ValueError(f"beam_topk: k must lie in 1..{beam * V}, the beam*V of logits {list(logits.shape)}, got {k}")
    best, parents, tokens, _ = torch.ops.seqops.beam_topk_fwd(logits, scores, k)
    return BeamTopK(best, parents, tokens)


class BeamTopKFunction(torch.autograd.Function):
    """Saves the logits and each row's normalizer: backward rebuilds the softmax from them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        best, parents, tokens, normalizer = torch.ops.seqops.beam_topk_fwd(logits, scores, k)
        ctx.beam = logits.shape[1]
        ctx.mark_non_differentiable(parents, tokens, normalizer)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(parents, logits, normalizer, tokens)
        else:
            ctx.save_for_backward(parents)
        return best, parents, tokens, normalizer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, saved: Sequence[Tensor], grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        parents, *rest = saved
        need_logits, need_scores, _ = ctx.needs_input_grad
        dlogits = dscores = None
        if need_scores:
            # A sum over the k in fixed order: scatter_add would add them on a GPU in any.
            own = parents[:, None, :] == torch.arange(ctx.beam, device=parents.device)[:, None]
            dscores = torch.where(own, grad[:, None, :], 0.0).sum(-1)
        if need_logits:
            logits, normalizer, tokens = rest
            dlogits = torch.ops.seqops.beam_topk_bwd(grad, logits, normalizer, parents, tokens)
        return dlogits, dscores, None


def _fwd_fake(logits: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, beam = scores.shape
    indices = scores.new_empty(B, k, dtype=torch.int64)
    return scores.new_empty(B, k), indices, torch.empty_like(indices), scores.new_empty(B, beam, 2)


def _bwd_fake(grad: Tensor, logits: Tensor, normalizer: Tensor, parents: Tensor, tokens: Tensor) -> Tensor:
    return logits.new_empty(logits.shape)


def _kernel_takes(logits: Tensor, k: int) -> bool:
    """The kernels hold k in registers and count an item's candidates, and chunks of them, in 32 bits."""
    _, beam, V = logits.shape
    return logits.dtype != torch.float64 and k <= 64 and beam * (V // 128 + 1) <= 2**20


# normalizer [B,beam,2]: the row's maximum m and log(sum(exp(logits - m))), apart, for a large m would swallow the log's
# digits; (0, inf) where the row is all -inf, so that (logits - m) - log is the value there too.
register(
    "beam_topk_fwd(Tensor logits, Tensor scores, int k) -> (Tensor, Tensor, Tensor, Tensor normalizer)",
    "beam_topk",
    _fwd_fake,
    lambda logits, scores, k: _kernel_takes(logits, k),
    BeamTopKFunction,
)
register(
    "beam_topk_bwd(Tensor grad, Tensor logits, Tensor normalizer, Tensor parents, Tensor tokens) -> Tensor",
    "beam_topk",
    _bwd_fake,
    lambda grad, logits, normalizer, parents, tokens: _kernel_takes(logits, grad.shape[1]),
)
