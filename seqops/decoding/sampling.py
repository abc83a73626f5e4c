"""The next token of a language model: the most probable ones, or one drawn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops._checks import check_dtypes
from ..ops.beam_topk import beam_topk
from .hypotheses import NEVER, log_softmax

__all__ = ["Sample", "TopKLogProbs", "sample", "topk_logprobs"]


class TopKLogProbs(NamedTuple):
    """The k most probable tokens [..., k], most probable first, and their log-probabilities."""

    log_probs: Tensor
    tokens: Tensor


class Sample(NamedTuple):
    """One token drawn from each row [...], and its log-probability before any was left out."""

    tokens: Tensor
    log_probs: Tensor


def topk_logprobs(logits: Tensor, k: int, *, mask: Tensor | None = None, temperature: float = 1.0) -> TopKLogProbs:
    """log_softmax(logits / temperature) at its k largest, in one read of the logits; ties to the lowest index.

    Args:
        logits: [..., V], fp16, bf16, fp32 or fp64.
        k: 1..V.
        mask: bool [V], or of the logits' shape, True where a token may come. What may not still counts in the softmax.
        temperature: above 0.

    Returns:
        TopKLogProbs: log_probs [..., k], fp32, or fp64 where logits are, differentiable in logits; tokens [..., k]
        int64. -inf, NaN: as in `beam_topk`.

    Raises:
        ValueError: a shape, k or the temperature does not fit. TypeError: a dtype does not fit.
    """
    _check_logits("topk_logprobs", logits)
    *shape, V = logits.shape
    if not isinstance(k, bool) and isinstance(k, int) and not 1 <= k <= V:
        raise ValueError(f"topk_logprobs: k must lie in 1..{V}, got {k}")
    if mask is not None and mask.dim() != 1:
        if mask.shape != logits.shape:
            raise ValueError(
                f"topk_logprobs: mask must have shape [{V}] or {list(logits.shape)}, got {list(mask.shape)}"
            )
        mask = mask.reshape(-1, 1, V)
    rows = logits.reshape(-1, 1, V)
    zeros = torch.zeros(len(rows), 1, dtype=torch.promote_types(logits.dtype, torch.float32), device=logits.device)
    best = beam_topk(rows, zeros, k, mask=mask, temperature=temperature)
    return TopKLogProbs(best.scores.view(*shape, k), best.tokens.view(*shape, k))


@torch.no_grad()
def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Sample:
    """One token drawn from each row of softmax(logits / temperature), of which the improbable can be left out.

    top_k keeps the k most probable; of these, renormalized, top_p keeps the fewest most probable that come to p.
    The host does not wait for a GPU.

    Args:
        logits: [..., V], fp16, bf16, fp32 or fp64. A token at -inf is never drawn; from a row that is all -inf token 0
            is, with the log-probability -inf, and from one with NaN any, with NaN.
        temperature: above 0.
        top_k: 1 or more; V or more keeps all.
        top_p: above 0, at most 1.
        generator: of the logits' device; unless given torch's own.

    Returns:
        Sample: tokens [...] int64; log_probs [...], fp32, or fp64 where logits are.

    Raises:
        ValueError: a shape, temperature, top_k or top_p does not fit. TypeError: a dtype does not fit.

    Source: Holtzman et al. 2020, arXiv:1904.09751 (top_p); Fan et al. 2018, arXiv:1805.04833 (top_k).
    """
    _check_logits("sample", logits)
    V = logits.shape[-1]
    if not 0 < temperature < float("inf"):
        raise ValueError(f"sample: temperature must be above 0 and finite, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"sample: top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"sample: top_p must lie in (0, 1], got {top_p}")
    tokens = None
    if top_k is not None and top_k < V:
        log_p, tokens = topk_logprobs(logits, top_k, temperature=temperature)
    else:
        wide = torch.promote_types(logits.dtype, torch.float32)
        log_p = log_softmax(logits.to(wide) / temperature)
        if top_p is not None and top_p < 1:
            log_p, tokens = log_p.sort(dim=-1, descending=True, stable=True)
    kept = log_p
    if top_p is not None and top_p < 1:
        p = torch.softmax(log_p, -1)
        # Kept is what those before it have left short of p: the first always.
        kept = log_p.masked_fill(p.cumsum(-1) - p >= top_p, NEVER)
    # Of exponential clocks with rates p the first to ring is drawn with probability p.
    clocks = torch.empty_like(kept).exponential_(generator=generator)
    place = (kept - clocks.clamp_(min=torch.finfo(kept.dtype).tiny).log_()).argmax(-1, keepdim=True)
    log_probs = log_p.gather(-1, place).squeeze(-1)
    return Sample((place if tokens is None else tokens.gather(-1, place)).squeeze(-1), log_probs)


def _check_logits(op: str, logits: Tensor) -> None:
    check_dtypes(op, logits=logits)
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{op}: logits must have shape [..., V] with a V of at least 1, got {list(logits.shape)}")
