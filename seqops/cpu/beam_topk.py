"""Beam top-k in plain torch: log-softmax in blocks that fit the cache, of which only the best chunks are ranked."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["beam_topk_bwd", "beam_topk_fwd", "best_of_chunks"]

# 8 MB of fp32: a block's log-softmax is written and read again within the cache.
BLOCK_ELEMENTS = 2**21
# Up to so many logits all values are made at once: any, and those of which the best columns are ranked first.
DIRECT, COLUMNS = 2**15, 2**21
# Below so many logits columns are not worth it; so many a thread where several threads share the items.
FEWEST, FEWEST_SHARED = 2**14, 3 * 2**15
FEW = 64


def _divmod(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Which part of so many places each lies in, and where there; the latter in their memory."""
    # None is below 0, and to floor takes longer.
    parts = torch.div(places, size, rounding_mode="trunc")
    return parts, places.sub_(parts, alpha=size)


def _first(values: Tensor, k: int, valid: Tensor | None = None) -> Tensor:
    """The k positions [B,k] that a stable descending sort of values [B,N] puts first, lowest position first.

    The k-th value splits the row; of those that equal it the lowest positions fill up. Positions that are not `valid`
    hold -inf, and at least k are.
    """
    N = values.shape[1]
    if k == N:
        return torch.arange(N, device=values.device).repeat(values.shape[0], 1)
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
    # Not so with NaN, which comes first. A few numbers are compared faster in Python.
    if top.numel() <= FEW:
        for row in top.tolist():
            if len(set(row)) <= k or row[0] != row[0]:
                return None
    elif not top.diff().amax().item() < 0:
        return None
    return top.narrow_copy(1, 0, k), positions.narrow_copy(1, 0, k)


def _distinct_by_column(table: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """`_distinct_topk` of a table [B,rows,n], of which the best columns are ranked first; rows and columns of the best.

    The k + 1 columns of the best maxima hold k + 1 values that no other column's surpass: if the best k + 1 of these
    differ, the best k are so of all.
    """
    columns = table.amax(1).topk(k + 1).indices
    found = _distinct_topk(table.gather(2, columns.unsqueeze(1).expand(-1, table.shape[1], -1)).flatten(1), k)
    if found is None:
        return None
    best, first = found
    row, column = _divmod(first, k + 1)
    return best, row, columns.gather(1, column)


def _table_rows(V: int, beam: int, k: int) -> int:
    """The rows of a table of beam*V values that leaves about as many columns as candidates; 1: none is worth it.

    torch.topk takes a partial sort, the fast way, of 64 numbers or more for each that is asked for.
    """
    cut = min(V // (64 * (k + 1)), math.isqrt(V // (beam * k)))
    return beam * math.gcd(V, 1 << cut.bit_length() - 1) if cut else 1


def _stable_topk(values: Tensor, k: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The first k of a stable descending sort of values [B,N], and their positions."""
    found = _distinct_topk(values, k) if values.device.type == "cpu" else None
    return _tied_topk(values, k, valid) if found is None else found


def _tied_topk(values: Tensor, k: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`_stable_topk` of values that may be equal; on a GPU of all: to look would make the host wait."""
    if valid is None and k == values.shape[1]:
        return values.sort(dim=1, descending=True, stable=True)
    first = _first(values, k, valid)
    best, order = values.gather(1, first).sort(dim=1, descending=True, stable=True)
    return best, first.gather(1, order)


def _value(x: Tensor, normalizer: Tensor, scores: Tensor) -> Tensor:
    """One expression for chunk maxima and elements: rounded alike, a chunk's maximum has its best element's value."""
    return (x - normalizer[..., 0]).sub_(normalizer[..., 1]).add_(scores)


def _normalizer(x: Tensor, log_p: Tensor) -> Tensor:
    """[...,2] as in `seqops.ops.beam_topk`: at its maximum a row's log-softmax is minus the log of the sum."""
    row_max, log_p_max = x.amax(-1).to(log_p.dtype), log_p.amax(-1)
    dead = row_max == float("-inf")
    return torch.stack((row_max.masked_fill_(dead, 0.0), log_p_max.neg_().masked_fill_(dead, float("inf"))), -1)


def _kill(log_p: Tensor, x: Tensor) -> Tensor:
    """log_softmax makes NaN of a row that is all -inf; in place."""
    return log_p.masked_fill_(x.amax(-1, keepdim=True) == float("-inf"), float("-inf"))


def _chunk_size(V: int, beam: int, k: int) -> int:
    """So many logits that an item has about as many chunks as the best chunks have candidates; 0: too few for chunks.

    A power of two, and not below 32: its maxima are fast.
    """
    per_candidate = beam * V // k
    if V < 32 or per_candidate < 128:
        return 0
    return min(2 ** round(math.log2(per_candidate) / 2), 2 ** (V.bit_length() - 1), 256)


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
    arguments = (logits, scores, k, mask, inverse_temperature, normalized, need_normalizer)
    size = B * beam * V
    columns = logits.is_cpu and FEWEST <= size <= COLUMNS and size >= _fewest(B)
    rows = _table_rows(V, beam, k) if columns else 1
    chunk = _chunk_size(V, beam, k) if size > DIRECT else 0
    found = None
    if rows > 1 or (chunk and size <= COLUMNS and logits.is_cpu):
        found = _at_once(*arguments, rows, distinct=True)
    if found is None and not chunk:
        found = _at_once(*arguments, 1)
    return _in_blocks(*arguments, chunk) if found is None else found


def _fewest(B: int) -> int:
    """Of how many logits columns are worth it: torch.topk takes a thread an item, columns pay for each that waits."""
    threads = min(B, torch.get_num_threads())
    return FEWEST_SHARED * threads if threads > 1 else FEWEST


def _at_once(
    logits: Tensor,
    scores: Tensor,
    k: int,
    mask: Tensor | None,
    inverse_temperature: float,
    normalized: bool,
    need_normalizer: bool,
    rows: int,
    distinct: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """All values at once, from a table of so many rows an item, if that is above 1.

    None if they must be `distinct`, and there is no single order.
    """
    normalizer = scores
    if normalized:
        values = (logits + scores.unsqueeze(-1)).contiguous()
        if need_normalizer:
            normalizer = scores.new_zeros(*scores.shape, 2)
    else:
        x = logits if inverse_temperature == 1 else logits.to(scores.dtype) * inverse_temperature
        log_p = torch.log_softmax(x, -1, dtype=scores.dtype)
        if need_normalizer:
            normalizer = _normalizer(x, log_p)
        values = log_p.add_(scores.unsqueeze(-1))
    if mask is not None:
        values.masked_fill_(~mask, float("-inf"))
    _, beam, V = logits.shape
    if rows > 1:
        by_column = _distinct_by_column(values if rows == beam else values.view(-1, rows, beam * V // rows), k)
        if by_column is None:
            return None
        best, row, column = by_column
        if rows == beam:
            return best, row, column, normalizer
        flat = column.add_(row, alpha=beam * V // rows)
        return best, *_divmod(flat, V), normalizer
    found = _distinct_topk(values.view(-1, beam * V), k) if logits.is_cpu else None
    if found is None:
        if distinct:
            return None
        if not normalized:
            # NaN is never distinct.
            _kill(values, logits)
        found = _tied_topk(values.flatten(1), k)
    best, flat = found
    return best, *_divmod(flat, V), normalizer


def _in_blocks(
    logits: Tensor,
    scores: Tensor,
    k: int,
    mask: Tensor | None,
    inverse_temperature: float,
    normalized: bool,
    need_normalizer: bool,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In blocks of whole items, or of the rows of one whose best are ranked once more."""
    B, beam, V = logits.shape
    on_cpu, dtype = logits.device.type == "cpu", scores.dtype
    rows = max(1, BLOCK_ELEMENTS // V) if on_cpu else B * beam
    items, beams = max(1, rows // beam), min(rows, beam)
    normalizer = scores.new_zeros(B, beam, 2) if need_normalizer else scores
    buffer = scores.new_empty(0 if normalized else min(items, B) * beams * V)
    found = []
    for b in range(0, B, items):
        parts = []
        for i in range(0, beam, beams):
            block = (slice(b, b + items), slice(i, i + beams))
            x, block_scores = logits[block], scores[block]
            if normalized:
                log_p = x.to(dtype).contiguous()
            else:
                y = x if inverse_temperature == 1 else x.to(dtype) * inverse_temperature
                log_p = torch.log_softmax(y, -1, dtype=dtype, out=buffer[: x.numel()].view(x.shape))
                if need_normalizer:
                    normalizer[block] = _normalizer(y, log_p)
                # A row with NaN is NaN throughout. To look would make the host wait for a GPU.
                if not on_cpu or bool(log_p[:, :, 0].isnan().any()):
                    _kill(log_p, x)
            if mask is not None:
                log_p = torch.where(mask[block], log_p, float("-inf"))
            best, flat = _best_of_block(log_p, block_scores, k, chunk)
            parts.append((best, flat + i * V if i else flat))
        best, flat = parts[0]
        if len(parts) > 1:
            best, order = _stable_topk(torch.cat([best for best, _ in parts], 1), k)
            flat = torch.cat([flat for _, flat in parts], 1).gather(1, order)
        found.append((best, flat))
    best, flat = found[0] if len(found) == 1 else (torch.cat(t) for t in zip(*found, strict=True))
    return best, *_divmod(flat, V), normalizer


def _best_of_block(log_p: Tensor, scores: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """The best k of log_p [B,beam,V], contiguous, plus scores, or all if there are fewer, and their places in beam*V.

    As in `best_of_chunks`; rounding keeps the order, so that a chunk's maximum plus its score is its best value.
    """
    B, beam, V = log_p.shape
    whole, n = V // chunk, -(-V // chunk)
    chunk_max = log_p.new_empty(B, beam, n)
    torch.amax(log_p[:, :, : whole * chunk].unflatten(2, (whole, chunk)), -1, out=chunk_max[:, :, :whole])
    if whole < n:
        torch.amax(log_p[:, :, whole * chunk :], -1, out=chunk_max[:, :, whole])
    keys = chunk_max.add_(scores.unsqueeze(-1)).flatten(1)
    found = None
    if log_p.device.type == "cpu" and k < keys.shape[1]:
        # One chunk more, as in `_distinct_by_column`.
        values, starts, _ = _read_chunks(log_p, scores, keys.topk(k + 1).indices, chunk)
        found = _distinct_topk(values, k)
    if found is None:
        values, starts, valid = _read_chunks(log_p, scores, _first(keys, min(k, keys.shape[1])), chunk)
        found = _tied_topk(values, min(k, beam * V), valid)
    best, first = found
    chunks, within = _divmod(first, chunk)
    return best, starts.gather(1, chunks).add_(within)


def _read_chunks(log_p: Tensor, scores: Tensor, chunks: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of chunks [B,m]: the values [B,m*chunk], where in beam*V each begins, which values are a chunk's (None: all)."""
    B, beam, V = log_p.shape
    n = -(-V // chunk)
    parents, within = _divmod(chunks, n)
    starts = begin = within.mul_(chunk)
    if V % chunk:
        # A row's last chunk is read from where it is whole, less what belongs to the one before it.
        begin = starts.clamp(max=V - chunk)
    places = torch.add(begin, parents, alpha=V)
    items = torch.arange(0, B * beam * V, beam * V, device=log_p.device).unsqueeze(-1)
    values = log_p.view(-1).unfold(0, chunk, 1)[places + items].add_(scores.gather(1, parents).unsqueeze(-1))
    if begin is starts:
        return values.flatten(1), places, None
    valid = torch.arange(chunk, device=log_p.device) >= (starts - begin).unsqueeze(-1)
    return torch.where(valid, values, float("-inf")).flatten(1), places, valid.flatten(1)


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
