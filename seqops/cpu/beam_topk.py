"""Beam top-k in plain torch: the rows' normalizers in blocks that fit the cache, then only the best chunks again."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["beam_topk_bwd", "beam_topk_fwd"]

CHUNK = 64
# 4 MB of fp32: a block's log-softmax is written and read again within the cache.
BLOCK_ELEMENTS = 2**20
# Up to so many logits all values are built at once, and up to so many an item are sorted whole.
DIRECT = 2**17
SORTED = 512


def _normalizer(row_max: Tensor, log_p_max: Tensor) -> Tensor:
    """[...,2] as in `seqops.ops.beam_topk`: at its maximum a row's log-softmax is minus the log of the sum."""
    dead = row_max == float("-inf")
    return torch.stack((row_max.masked_fill(dead, 0.0), (-log_p_max).masked_fill(dead, float("inf"))), -1)


def _normalizer_and_chunk_max(logits: Tensor) -> tuple[Tensor, Tensor]:
    """logits [R,V]: the normalizer [R,2], and the chunks' maxima [R,n], in which a row's last chunk may be shorter."""
    R, V = logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    full, n = V // CHUNK, -(-V // CHUNK)
    chunk_max = logits.new_empty(R, n, dtype=dtype)
    log_p_max = logits.new_empty(R, dtype=dtype)
    rows = max(1, BLOCK_ELEMENTS // V) if logits.device.type == "cpu" else max(R, 1)
    log_p = logits.new_empty(min(rows, R), V, dtype=dtype)
    for r in range(0, R, rows):
        x = logits[r : r + rows].to(dtype)
        if full:
            torch.amax(x[:, : full * CHUNK].unflatten(1, (full, CHUNK)), -1, out=chunk_max[r : r + rows, :full])
        if full < n:
            torch.amax(x[:, full * CHUNK :], -1, out=chunk_max[r : r + rows, full])
        block = torch.log_softmax(x, -1, out=log_p[: x.shape[0]])
        torch.amax(block, -1, out=log_p_max[r : r + rows])
    return _normalizer(chunk_max.amax(-1), log_p_max), chunk_max


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


def _stable_topk(values: Tensor, k: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The first k of a stable descending sort of values [B,N], and their positions."""
    if valid is None and values.shape[1] <= SORTED:
        best, positions = values.sort(dim=1, descending=True, stable=True)
        return best[:, :k].contiguous(), positions[:, :k]
    first = _first(values, k, valid)
    best, order = values.gather(1, first).sort(dim=1, descending=True, stable=True)
    return best, first.gather(1, order)


def _value(x: Tensor, normalizer: Tensor, scores: Tensor) -> Tensor:
    """One expression for chunk maxima and elements: rounded alike, a chunk's maximum has its best element's value."""
    return (x - normalizer[..., 0]).sub_(normalizer[..., 1]).add_(scores)


def beam_topk_fwd(logits: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.beam_topk`.

    The best k elements lie in the best k chunks, where a chunk's key is its maximum's value and of equal chunks the
    first is best: each chunk that is better than an element's own holds an element better than it.
    """
    B, beam, V = logits.shape
    if logits.numel() <= DIRECT or beam * V <= 4 * k * CHUNK:
        log_p = torch.log_softmax(logits, -1, dtype=scores.dtype)
        normalizer = _normalizer(logits.amax(-1).to(scores.dtype), log_p.amax(-1))
        dead = normalizer[..., 1:] == float("inf")
        # On the CPU a look is cheaper than a pass.
        if logits.device.type != "cpu" or bool(dead.any()):
            log_p.masked_fill_(dead, float("-inf"))
        values = log_p.add_(scores[:, :, None])
        best, flat = _stable_topk(values.flatten(1), k)
        parents = flat // V
        return best, parents, flat - parents * V, normalizer

    normalizer, chunk_max = _normalizer_and_chunk_max(logits.reshape(B * beam, V))
    normalizer = normalizer.view(B, beam, 2)
    n = chunk_max.shape[1]
    keys = _value(chunk_max.view(B, beam, n), normalizer[:, :, None], scores[:, :, None]).flatten(1)
    chunks = _first(keys, k)
    parents = chunks // n
    tokens = (chunks - parents * n)[:, :, None] * CHUNK + torch.arange(CHUNK, device=logits.device)
    valid = tokens < V
    items = torch.arange(B, device=logits.device)[:, None]
    x = logits[items[:, :, None], parents[:, :, None], tokens.clamp(max=V - 1)]
    values = _value(x, normalizer[items, parents][:, :, None], scores.gather(1, parents)[:, :, None])
    values = torch.where(valid, values, float("-inf")).flatten(1)
    best, first = _stable_topk(values, k, valid.flatten(1))
    return best, parents.gather(1, first // CHUNK), tokens.flatten(1).gather(1, first), normalizer


def beam_topk_bwd(grad: Tensor, logits: Tensor, normalizer: Tensor, parents: Tensor, tokens: Tensor) -> Tensor:
    """See `seqops.ops.beam_topk`: grad at the chosen, minus the softmax times the sum of grad over the row's chosen."""
    _, beam, V = logits.shape
    # A row that is all -inf has no gradient.
    grad = torch.where((normalizer[..., 1] == float("inf")).gather(1, parents), 0.0, grad)
    own = parents[:, None, :] == torch.arange(beam, device=parents.device)[:, None]
    total = torch.where(own, grad[:, None, :], 0.0).sum(-1)
    dlogits = _value(logits, normalizer[:, :, None], total.new_zeros(())).exp_().mul_(-total[:, :, None]).flatten(1)
    # No candidate is chosen twice.
    chosen = parents * V + tokens
    dlogits.scatter_(1, chosen, dlogits.gather(1, chosen) + grad)
    return dlogits.view(logits.shape).to(logits.dtype)
