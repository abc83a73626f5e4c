"""Rows of a table in plain torch: their scores, their weighted sums, and gradients summed by row.

On a CPU each is one pass that reads the rows where they lie: a product sampled at a sparse pattern, or weighted bags.
Nothing of size [B,R,D] is built. What happens to a row many times is summed row by row, in the order of the batch.
"""

from __future__ import annotations

import functools
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ._dtypes import compute_dtype

__all__ = [
    "check_range",
    "row_scatter",
    "row_scatter_sparse",
    "row_scores",
    "row_sums",
    "scores_of",
    "sorted_rows",
]


def check_range(op: str, name: str, ids: Tensor, size: int, low: int = 0) -> None:
    """Raises where ids on a CPU are out of range; to look at a GPU's would make the host wait."""
    if ids.device.type != "cpu" or not ids.numel() or torch.compiler.is_compiling():
        return
    first, last = (int(v) for v in torch.aminmax(ids))
    if first < low or last >= size:
        raise ValueError(f"{op}: {name} must lie in {low}..{size - 1}, got {first}..{last}")


def _ragged(rows: Tensor, *beside: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor | None]:
    """rows [B,R] without the negative ones: ids int64 [N], offsets [B + 1], `beside` likewise, and which were kept."""
    B, R = rows.shape
    kept = rows >= 0
    if bool(kept.all()):
        ids = rows.flatten().to(torch.int64)
        return ids, torch.arange(B + 1, device=rows.device) * R, [t.reshape(-1) for t in beside], None
    offsets = torch.cat((kept.new_zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)))
    return rows[kept].to(torch.int64), offsets, [t.expand_as(rows)[kept] for t in beside], kept


def _wide(table: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """A table in which sums are exact enough, and ids in it: of a table in 16 bits the rows that are used, in 32."""
    if table.dtype.itemsize >= 4:
        return table, ids
    used, ids = torch.unique(ids, return_inverse=True)
    return table[used].float(), ids


@functools.cache
def _announce_csr() -> None:
    """torch says once in a process that its CSR tensors are in beta: here, where nobody need hear it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nothing = torch.zeros(1, dtype=torch.int64)
        torch.sparse_csr_tensor(nothing, nothing[:0], nothing[:0].float(), (0, 0), check_invariants=False)


def _are_one(coefficients: Tensor) -> bool:
    """Whether they are one number, stored once, and that is 1."""
    return coefficients.numel() > 0 and not any(coefficients.stride()) and coefficients[0, 0].item() == 1


def _present(ids: Tensor) -> Tensor | None:
    """Where ids are not negative; None: everywhere."""
    return (ids >= 0).nonzero()[:, 0] if len(ids) and int(ids.min()) < 0 else None


def _one_each(table: Tensor, rows: Tensor, times: Tensor) -> Tensor:
    """table[rows] * times, [B,D], for rows [B,1]: a gather, where bags and sparse patterns cost more than the work."""
    ids = rows[:, 0]
    kept = _present(ids)
    if kept is not None:
        ids, times = ids[kept], times[kept]
    found = table.index_select(0, ids).to(compute_dtype(table.dtype))
    if not _are_one(times):
        found *= times
    return found if kept is None else found.new_zeros(len(rows), table.shape[1]).index_copy_(0, kept, found)


def scores_of(hidden: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    """See `row_scores`; all ids have been checked."""
    dtype = compute_dtype(weight.dtype)
    if rows.shape[1] == 1:
        return _one_each(weight, rows, hidden.to(dtype)).sum(1, keepdim=True)
    ids, offsets, _, kept = _ragged(rows)
    if not ids.numel() or not hidden.shape[1]:
        return hidden.new_zeros(rows.shape, dtype=dtype)
    weight, ids = _wide(weight, ids)
    hidden = hidden.to(dtype)
    if ids.numel() >= rows.shape[0] * weight.shape[0]:
        # All products are no more work; and torch has no sparse pattern that is more than full.
        values = (hidden @ weight.t())[torch.repeat_interleave(offsets.diff()), ids]
    elif weight.device.type == "cpu":
        _announce_csr()
        pattern = torch.sparse_csr_tensor(
            offsets, ids, hidden.new_zeros(ids.shape), (rows.shape[0], weight.shape[0]), check_invariants=False
        )
        values = torch.sparse.sampled_addmm(pattern, hidden.contiguous(), weight.contiguous().t(), beta=0.0).values()
    else:
        items = torch.repeat_interleave(offsets.diff())
        values = (weight[ids] * hidden[items]).sum(1)
    return values.view(rows.shape) if kept is None else hidden.new_zeros(rows.shape).masked_scatter_(kept, values)


def row_scores(hidden: Tensor, weight: Tensor, rows: Tensor, sparse: bool) -> Tensor:
    """See `seqops.ops._rows`."""
    check_range("row_scores", "rows", rows, weight.shape[0], low=-1)
    return scores_of(hidden, weight, rows)


def _bags(table: Tensor, ids: Tensor, offsets: Tensor, coefficients: Tensor) -> Tensor:
    """out[b] = the sum of coefficients[n] * table[ids[n]] over bag b."""
    table, ids = _wide(table, ids)
    return F.embedding_bag(
        ids,
        table.contiguous(),
        offsets,
        mode="sum",
        per_sample_weights=coefficients.to(table.dtype),
        include_last_offset=True,
    )


def row_sums(table: Tensor, rows: Tensor, coefficients: Tensor, sparse: bool) -> Tensor:
    """See `seqops.ops._rows`."""
    check_range("row_sums", "rows", rows, table.shape[0], low=-1)
    if rows.shape[1] == 1:
        return _one_each(table, rows, coefficients)
    ids, offsets, (own,), _ = _ragged(rows, coefficients)
    if not ids.numel() or not table.shape[1]:
        return table.new_zeros(rows.shape[0], table.shape[1], dtype=compute_dtype(table.dtype))
    return _bags(table, ids, offsets, own)


def sorted_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that are not negative, in ascending order, and where each stood."""
    if rows.device.type != "cpu":
        ids, order = torch.sort(rows.to(torch.int64), stable=True)
        skipped = int((ids < 0).sum())
        return ids[skipped:], order[skipped:]
    bits = max(1, (rows.numel() - 1).bit_length())
    keys = (rows.to(torch.int64) << bits) | torch.arange(rows.numel())
    ordered = torch.from_numpy(np.sort(keys.numpy()))
    ordered = ordered[int(torch.searchsorted(ordered, 0)) :]
    return ordered >> bits, ordered & ((1 << bits) - 1)


def _sources(
    order: Tensor, source: Tensor, index: Tensor | None, coefficients: Tensor, per: int
) -> tuple[Tensor, Tensor]:
    items = order if per == 1 else order // per
    return items if index is None else index[items].to(torch.int64), coefficients.reshape(-1)[order]


def row_scatter(
    source: Tensor, index: Tensor | None, coefficients: Tensor, rows: Tensor, num_rows: int, dtype: torch.dtype
) -> Tensor:
    """See `seqops.ops._rows`. Each row of a wide gradient is written once, those that are zero too."""
    D = source.shape[1]
    if rows.shape[1] == 1 and rows.device.type == "cpu":
        # torch's own sum adds what falls on a row in the order of the batch, and costs less than sorting here.
        ids, wide = rows[:, 0], compute_dtype(dtype)
        kept, items = _present(ids), None if index is None else index.to(torch.int64)
        if kept is not None:
            ids, coefficients = ids[kept], coefficients[kept]
            items = kept if items is None else items[kept]
        values = (source if items is None else source.index_select(0, items)).to(wide)
        if not _are_one(coefficients):
            values = values * coefficients.to(wide)
        return source.new_zeros(num_rows, D, dtype=wide).index_add_(0, ids, values).to(dtype)
    ids, order = sorted_rows(rows.reshape(-1))
    if not ids.numel() or not D:
        return source.new_zeros(num_rows, D, dtype=dtype)
    if dtype.itemsize < 4:
        ids, values = row_scatter_sparse(source, index, coefficients, rows, num_rows, dtype)
        return source.new_zeros(num_rows, D, dtype=dtype).index_copy_(0, ids, values)
    items, own = _sources(order, source, index, coefficients, rows.shape[1])
    counts = torch.bincount(ids, minlength=num_rows)
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return _bags(source, items, offsets, own).to(dtype)


def row_scatter_sparse(
    source: Tensor, index: Tensor | None, coefficients: Tensor, rows: Tensor, num_rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `seqops.ops._rows`."""
    ids, order = sorted_rows(rows.reshape(-1))
    if not ids.numel() or not source.shape[1]:
        ids = ids.unique_consecutive()
        return ids, source.new_zeros(ids.shape[0], source.shape[1], dtype=dtype)
    items, own = _sources(order, source, index, coefficients, rows.shape[1])
    ids, counts = torch.unique_consecutive(ids, return_counts=True)
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return ids, _bags(source, items, offsets, own).to(dtype)
