"""Rows of a table in Triton: their scores, their weighted sums, and gradients summed by row.

No tensor of size [B,R,D] exists: a program reads the rows of its items where they lie. A gradient is summed over the
places at which a row stands, in sorted order: no sum is atomic, none is in 16 bits, and each row is written once. A
tile of places that ends within a row leaves its share to a second kernel, which adds the shares in order.

A row number that is negative, or not below the table's size, is left out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import config
from .common import device_guard

__all__ = ["item_index", "item_scores", "row_scatter", "row_scatter_sparse", "row_scores", "row_sums"]


@triton.jit
def item_index(index_ptr, b, B, M):
    """Each item's row of the source, 0 where it has none, and whether it has one. No index: item b has row b."""
    index = b
    if index_ptr is not None:
        index = tl.load(index_ptr + b, mask=b < B, other=-1).to(tl.int64)
    present = (index >= 0) & (index < M)
    return tl.where(present, index, 0), present


@triton.jit
def item_scores(
    source_ptr,
    items,
    present,
    weight_ptr,
    rows_ptr,
    scores_ptr,
    b,
    item_mask,
    V,
    R,
    D: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """scores[b,r] = source[items] . weight[rows[b,r]] for the BLOCK_B items of a program, in fp32; absent rows score 0.

    Walks the rows, and the features within; what a program reads of `source` stays in its cache.
    """
    for r in range(0, R):
        row = tl.load(rows_ptr + b * R + r, mask=item_mask, other=-1).to(tl.int64)
        inside = present & (row >= 0) & (row < V)
        total = tl.zeros([BLOCK_B], tl.float32)
        for d0 in range(0, D, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            mask = inside[:, None] & (d < D)[None, :]
            x = tl.load(source_ptr + items[:, None] * D + d[None, :], mask=mask, other=0.0).to(tl.float32)
            w = tl.load(weight_ptr + row[:, None] * D + d[None, :], mask=mask, other=0.0).to(tl.float32)
            total += tl.sum(x * w, 1)
        tl.store(scores_ptr + b * R + r, total, mask=item_mask)


@triton.jit(do_not_specialize=["B", "M", "V", "R"])
def row_scores_kernel(
    source_ptr,
    index_ptr,
    weight_ptr,
    rows_ptr,
    scores_ptr,
    B,
    M,
    V,
    R,
    D: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program owns BLOCK_B items, and walks their R rows."""
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    items, present = item_index(index_ptr, b, B, M)
    item_scores(source_ptr, items, present, weight_ptr, rows_ptr, scores_ptr, b, b < B, V, R, D, BLOCK_B, BLOCK_D)


@triton.jit(do_not_specialize=["B", "V", "R"])
def row_sums_kernel(
    table_ptr,
    rows_ptr,
    coefficients_ptr,
    out_ptr,
    B,
    V,
    R,
    D: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (g_b, g_d) owns BLOCK_B items x BLOCK_D features, and walks the items' R rows."""
    pid = tl.program_id(0).to(tl.int64)
    GROUPS_D: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    b = pid // GROUPS_D * BLOCK_B + tl.arange(0, BLOCK_B)
    d = pid % GROUPS_D * BLOCK_D + tl.arange(0, BLOCK_D)
    item_mask = b < B
    total = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    for r in range(0, R):
        row = tl.load(rows_ptr + b * R + r, mask=item_mask, other=-1).to(tl.int64)
        inside = (row >= 0) & (row < V)
        coefficient = tl.load(coefficients_ptr + b * R + r, mask=inside, other=0.0)
        mask = inside[:, None] & (d < D)[None, :]
        values = tl.load(table_ptr + row[:, None] * D + d[None, :], mask=mask, other=0.0).to(tl.float32)
        total += coefficient[:, None] * values
    tl.store(out_ptr + b[:, None] * D + d[None, :], total, mask=item_mask[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=["N"])
def row_scatter_kernel(
    source_ptr,
    items_ptr,
    coefficients_ptr,
    ids_ptr,
    slots_ptr,
    out_ptr,
    shares_ptr,
    N,
    D: tl.constexpr,
    PLACES: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (t, g_d) owns PLACES places in sorted order x BLOCK_D features, and walks the places.

    ids [N] ascending, items [N] the source's row at each place, slots [N] the row of `out` that an id has. A row whose
    places all lie in the tile is written to `out`; of one that began before, or goes on behind, the sum goes to
    shares [tiles, 2, D] fp32: the tile's first row, or its last.
    """
    pid = tl.program_id(0).to(tl.int64)
    GROUPS_D: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    t = pid // GROUPS_D
    d = pid % GROUPS_D * BLOCK_D + tl.arange(0, BLOCK_D)
    start = t * PLACES
    end = tl.minimum(start + PLACES, N)
    current = tl.load(ids_ptr + start)
    began_before = current == tl.load(ids_ptr + start - 1, mask=start > 0, other=-2)
    total = tl.zeros([BLOCK_D], tl.float32)
    for n in range(start, end):
        item = tl.load(items_ptr + n).to(tl.int64)
        values = tl.load(source_ptr + item * D + d, mask=(d < D) & (current >= 0), other=0.0).to(tl.float32)
        total += tl.load(coefficients_ptr + n) * values
        following = tl.load(ids_ptr + n + 1, mask=n + 1 < N, other=-2)
        ends = following != current
        leaves = (n + 1 == end) & (following == current)
        whole = ends & (began_before == 0) & (current >= 0)
        slot = tl.load(slots_ptr + n, mask=whole, other=0).to(tl.int64)
        tl.store(out_ptr + slot * D + d, total.to(out_ptr.dtype.element_ty), mask=(d < D) & whole)
        shared = (ends | leaves) & (began_before | leaves)
        share = tl.where(began_before, 0, 1)
        tl.store(shares_ptr + (2 * t + share) * D + d, total, mask=(d < D) & shared)
        total = tl.where(ends, 0.0, total)
        began_before = began_before & (ends == 0)
        current = following


@triton.jit(do_not_specialize=["N", "tiles"])
def row_scatter_shares_kernel(
    ids_ptr,
    slots_ptr,
    shares_ptr,
    out_ptr,
    N,
    tiles,
    D: tl.constexpr,
    PLACES: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (t, g_d): the row that begins in tile t and goes on behind it, if any: the sum of its tiles' shares.

    Walks the tiles that follow, BLOCK_T at once.
    """
    pid = tl.program_id(0).to(tl.int64)
    GROUPS_D: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    t = pid // GROUPS_D
    d = pid % GROUPS_D * BLOCK_D + tl.arange(0, BLOCK_D)
    start = t * PLACES
    last = tl.minimum(start + PLACES, N) - 1
    row = tl.load(ids_ptr + last)
    goes_on = row == tl.load(ids_ptr + last + 1, mask=last + 1 < N, other=-2)
    began_before = row == tl.load(ids_ptr + start - 1, mask=start > 0, other=-2)
    if goes_on & (began_before == 0) & (row >= 0):
        total = tl.load(shares_ptr + (2 * t + 1) * D + d, mask=d < D, other=0.0)
        # A row's tiles lie side by side: the first that is another row's ends the walk.
        behind = t + 1 + tl.arange(0, BLOCK_T)
        own = row == tl.load(ids_ptr + behind * PLACES, mask=behind < tiles, other=-2)
        while tl.max(own.to(tl.int32), 0) > 0:
            mask = own[:, None] & (d < D)[None, :]
            total += tl.sum(tl.load(shares_ptr + 2 * behind[:, None] * D + d[None, :], mask=mask, other=0.0), 0)
            behind += BLOCK_T
            own = row == tl.load(ids_ptr + behind * PLACES, mask=behind < tiles, other=-2)
        slot = tl.load(slots_ptr + last).to(tl.int64)
        tl.store(out_ptr + slot * D + d, total.to(out_ptr.dtype.element_ty), mask=d < D)


def row_scores(source: Tensor, index: Tensor | None, weight: Tensor, rows: Tensor, sparse: bool) -> Tensor:
    """See `seqops.ops._rows`."""
    (B, R), (V, D) = rows.shape, weight.shape
    scores = torch.zeros((B, R), dtype=torch.float32, device=rows.device)
    if B * R * D == 0:
        return scores
    cfg = config.rows(D)
    with device_guard(weight):
        row_scores_kernel[(triton.cdiv(B, cfg.block_b),)](
            source.contiguous(),
            None if index is None else index.contiguous(),
            weight.contiguous(),
            rows.contiguous(),
            scores,
            B,
            source.shape[0],
            V,
            R,
            D=D,
            BLOCK_B=cfg.block_b,
            BLOCK_D=cfg.block_d,
            num_warps=cfg.num_warps,
        )
    return scores


def row_sums(table: Tensor, rows: Tensor, coefficients: Tensor, sparse: bool) -> Tensor:
    """See `seqops.ops._rows`."""
    (B, R), (V, D) = rows.shape, table.shape
    out = torch.zeros((B, D), dtype=torch.float32, device=rows.device)
    if B * R * D == 0:
        return out
    cfg = config.rows(D)
    with device_guard(table):
        row_sums_kernel[(triton.cdiv(B, cfg.block_b) * triton.cdiv(D, cfg.block_d),)](
            table.contiguous(),
            rows.contiguous(),
            coefficients.to(torch.float32).contiguous(),
            out,
            B,
            V,
            R,
            D=D,
            BLOCK_B=cfg.block_b,
            BLOCK_D=cfg.block_d,
            num_warps=cfg.num_warps,
        )
    return out


def _sorted(
    index: Tensor | None, coefficients: Tensor, rows: Tensor, num_rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, the order that sorts them, and in that order the source's rows and the coefficients."""
    ids = torch.where((rows >= 0) & (rows < num_rows), rows, -1).to(torch.int32).reshape(-1)
    ids, order = torch.sort(ids, stable=True)
    items = order if rows.shape[1] == 1 else order // rows.shape[1]
    items = items if index is None else index.reshape(-1)[items]
    # The item of a row that is left out may be none itself.
    return ids, order, items.contiguous(), coefficients.reshape(-1)[order].to(torch.float32)


def _scatter(source: Tensor, items: Tensor, coefficients: Tensor, ids: Tensor, slots: Tensor, out: Tensor) -> None:
    (N,), D = ids.shape, source.shape[1]
    if N * D == 0:
        return
    cfg = config.ROW_SCATTER
    block_d = min(cfg.block_d, max(16, triton.next_power_of_2(D)))
    tiles, groups_d = triton.cdiv(N, cfg.places), triton.cdiv(D, block_d)
    shares = torch.empty((tiles, 2, D), dtype=torch.float32, device=source.device)
    sizes = {"D": D, "PLACES": cfg.places, "BLOCK_D": block_d, "num_warps": cfg.num_warps}
    with device_guard(source):
        row_scatter_kernel[(tiles * groups_d,)](
            source.contiguous(), items, coefficients, ids, slots, out, shares, N, **sizes
        )
        if tiles > 1:
            row_scatter_shares_kernel[(tiles * groups_d,)](
                ids, slots, shares, out, N, tiles, BLOCK_T=cfg.block_t, **sizes
            )


def row_scatter(
    source: Tensor, index: Tensor | None, coefficients: Tensor, rows: Tensor, num_rows: int, dtype: torch.dtype
) -> Tensor:
    """See `seqops.ops._rows`."""
    out = torch.zeros((num_rows, source.shape[1]), dtype=dtype, device=source.device)
    ids, _, items, own = _sorted(index, coefficients, rows, num_rows)
    _scatter(source, items, own, ids, ids, out)
    return out


def row_scatter_sparse(
    source: Tensor, index: Tensor | None, coefficients: Tensor, rows: Tensor, num_rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `seqops.ops._rows`. How many rows there are is asked of the GPU: the host waits."""
    ids, _, items, own = _sorted(index, coefficients, rows, num_rows)
    begins = ids >= 0
    begins[1:] &= ids[1:] != ids[:-1]
    slots = begins.cumsum(0) - 1
    count = int(slots[-1]) + 1 if len(slots) else 0
    # Places of one row write one number; those that were left out write theirs behind the others.
    used = torch.empty(count + 1, dtype=torch.int64, device=source.device)
    used.scatter_(0, torch.where(ids < 0, count, slots), ids.to(torch.int64))
    out = torch.zeros((count, source.shape[1]), dtype=dtype, device=source.device)
    _scatter(source, items, own, ids, slots, out)
    return used[:count], out


def row_sums_scatter(
    table: Tensor, rows: Tensor, coefficients: Tensor, index: Tensor, num_rows: int, dtype: torch.dtype
) -> Tensor:
    """See `seqops.ops._rows`."""
    sums = row_sums(table, rows, coefficients, False)
    return row_scatter(sums, None, _one_each(sums), index[:, None], num_rows, dtype)


def row_sums_scatter_sparse(
    table: Tensor, rows: Tensor, coefficients: Tensor, index: Tensor, num_rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `seqops.ops._rows`. How many rows there are is asked of the GPU: the host waits."""
    sums = row_sums(table, rows, coefficients, False)
    return row_scatter_sparse(sums, None, _one_each(sums), index[:, None], num_rows, dtype)


def _one_each(sums: Tensor) -> Tensor:
    return sums.new_ones(1, 1).expand(sums.shape[0], 1)
