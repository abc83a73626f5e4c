"""Beam top-k in plain torch: the rows' normalizers in blocks that fit the cache, then only the best chunks again."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

__all__ = ["beam_topk_bwd", "beam_topk_fwd", "best_of_chunks"]

CHUNK = 64
# 4 MB of fp32: a block's log-softmax is written and read again within the cache.
BLOCK_ELEMENTS = 2**20
# Up to so many logits all values are built at once.
DIRECT = 2**19
FEW = 64


def _normalizer(row_max: Tensor, log_p_max: Tensor) -> Tensor:
    """[...,2] as in `seqops.ops.beam_topk`: at its maximum a row's log-softmax is minus the log of the sum."""
    dead = row_max == float("-inf")
    return torch.stack((row_max.masked_fill(dead, 0.0), (-log_p_max).masked_fill(dead, float("inf"))), -1)


def _normalizer_and_chunk_max(
    logits: Tensor, mask: Tensor | None, inverse_temperature: float, normalized: bool
) -> tuple[Tensor, Tensor]:
    """logits [R,V]: the normalizer [R,2], and the chunks' maxima [R,n], in which a row's last chunk may be shorter."""
    R, V = logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    full, n = V // CHUNK, -(-V // CHUNK)
    chunk_max = logits.new_empty(R, n, dtype=dtype)
    row_max, log_p_max = (logits.new_empty(R, dtype=dtype) for _ in range(2))
    rows = max(1, BLOCK_ELEMENTS // V) if logits.device.type == "cpu" else max(R, 1)
    log_p = logits.new_empty(0 if normalized else min(rows, R), V, dtype=dtype)
    for r in range(0, R, rows):
        x = logits[r : r + rows].to(dtype)
        if inverse_temperature != 1:
            x = x * inverse_temperature
        if not normalized:
            block = torch.log_softmax(x, -1, out=log_p[: x.shape[0]])
            torch.amax(block, -1, out=log_p_max[r : r + rows])
        if mask is not None:
            if not normalized:
                torch.amax(x, -1, out=row_max[r : r + rows])
            x = torch.where(mask[r : r + rows], x, float("-inf"))
        if full:
            torch.amax(x[:, : full * CHUNK].unflatten(1, (full, CHUNK)), -1, out=chunk_max[r : r + rows, :full])
        if full < n:
            torch.amax(x[:, full * CHUNK :], -1, out=chunk_max[r : r + rows, full])
    if normalized:
        return chunk_max.new_zeros(R, 2), chunk_max
    return _normalizer(chunk_max.amax(-1) if mask is None else row_max, log_p_max), chunk_max


def _first(values: Tensor, k: int, valid: Tensor | None = None) -> Tensor:
    """The k positions [B,k] that a stable descending sort of values [B,N] puts first, lowest position first.

    The k-th value splits the row; of those that equal it the lowest positions fill up. Positions that are not `valid`
    hold -inf, and at least k are.
    """
    N = values.shape[1]
    if k == N:
        return torch.arange(N, device=values.device).expand(values.shape[0], N)
    if values.device.type == "cpu":
        # Without a tie at the k-th place topk is exact; false for NaN.
        top, positions = values.topk(k + 1)
        if bool((top[:, k - 1] > top[:, k]).all()):
            return positions[:, :k].sort(1).values
    values = torch.where(values.isnan(), float("inf"), values)
    kth = values.topk(k).values[:, -1:]
    above, level = values > kth, values == kth
    if valid is not None:
        level &= valid
    chosen = above | (level & (level.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)))
    if values.device.type == "cpu":
        return chosen.nonzero()[:, 1].view(-1, k)
    # nonzero would make the host wait for the GPU.
    return torch.where(chosen, torch.arange(N, 0, -1, device=values.device), 0).topk(k).indices


def _distinct_topk(values: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """The best k and their positions if they differ from one another and the next: then there is but one order."""
    if k == values.shape[1]:
        return None
    top, positions = values.topk(k + 1)
    # False for NaN. A few numbers are compared faster in Python.
    if top.numel() <= FEW:
        distinct = all(a > b for row in top.tolist() for a, b in itertools.pairwise(row))
    else:
        distinct = bool((top[:, :k] > top[:, 1:]).all())
    if not distinct:
        return None
    return top[:, :k].contiguous(), positions[:, :k]


def _stable_topk(values: Tensor, k: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The first k of a stable descending sort of values [B,N], and their positions."""
    found = _distinct_topk(values, k) if values.device.type == "cpu" else None
    if found is not None:
        return found
    if valid is None and k == values.shape[1]:
        return values.sort(dim=1, descending=True, stable=True)
    first = _first(values, k, valid)
    best, order = values.gather(1, first).sort(dim=1, descending=True, stable=True)
    return best, first.gather(1, order)


def _value(x: Tensor, normalizer: Tensor, scores: Tensor) -> Tensor:
    """One expression for chunk maxima and elements: rounded alike, a chunk's maximum has its best element's value."""
    return (x - normalizer[..., 0]).sub_(normalizer[..., 1]).add_(scores)


def beam_topk_fwd(
    logits: Tensor,
    scores: Tensor,
    k: int,
    mask: Tensor | None,
    inverse_temperature: float,
    normalized: bool,
    need_normalizer: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.beam_topk`. The normalizer is anything where it is not needed."""
    B, beam, V = logits.shape
    if logits.numel() <= DIRECT or beam * V <= 4 * k * CHUNK:
        return _direct(logits, scores, k, mask, inverse_temperature, normalized, need_normalizer)
    rows_mask = None if mask is None else mask.reshape(B * beam, V)
    normalizer, chunk_max = _normalizer_and_chunk_max(
        logits.reshape(B * beam, V), rows_mask, inverse_temperature, normalized
    )
    normalizer = normalizer.view(B, beam, 2)
    best, parents, tokens = best_of_chunks(
        logits, scores, k, mask, inverse_temperature, normalizer, chunk_max.view(B, beam, -1), CHUNK
    )
    return best, parents, tokens, normalizer


def _direct(
    logits: Tensor,
    scores: Tensor,
    k: int,
    mask: Tensor | None,
    inverse_temperature: float,
    normalized: bool,
    need_normalizer: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All values at once."""
    V = logits.shape[2]
    normalizer = scores
    if normalized:
        values = logits + scores[:, :, None]
        if need_normalizer:
            normalizer = scores.new_zeros(*scores.shape, 2)
    else:
        x = logits if inverse_temperature == 1 else logits.to(scores.dtype) * inverse_temperature
        log_p = torch.log_softmax(x, -1, dtype=scores.dtype)
        if need_normalizer:
            normalizer = _normalizer(x.amax(-1).to(scores.dtype), log_p.amax(-1))
        values = log_p.add_(scores[:, :, None])
    if mask is not None:
        values = values.masked_fill_(~mask, float("-inf"))
    on_cpu, values = logits.device.type == "cpu", values.flatten(1)
    found = _distinct_topk(values, k) if on_cpu else None
    if found is None:
        if not normalized:
            # log_softmax makes NaN of a row that is all -inf, and NaN is never distinct.
            dead = logits.amax(-1, keepdim=True) == float("-inf")
            values = values.view(logits.shape).masked_fill(dead, float("-inf")).flatten(1)
        found = _stable_topk(values, k)
    best, flat = found
    return best, flat // V, flat % V, normalizer


def best_of_chunks(
    logits: Tensor,
    scores: Tensor,
    k: int,
    mask: Tensor | None,
    inverse_temperature: float,
    normalizer: Tensor,
    chunk_max: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best k, given the normalizer [B,beam,2] and the maxima [B,beam,n] of chunks of `chunk` logits.

    The best k elements lie in the best k chunks, where a chunk's key is its maximum's value and of equal chunks the
    first is best: each chunk that is better than an element's own holds an element better than it.
    """
    V, n = logits.shape[2], chunk_max.shape[2]
    keys = _value(chunk_max, normalizer[:, :, None], scores[:, :, None]).flatten(1)
    chunks = _first(keys, min(k, keys.shape[1]))
    parents = chunks // n
    tokens = (chunks - parents * n)[:, :, None] * chunk + torch.arange(chunk, device=logits.device)
    valid = tokens < V
    items = torch.arange(len(logits), device=logits.device)[:, None]
    places = (items[:, :, None], parents[:, :, None], tokens.clamp(max=V - 1))
    x = logits[places].to(scores.dtype)
    if inverse_temperature != 1:
        x = x * inverse_temperature
    values = _value(x, normalizer[items, parents][:, :, None], scores.gather(1, parents)[:, :, None])
    values = torch.where(valid if mask is None else valid & mask[places], values, float("-inf")).flatten(1)
    best, first = _stable_topk(values, k, valid.flatten(1))
    return best, parents.gather(1, first // chunk), tokens.flatten(1).gather(1, first)


def beam_topk_bwd(
    grad: Tensor, logits: Tensor, normalizer: Tensor, parents: Tensor, tokens: Tensor, inverse_temperature: float
) -> Tensor:
    """See `seqops.ops.beam_topk`: grad at the chosen, minus the softmax times the sum of grad over the row's chosen."""
    _, beam, V = logits.shape
    # A row that is all -inf has no gradient.
    grad = torch.where((normalizer[..., 1] == float("inf")).gather(1, parents), 0.0, grad)
    own = parents[:, None, :] == torch.arange(beam, device=parents.device)[:, None]
    total = torch.where(own, grad[:, None, :], 0.0).sum(-1)
    x = logits if inverse_temperature == 1 else logits.to(grad.dtype) * inverse_temperature
    dlogits = _value(x, normalizer[:, :, None], total.new_zeros(())).exp_().mul_(-total[:, :, None]).flatten(1)
    # No candidate is chosen twice.
    chosen = parents * V + tokens
    dlogits.scatter_(1, chosen, dlogits.gather(1, chosen) + grad)
    if inverse_temperature != 1:
        dlogits *= inverse_temperature
    return dlogits.view(logits.shape).to(logits.dtype)
