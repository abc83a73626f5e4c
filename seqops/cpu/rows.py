"""Rows of a table in plain torch: their scores, their weighted sums, and gradients summed by row.

On a CPU each is one pass that reads the rows where they lie: a product sampled at a sparse pattern, or weighted bags.
Nothing of size [B,R,D] is built. What happens to a row many times is summed row by row, in the order of the batch.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ._dtypes import compute_dtype

__all__ = [
    "absent_of",
    "check_range",
    "row_scatter",
    "row_scatter_sparse",
    "row_scores",
    "row_segments",
    "row_sums",
    "row_sums_scatter",
    "row_sums_scatter_sparse",
    "scores_of",
    "sources_of",
]


# Numbers that are gathered at less cost than that of reading them where they lie.
_FEW = 2**20


def check_range(op: str, name: str, ids: Tensor, size: int, low: int = 0) -> bool:
    """Raises where ids on a CPU are out of range; to look at a GPU's would make the host wait.

    Gives whether some may be negative.
    """
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    if not ids.numel():
        return False
    first, last = (int(v) for v in torch.aminmax(ids))
    if first < low or last >= size:
        raise ValueError(f"{op}: {name} must lie in {low}..{size - 1}, got {first}..{last}")
    return first < 0


def absent_of(rows: Tensor) -> Tensor | None:
    """Where rows are negative; None: nowhere."""
    return rows < 0 if rows.numel() and int(rows.min()) < 0 else None


def _wide(table: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """A table in which sums are exact enough, and ids in it: of a table in 16 bits the rows that are used, in 32."""
    if table.dtype.itemsize >= 4:
        return table, ids
    used, places = torch.unique(ids, return_inverse=True)
    return table[used].float(), places.to(ids.dtype)


def _index_dtype(count: int) -> torch.dtype:
    """Of numbers below `count`: half the bytes where they are enough."""
    return torch.int32 if count < 2**31 else torch.int64


@functools.cache
def _announce_csr() -> None:
    """torch says once in a process that its CSR tensors are in beta: here, where nobody need hear it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nothing = torch.zeros(1, dtype=torch.int64, device="cpu")
        torch.sparse_csr_tensor(nothing, nothing[:0], nothing[:0].float(), (0, 0), check_invariants=False)


def _are_one(coefficients: Tensor) -> bool:
    """Whether they are one number, stored once, and that is 1."""
    return coefficients.numel() > 0 and not any(coefficients.stride()) and coefficients[0, 0].item() == 1


def _one_each(table: Tensor, ids: Tensor, absent: Tensor | None, times: Tensor) -> Tensor:
    """table[ids] * times, [B,D], for times [B,1]: a gather, where bags cost more than the work."""
    found = table.index_select(0, ids if absent is None else ids.clamp(min=0)).to(compute_dtype(table.dtype))
    if not _are_one(times):
        found *= times
    return found if absent is None else found.masked_fill_(absent, 0)


def scores_of(hidden: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    """See `row_scores`; all ids have been checked, and none is negative, or there is no table."""
    dtype = compute_dtype(weight.dtype)
    if not rows.numel() or not weight.numel():
        return hidden.new_zeros(rows.shape, dtype=dtype)
    weight, ids = _wide(weight, rows)
    (B, R), V, hidden = rows.shape, weight.shape[0], hidden.to(dtype)
    if R >= V:
        # All products are no more work; and torch has no sparse pattern that is more than full.
        return (hidden @ weight.t()).gather(1, ids.to(torch.int64))
    if R == 1 and B * hidden.shape[1] <= _FEW:
        return torch.linalg.vecdot(hidden, weight.index_select(0, ids[:, 0]))[:, None]
    if weight.device.type != "cpu":
        return (weight.index_select(0, ids.flatten()).view(B, R, -1) * hidden[:, None]).sum(2)
    _announce_csr()
    index = _index_dtype(max(ids.numel(), V))
    offsets, zeros = torch.arange(B + 1, dtype=index, device="cpu").mul_(R), hidden.new_zeros(ids.numel())
    pattern = torch.sparse_csr_tensor(offsets, ids.flatten().to(index), zeros, (B, V), check_invariants=False)
    torch.sparse.sampled_addmm(pattern, hidden.contiguous(), weight.contiguous().t(), beta=0.0, out=pattern)
    return pattern.values().view(B, R)


def sources_of(op: str, name: str, source: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The items' own rows of source, any where an item is left out, and where that is; None: nowhere."""
    if index is None:
        return source, None
    absent = index < 0 if check_range(op, name, index, source.shape[0], low=-1) else None
    if not source.shape[0]:
        return source.new_zeros(index.shape[0], source.shape[1]), absent
    return source.index_select(0, index if absent is None else index.clamp(min=0)), absent


def row_scores(source: Tensor, index: Tensor | None, weight: Tensor, rows: Tensor, sparse: bool) -> Tensor:
    """See `seqops.ops._rows`."""
    absent = rows < 0 if check_range("row_scores", "rows", rows, weight.shape[0], low=-1) else None
    source, left_out = sources_of("row_scores", "index", source, index)
    if left_out is not None:
        absent = left_out[:, None] if absent is None else absent | left_out[:, None]
    if absent is None:
        return scores_of(source, weight, rows)
    return scores_of(source, weight, rows.clamp(min=0)).masked_fill_(absent, 0)


def _bags(table: Tensor, ids: Tensor, offsets: Tensor, coefficients: Tensor | None) -> Tensor:
    """out[b] = the sum of coefficients[n] * table[ids[n]] over bag b; None: of table[ids[n]].

    Each is one sum in the order of n, of which one core does all: the result repeats to the bit.
    """
    table, ids = _wide(table.detach(), ids)
    weights = None if coefficients is None else coefficients.detach().to(table.dtype)
    # Of torch's numbers for the modes 0 is the sum. F.embedding_bag checks anew what is so by its making here.
    sums, *_ = torch.embedding_bag(table.contiguous(), ids, offsets.to(ids.dtype), False, 0, False, weights, True)
    return sums


def _summed(table: Tensor, rows: Tensor, absent: Tensor | None, coefficients: Tensor, offsets: Tensor) -> Tensor:
    """out[b] = the sum of coefficients[n,r] * table[rows[n,r]] over offsets[b] <= n < offsets[b + 1] and r."""
    if absent is None:
        return _bags(table, rows.reshape(-1), offsets * rows.shape[1], coefficients.reshape(-1))
    if bool(table[0].isfinite().all()):
        # None of row 0 is exactly nothing, and costs less than to leave the place out.
        own = coefficients.masked_fill(absent, 0).reshape(-1)
        return _bags(table, rows.clamp(min=0).reshape(-1), offsets * rows.shape[1], own)
    kept = ~absent
    before = F.pad(kept.sum(1).cumsum(0), (1, 0))
    return _bags(table, rows[kept], before[offsets.to(torch.int64)], coefficients.expand_as(rows)[kept])


def row_sums(table: Tensor, rows: Tensor, coefficients: Tensor, sparse: bool) -> Tensor:
    """See `seqops.ops._rows`."""
    absent = check_range("row_sums", "rows", rows, table.shape[0], low=-1)
    B, R = rows.shape
    if not rows.numel() or not table.numel():
        return table.new_zeros(B, table.shape[1], dtype=compute_dtype(table.dtype))
    left_out = rows < 0 if absent else None
    if R == 1:
        return _one_each(table, rows[:, 0], left_out, coefficients)
    return _summed(table, rows, left_out, coefficients, torch.arange(B + 1, dtype=rows.dtype, device=rows.device))


def sorted_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that are not negative, in ascending order, and where each stood."""
    count = rows.numel()
    if rows.device.type != "cpu" or not count:
        ids, order = torch.sort(rows.to(torch.int64), stable=True)
        skipped = int((ids < 0).sum())
        return ids[skipped:], order[skipped:]
    # One number for a row and its place, which numpy sorts several times as fast as torch sorts pairs.
    low, high = (int(v) for v in torch.aminmax(rows))
    bits = (count - 1).bit_length()
    dtype: type[np.unsignedinteger[Any]] = np.uint32 if high - min(low, 0) < 2 ** (32 - bits) else np.uint64
    keys = rows.numpy().astype(dtype)
    keys <<= dtype(bits)
    keys |= np.arange(count, dtype=dtype)
    keys.sort()
    if low < 0:
        # As unsigned numbers they have become the highest of all.
        keys = keys[: np.searchsorted(keys, dtype((max(high, -1) + 1) << bits))]
    order = keys & dtype(2**bits - 1)
    keys >>= dtype(bits)
    index = np.int32 if dtype is np.uint32 else np.int64
    return torch.from_numpy(keys.view(index)), torch.from_numpy(order.view(index))


def row_segments(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The different rows that are not negative, ascending, int64 [U]; the first place of each in `order`, and its end,
    [U + 1]; and `order`: where they stood, row by row.
    """
    ids, order = sorted_rows(rows)
    if rows.device.type != "cpu":
        used, counts = torch.unique_consecutive(ids, return_counts=True)
        return used, torch.cat((counts.new_zeros(1), counts.cumsum(0))), order
    own = ids.numpy()
    bounds = np.ones(len(own) + 1, dtype=bool)
    np.not_equal(own[1:], own[:-1], out=bounds[1:-1])
    offsets = np.flatnonzero(bounds)
    return torch.from_numpy(own[offsets[:-1]].astype(np.int64)), torch.from_numpy(offsets), order


def _sources(order: Tensor, index: Tensor | None, coefficients: Tensor) -> tuple[Tensor, Tensor | None]:
    """In the order of the sum the source rows, and the coefficients where they are not all 1."""
    items = order // coefficients.shape[1] if coefficients.shape[1] > 1 else order
    if index is not None:
        items = index.to(order.dtype).index_select(0, items)
    return items, None if _are_one(coefficients) else coefficients.reshape(-1).index_select(0, order)


def row_scatter(
    source: Tensor, index: Tensor | None, coefficients: Tensor, rows: Tensor, num_rows: int, dtype: torch.dtype
) -> Tensor:
    """See `seqops.ops._rows`. Each row of a wide gradient is written once, those that are zero too."""
    if not rows.numel() or not source.shape[1]:
        return source.new_zeros(num_rows, source.shape[1], dtype=dtype)
    if dtype.itemsize < 4:
        ids, values = row_scatter_sparse(source, index, coefficients, rows, num_rows, dtype)
        return source.new_zeros(num_rows, source.shape[1], dtype=dtype).index_copy_(0, ids, values)
    if source.shape[1] == rows.shape[1] == 1 and rows.device.type == "cpu":
        # Of numbers torch's own sum, in the order of the batch as well, costs less than to sort.
        numbers = source[:, 0] if index is None else source[:, 0].index_select(0, index.clamp(min=0))
        numbers, absent, at = (numbers * coefficients[:, 0]).to(dtype), absent_of(rows[:, 0]), rows[:, 0]
        if absent is not None:
            numbers, at = numbers.masked_fill_(absent, 0), at.clamp(min=0)
        return source.new_zeros(num_rows, dtype=dtype).index_add_(0, at, numbers)[:, None]
    ids, order = sorted_rows(rows.reshape(-1))
    counts = torch.bincount(ids, minlength=num_rows)
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    items, own = _sources(order, index, coefficients)
    return _bags(source, items, offsets, own).to(dtype)


def row_scatter_sparse(
    source: Tensor, index: Tensor | None, coefficients: Tensor, rows: Tensor, num_rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `seqops.ops._rows`."""
    ids, offsets, order = row_segments(rows.reshape(-1))
    if not ids.numel() or not source.shape[1]:
        return ids, source.new_zeros(ids.shape[0], source.shape[1], dtype=dtype)
    items, own = _sources(order, index, coefficients)
    return ids, _bags(source, items, offsets, own).to(dtype)


def row_sums_scatter(
    table: Tensor, rows: Tensor, coefficients: Tensor, index: Tensor, num_rows: int, dtype: torch.dtype
) -> Tensor:
    """See `seqops.ops._rows`."""
    ids, values = row_sums_scatter_sparse(table, rows, coefficients, index, num_rows, dtype)
    return table.new_zeros(num_rows, table.shape[1], dtype=dtype).index_copy_(0, ids, values)


def row_sums_scatter_sparse(
    table: Tensor, rows: Tensor, coefficients: Tensor, index: Tensor, num_rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `seqops.ops._rows`. The items of a row one after the other are one bag: no item's own sum is written."""
    ids, offsets, order = row_segments(index)
    if not ids.numel() or not rows.numel() or not table.numel():
        return ids, table.new_zeros(ids.shape[0], table.shape[1], dtype=dtype)
    rows, coefficients = rows.index_select(0, order), coefficients.index_select(0, order)
    return ids, _summed(table, rows, absent_of(rows), coefficients, offsets).to(dtype)
