"""Additive attention, forward and backward, in Triton.

What costs is tanh of query + key, for Q * T * D elements an item, and the [B,Q,T,D] tensor must not exist: each kernel
makes it tile by tile, and sums over one axis of it in registers, where partial sums are kept apart until the walk ends,
so that no step of the walk waits for a sum over threads. [B,Q,T] is small beside the work on it: the scores go through
memory to a softmax of its own, so that they can be split over all of Q and T, and fill a GPU where Q is 1 too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import config
from .common import device_guard, tanh

__all__ = ["additive_attention_scores_bwd", "additive_attention_weights"]


@triton.jit
def item_length(lengths_ptr, b, T):
    """The number of positions that item b has."""
    length = T
    if lengths_ptr is not None:
        length = tl.minimum(tl.load(lengths_ptr + b), T)
    return length


@triton.jit
def allowed_tile(mask_ptr, b, queries, positions, length, Q, T, MASK_PER_QUERY: tl.constexpr):
    """bool [queries, positions]: which of them lie inside, and where a query may look; mask is [B, 1 or Q, T]."""
    allowed = (queries < Q)[:, None] & (positions < length)[None, :]
    if mask_ptr is not None:
        rows = b + 0 * queries
        if MASK_PER_QUERY:
            rows = b * Q + queries
        masks = tl.load(mask_ptr + rows[:, None] * T + positions[None, :], mask=allowed, other=0)
        allowed = allowed & (masks != 0)
    return allowed


@triton.jit
def load_rows(ptr, rows, row_mask, columns, D: tl.constexpr):
    """A [rows, columns] tile of a row-major matrix with D columns as fp32, zero outside it."""
    mask = row_mask[:, None] & (columns < D)[None, :]
    return tl.load(ptr + rows[:, None] * D + columns[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def additive_attention_scores_kernel(
    query_ptr,
    keys_ptr,
    v_ptr,
    lengths_ptr,
    scores_ptr,
    Q,
    T,
    D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (b, g_q, g_t) owns BLOCK_Q queries x BLOCK_T positions of item b, and walks the features.

    scores [B,Q,T] fp32 are written up to the item's length only.
    """
    pid = tl.program_id(0).to(tl.int64)
    groups_t = tl.cdiv(T, BLOCK_T)
    groups_q = tl.cdiv(Q, BLOCK_Q)
    b = pid // (groups_t * groups_q)
    queries = pid // groups_t % groups_q * BLOCK_Q + tl.arange(0, BLOCK_Q)
    t0 = pid % groups_t * BLOCK_T
    positions = t0 + tl.arange(0, BLOCK_T)
    length = item_length(lengths_ptr, b, T)
    if t0 < length:
        partial = tl.zeros([BLOCK_Q, BLOCK_T, BLOCK_D], tl.float32)
        for d0 in range(0, D, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            query = load_rows(query_ptr, b * Q + queries, queries < Q, d, D)
            key = load_rows(keys_ptr, b * T + positions, positions < length, d, D)
            v = tl.load(v_ptr + d, mask=d < D, other=0.0).to(tl.float32)
            partial += v[None, None, :] * tanh(query[:, None, :] + key[None, :, :])
        mask = (queries < Q)[:, None] & (positions < length)[None, :]
        tl.store(scores_ptr + (b * Q + queries)[:, None] * T + positions[None, :], tl.sum(partial, 2), mask=mask)


@triton.jit
def additive_attention_softmax_kernel(
    scores_ptr,
    mask_ptr,
    lengths_ptr,
    weights_ptr,
    Q,
    T,
    MASK_PER_QUERY: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Program (b, g_q) owns BLOCK_Q queries of item b; walks the positions once for maximum and sum, again to write."""
    pid = tl.program_id(0).to(tl.int64)
    groups_q = tl.cdiv(Q, BLOCK_Q)
    b = pid // groups_q
    queries = pid % groups_q * BLOCK_Q + tl.arange(0, BLOCK_Q)
    row_offsets = ((b * Q + queries) * T)[:, None]
    length = item_length(lengths_ptr, b, T)

    highest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # The highest so far, but finite where nothing was allowed yet: inf - inf would be NaN.
    shift = tl.zeros([BLOCK_Q], tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    for t0 in range(0, length, BLOCK_T):
        positions = t0 + tl.arange(0, BLOCK_T)
        allowed = allowed_tile(mask_ptr, b, queries, positions, length, Q, T, MASK_PER_QUERY)
        scores = tl.load(scores_ptr + row_offsets + positions[None, :], mask=allowed, other=float("-inf"))
        before = highest
        highest = tl.maximum(highest, tl.max(scores, 1))
        shift = tl.where(highest == float("-inf"), 0.0, highest)
        total = total * tl.exp(before - shift) + tl.sum(tl.exp(scores - shift[:, None]), 1)
    for t0 in range(0, T, BLOCK_T):
        positions = t0 + tl.arange(0, BLOCK_T)
        allowed = allowed_tile(mask_ptr, b, queries, positions, length, Q, T, MASK_PER_QUERY)
        scores = tl.load(scores_ptr + row_offsets + positions[None, :], mask=allowed, other=float("-inf"))
        # A row with no allowed position has no sum either: its weights are all left out here.
        weights = tl.where(allowed, tl.exp(scores - shift[:, None]) / total[:, None], 0.0)
        mask = (queries < Q)[:, None] & (positions < T)[None, :]
        tl.store(weights_ptr + row_offsets + positions[None, :], weights.to(weights_ptr.dtype.element_ty), mask=mask)


@triton.jit
def additive_attention_dquery_kernel(
    dscore_ptr,
    query_ptr,
    keys_ptr,
    v_ptr,
    mask_ptr,
    lengths_ptr,
    dquery_ptr,
    dv_ptr,
    Q,
    T,
    D: tl.constexpr,
    MASK_PER_QUERY: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (b, g_q, g_d) owns BLOCK_Q queries of item b x BLOCK_D features, and walks the positions.

    dv [B * groups of queries, D] fp32 holds each program's share of the gradient of v. Either output may be None.
    """
    pid = tl.program_id(0).to(tl.int64)
    GROUPS_D: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    groups_q = tl.cdiv(Q, BLOCK_Q)
    g_bq = pid // GROUPS_D
    b = g_bq // groups_q
    queries = g_bq % groups_q * BLOCK_Q + tl.arange(0, BLOCK_Q)
    d = pid % GROUPS_D * BLOCK_D + tl.arange(0, BLOCK_D)
    query_mask = queries < Q
    query = load_rows(query_ptr, b * Q + queries, query_mask, d, D)
    length = item_length(lengths_ptr, b, T)

    by_query = tl.zeros([BLOCK_Q, BLOCK_T, BLOCK_D], tl.float32)
    by_v = tl.zeros([BLOCK_Q, BLOCK_T, BLOCK_D], tl.float32)
    for t0 in range(0, length, BLOCK_T):
        positions = t0 + tl.arange(0, BLOCK_T)
        allowed = allowed_tile(mask_ptr, b, queries, positions, length, Q, T, MASK_PER_QUERY)
        offsets = (b * Q + queries)[:, None] * T + positions[None, :]
        dscore = tl.load(dscore_ptr + offsets, mask=allowed, other=0.0)[:, :, None]
        key = load_rows(keys_ptr, b * T + positions, positions < length, d, D)
        # Where a query may not look there may be NaN, which the 0 in dscore would not remove.
        h = tanh(tl.where(allowed[:, :, None], query[:, None, :] + key[None, :, :], 0.0))
        by_query += dscore * (1.0 - h * h)
        by_v += dscore * h
    if dquery_ptr is not None:
        v = tl.load(v_ptr + d, mask=d < D, other=0.0).to(tl.float32)
        dquery = (tl.sum(by_query, 1) * v[None, :]).to(dquery_ptr.dtype.element_ty)
        mask = query_mask[:, None] & (d < D)[None, :]
        tl.store(dquery_ptr + (b * Q + queries)[:, None] * D + d[None, :], dquery, mask=mask)
    if dv_ptr is not None:
        tl.store(dv_ptr + g_bq * D + d, tl.sum(tl.sum(by_v, 1), 0), mask=d < D)


@triton.jit
def additive_attention_dkeys_kernel(
    dscore_ptr,
    query_ptr,
    keys_ptr,
    v_ptr,
    mask_ptr,
    lengths_ptr,
    dkeys_ptr,
    Q,
    T,
    D: tl.constexpr,
    MASK_PER_QUERY: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (b, g_t, g_d) owns BLOCK_T positions of item b x BLOCK_D features, and walks the queries."""
    pid = tl.program_id(0).to(tl.int64)
    GROUPS_D: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    groups_t = tl.cdiv(T, BLOCK_T)
    g_bt = pid // GROUPS_D
    b = g_bt // groups_t
    t0 = g_bt % groups_t * BLOCK_T
    positions = t0 + tl.arange(0, BLOCK_T)
    d = pid % GROUPS_D * BLOCK_D + tl.arange(0, BLOCK_D)
    length = item_length(lengths_ptr, b, T)
    key = load_rows(keys_ptr, b * T + positions, positions < length, d, D)

    by_key = tl.zeros([BLOCK_Q, BLOCK_T, BLOCK_D], tl.float32)
    # Past the item's length no query looks.
    for q0 in range(0, tl.where(t0 < length, Q, 0), BLOCK_Q):
        queries = q0 + tl.arange(0, BLOCK_Q)
        allowed = allowed_tile(mask_ptr, b, queries, positions, length, Q, T, MASK_PER_QUERY)
        offsets = (b * Q + queries)[:, None] * T + positions[None, :]
        dscore = tl.load(dscore_ptr + offsets, mask=allowed, other=0.0)[:, :, None]
        query = load_rows(query_ptr, b * Q + queries, queries < Q, d, D)
        h = tanh(tl.where(allowed[:, :, None], query[:, None, :] + key[None, :, :], 0.0))
        by_key += dscore * (1.0 - h * h)
    v = tl.load(v_ptr + d, mask=d < D, other=0.0).to(tl.float32)
    dkeys = (tl.sum(by_key, 0) * v[None, :]).to(dkeys_ptr.dtype.element_ty)
    mask = (positions < T)[:, None] & (d < D)[None, :]
    tl.store(dkeys_ptr + (b * T + positions)[:, None] * D + d[None, :], dkeys, mask=mask)


def _masks(mask: Tensor | None, lengths: Tensor | None) -> tuple[Tensor | None, Tensor | None, bool]:
    """mask and lengths as the kernels read them, and whether each query has a row of the mask."""
    mask_bytes = None if mask is None else mask.contiguous().view(torch.uint8)
    per_query = mask is not None and mask.shape[1] != 1
    return mask_bytes, None if lengths is None else lengths.contiguous(), per_query


def additive_attention_weights(
    query: Tensor, keys: Tensor, v: Tensor, mask: Tensor | None, lengths: Tensor | None
) -> Tensor:
    """See `seqops.ops.additive_attention`. One kernel for the scores, one for their softmax."""
    (B, Q, D), T = query.shape, keys.shape[1]
    weights = query.new_empty(B, Q, T)
    if weights.numel() == 0:
        return weights
    scores = query.new_empty(B, Q, T, dtype=torch.float32)
    mask_bytes, lengths, per_query = _masks(mask, lengths)
    cfg = config.attention(config.ADDITIVE_ATTENTION_FWD, Q, D)
    rows = config.ADDITIVE_ATTENTION_SOFTMAX
    with device_guard(query):
        additive_attention_scores_kernel[(B * triton.cdiv(Q, cfg.block_q) * triton.cdiv(T, cfg.block_t),)](
            query.contiguous(),
            keys.contiguous(),
            v.contiguous(),
            lengths,
            scores,
            Q,
            T,
            D=D,
            BLOCK_Q=cfg.block_q,
            BLOCK_T=cfg.block_t,
            BLOCK_D=cfg.block_d,
            num_warps=cfg.num_warps,
        )
        additive_attention_softmax_kernel[(B * triton.cdiv(Q, rows.block_q),)](
            scores,
            mask_bytes,
            lengths,
            weights,
            Q,
            T,
            MASK_PER_QUERY=per_query,
            BLOCK_Q=rows.block_q,
            BLOCK_T=rows.block_t,
            num_warps=rows.num_warps,
        )
    return weights


def additive_attention_scores_bwd(
    dscore: Tensor,
    query: Tensor,
    keys: Tensor,
    v: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    need_query: bool,
    need_keys: bool,
    need_v: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.additive_attention`. One kernel for query and v, one for keys: no sum over programs is atomic."""
    (B, Q, D), T = query.shape, keys.shape[1]
    if B * Q * T * D == 0:
        return (
            query.new_zeros(query.shape if need_query else 0),
            keys.new_zeros(keys.shape if need_keys else 0),
            v.new_zeros(v.shape if need_v else 0),
        )
    cfg = config.attention(config.ADDITIVE_ATTENTION_BWD, Q, D)
    groups_q, groups_d = triton.cdiv(Q, cfg.block_q), triton.cdiv(D, cfg.block_d)
    dquery = query.new_empty((B, Q, D) if need_query else 0)
    dkeys = keys.new_empty((B, T, D) if need_keys else 0)
    dv = v.new_empty((B * groups_q, D) if need_v else 0, dtype=torch.float32)
    mask_bytes, lengths, per_query = _masks(mask, lengths)
    inputs = (dscore.contiguous(), query.contiguous(), keys.contiguous(), v.contiguous(), mask_bytes, lengths)
    with device_guard(query):
        if need_query or need_v:
            additive_attention_dquery_kernel[(B * groups_q * groups_d,)](
                *inputs,
                dquery if need_query else None,
                dv if need_v else None,
                Q,
                T,
                D=D,
                MASK_PER_QUERY=per_query,
                BLOCK_Q=cfg.block_q,
                BLOCK_T=cfg.block_t,
                BLOCK_D=cfg.block_d,
                num_warps=cfg.num_warps,
            )
        if need_keys:
            additive_attention_dkeys_kernel[(B * triton.cdiv(T, cfg.block_t) * groups_d,)](
                *inputs,
                dkeys,
                Q,
                T,
                D=D,
                MASK_PER_QUERY=per_query,
                BLOCK_Q=cfg.block_q,
                BLOCK_T=cfg.block_t,
                BLOCK_D=cfg.block_d,
                num_warps=cfg.num_warps,
            )
    return dquery, dkeys, dv.sum(0).to(v.dtype) if need_v else dv.to(v.dtype)
