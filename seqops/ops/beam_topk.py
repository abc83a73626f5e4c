"""Beam top-k: the public function, its autograd Function and its registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cpu import beam_topk as on_cpu
from ._autograd import once_differentiable
from ._checks import check_device, check_dtypes, check_shape
from ._register import calls_directly, register

__all__ = ["BeamTopK", "beam_topk"]


class BeamTopK(NamedTuple):
    """The best k continuations of each item's beams, best first."""

    scores: Tensor
    parents: Tensor
    tokens: Tensor

    @property
    def valid(self) -> Tensor:
        """How many of an item's k [B] are possible, not -inf; they come first."""
        return (self.scores != float("-inf")).sum(1)


def beam_topk(
    logits: Tensor,
    scores: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    normalized: bool = False,
) -> BeamTopK:
    """The best k continuations over all beams of an item: one step of beam search.

    value[b,i,v] = scores[b,i] + log_softmax(logits[b,i] / temperature)[v], -inf where `mask` is False

    The order is that of a stable descending sort of value[b].flatten(): higher value first, then lower i, then lower v.
    NaN ranks first, as in torch.sort, and is returned, so that bad input shows; a NaN logit makes its row NaN, or only
    itself where rows are `normalized`. A logit of -inf has the value -inf, and so has every token of a row that is all
    -inf; such candidates come last, and `valid` of the result counts the others.

    Args:
        logits: [B, beam, V], fp16, bf16, fp32 or fp64, any strides.
        scores: [B, beam], the beams' log-probabilities so far: fp32, or fp64 where logits are; -inf: an empty beam;
            never +inf.
        k: 1..beam*V.
        mask: bool [V], [B, V] or [B, beam, V], True where a token may come. What may not still counts in the softmax:
            a mask changes no other token's value.
        temperature: above 0.
        normalized: the logits are log-probabilities already, or any other values: no softmax is taken of them.

    Returns:
        BeamTopK: scores [B, k] in the dtype of `scores`; parents [B, k] int64, the beam i; tokens [B, k] int64, v.
        Sums are fp32, or fp64 where logits are. `scores` is differentiable in logits and scores.

    Raises:
        ValueError: a shape, a device, k or the temperature does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative.

    Source: torch.log_softmax, then torch.sort(stable=True, descending=True).
    """
    direct = calls_directly(logits, scores)
    if not (direct and _are_usual(logits, scores, k)):
        _check(logits, scores, k)
    if not 0 < temperature < float("inf"):
        raise ValueError(f"beam_topk: temperature must be above 0 and finite, got {temperature}")
    if normalized and temperature != 1:
        raise ValueError(f"beam_topk: normalized logits have no temperature, got {temperature}")
    if mask is not None:
        mask = _check_mask(mask, logits)
    if direct and not ((logits.requires_grad or scores.requires_grad) and torch.is_grad_enabled()):
        found = on_cpu.beam_topk_fwd(logits, scores, k, mask, 1.0 / temperature, normalized, False)
    else:
        found = torch.ops.seqops.beam_topk_fwd(logits, scores, k, mask, 1.0 / temperature, normalized)
    return BeamTopK(*found[:3])


def _are_usual(logits: Tensor, scores: Tensor, k: int) -> bool:
    """Whether `_check` has nothing to find, at a glance: a small problem's work takes no longer than all of it."""
    shape = logits.shape
    return (
        len(shape) == 3
        and scores.shape == shape[:2]
        and logits.dtype == scores.dtype == torch.float32
        and type(k) is int
        and 1 <= k <= shape[1] * shape[2]
    )


def _check(logits: Tensor, scores: Tensor, k: int) -> None:
    check_shape("beam_topk", "logits", logits, ("B", "beam", "V"))
    B, beam, V = logits.shape
    check_shape("beam_topk", "scores", scores, (B, beam))
    check_dtypes("beam_topk", logits=logits)
    wanted = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if scores.dtype != wanted:
        raise TypeError(f"beam_topk: scores must be {wanted} with logits in {logits.dtype}, got {scores.dtype}")
    check_device("beam_topk", "scores", scores, "logits", logits)
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"beam_topk: k must be an int, got {type(k).__name__}")
    if not 1 <= k <= beam * V:
        raise ValueError(f"beam_topk: k must lie in 1..{beam * V}, the beam*V of logits {list(logits.shape)}, got {k}")


def _check_mask(mask: Tensor, logits: Tensor) -> Tensor:
    """The mask as [B,beam,V], a view."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"beam_topk: mask must be a Tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"beam_topk: mask must be bool, got {mask.dtype}")
    B, beam, V = logits.shape
    if tuple(mask.shape) not in ((V,), (B, V), (B, beam, V)):
        shapes = f"[{V}], [{B}, {V}] or [{B}, {beam}, {V}]"
        raise ValueError(f"beam_topk: mask must have shape {shapes}, got {list(mask.shape)}")
    check_device("beam_topk", "mask", mask, "logits", logits)
    return (mask[:, None] if mask.dim() == 2 else mask).expand(B, beam, V)


class BeamTopKFunction(torch.autograd.Function):
    """Saves the logits and each row's normalizer: backward rebuilds the softmax from them."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        scores: Tensor,
        k: int,
        mask: Tensor | None,
        inverse_temperature: float,
        normalized: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        best, parents, tokens, normalizer = torch.ops.seqops.beam_topk_fwd(
            logits, scores, k, mask, inverse_temperature, normalized
        )
        ctx.shape, ctx.dtype, ctx.inverse_temperature = logits.shape, logits.dtype, inverse_temperature
        ctx.mark_non_differentiable(parents, tokens, normalizer)
        chosen = None if mask is None else mask.flatten(1).gather(1, parents * logits.shape[2] + tokens)
        if not ctx.needs_input_grad[0]:
            ctx.save_for_backward(parents, chosen, None, None, None)
        elif normalized:
            ctx.save_for_backward(parents, chosen, tokens, None, None)
        else:
            ctx.save_for_backward(parents, chosen, tokens, logits, normalizer)
        return best, parents, tokens, normalizer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, saved: Sequence[Tensor], grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        parents, chosen, tokens, logits, normalizer = saved
        need_logits, need_scores, *_ = ctx.needs_input_grad
        B, beam, V = ctx.shape
        if chosen is not None:
            # What the mask has made -inf depends on nothing.
            grad = torch.where(chosen, grad, 0.0)
        dlogits = dscores = None
        if need_scores:
            # A sum over the k in fixed order: scatter_add would add them on a GPU in any.
            own = parents[:, None, :] == torch.arange(beam, device=parents.device)[:, None]
            dscores = torch.where(own, grad[:, None, :], 0.0).sum(-1)
        if need_logits and logits is None:
            dlogits = grad.new_zeros(B, beam * V).scatter_(1, parents * V + tokens, grad).view(B, beam, V).to(ctx.dtype)
        elif need_logits:
            dlogits = torch.ops.seqops.beam_topk_bwd(grad, logits, normalizer, parents, tokens, ctx.inverse_temperature)
        return dlogits, dscores, None, None, None, None


def _fwd_fake(
    logits: Tensor, scores: Tensor, k: int, mask: Tensor | None, inverse_temperature: float, normalized: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, beam = scores.shape
    indices = scores.new_empty(B, k, dtype=torch.int64)
    return scores.new_empty(B, k), indices, torch.empty_like(indices), scores.new_empty(B, beam, 2)


def _bwd_fake(
    grad: Tensor, logits: Tensor, normalizer: Tensor, parents: Tensor, tokens: Tensor, inverse_temperature: float
) -> Tensor:
    return logits.new_empty(logits.shape)


def _kernel_takes(logits: Tensor, k: int) -> bool:
    """The kernels count an item's candidates, and chunks of them, in 32 bits."""
    _, beam, V = logits.shape
    return logits.dtype != torch.float64 and k <= 1024 and beam * (V // 128 + 1) <= 2**20


# mask is bool [B,beam,V], of any strides. normalizer [B,beam,2]: the row's maximum m and log(sum(exp(logits - m))), of
# the logits after the temperature; apart, for a large m would swallow the log's digits; (0, inf) where the row is all
# -inf, so that (logits - m) - log is the value there too; (0, 0) where the logits are normalized.
register(
    "beam_topk_fwd(Tensor logits, Tensor scores, int k, Tensor? mask, float inverse_temperature, bool normalized) "
    "-> (Tensor, Tensor, Tensor, Tensor normalizer)",
    "beam_topk",
    _fwd_fake,
    lambda logits, scores, k, *_: _kernel_takes(logits, k),
    BeamTopKFunction,
)
register(
    "beam_topk_bwd(Tensor grad, Tensor logits, Tensor normalizer, Tensor parents, Tensor tokens, "
    "float inverse_temperature) -> Tensor",
    "beam_topk",
    _bwd_fake,
    lambda grad, logits, *_: _kernel_takes(logits, grad.shape[1]),
)
