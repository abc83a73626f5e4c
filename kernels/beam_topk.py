"""Beam top-k in Triton: one read of the logits, then only the best chunks of them again.

Each element has the value score + ((logit - m) - log_sum), with m and log_sum the row's normalizer, or -inf where it is
masked, and every selection is by (value, then lowest index), packed into one int64. The k best elements lie in the k
best chunks: a chunk's key is its maximum's value, rounded by the same expression as an element's, so each chunk ahead
of an element's own holds an element ahead of it. How a row is split depends on V alone: an item's result does not
depend on the batch around it. Above MAX_SELECTED the kernel that reads all logits is the same, and torch ranks the
chunks, a hundredth of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cpu.beam_topk import best_of_chunks
from . import config
from .common import device_guard

__all__ = ["beam_topk_bwd", "beam_topk_fwd"]

# The select kernel holds so many candidates in registers, and counts an item's in 32 bits.
MAX_SELECTED = 64

# Below every packed value: those begin at that of -inf.
NOTHING = tl.constexpr(-(2**63))


@triton.jit
def pack(value, index):
    """int64 whose order is: higher value first, NaN highest of all, then lower index (0..2^31-1).

    -0 ranks as 0.
    """
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    bits = tl.where(value == value, bits, 0x7FFFFFFF)
    return (bits.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@triton.jit
def packed_index(packed):
    return 0x7FFFFFFF - (packed & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def packed_value(packed):
    bits = (packed >> 32).to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def side(RANK: tl.constexpr, AXIS: tl.constexpr):
    """0 and 1 along one axis of a hypercube."""
    return tl.reshape(tl.arange(0, 2), [1] * AXIS + [2] + [1] * (RANK - 1 - AXIS))


@triton.jit
def merge(x, flip, RANK: tl.constexpr, STAGE: tl.constexpr):
    """Compares and swaps along the last STAGE axes of a hypercube: ascending, or descending where `flip` is 1."""
    for i in tl.static_range(RANK - STAGE, RANK):
        # A pair's sum less the one is the other, even if the sum wraps.
        other = tl.sum(x, i, keep_dims=True) - x
        x = tl.where((x > other) != (flip ^ side(RANK, i)), other, x)
    return x


@triton.jit
def topk(x, LOG_N: tl.constexpr, LOG_K: tl.constexpr):
    """The 2^LOG_K largest of 2^LOG_N int64, largest first: runs are sorted, then of each two the better half is kept.

    As tl.topk, whose exclusive-or the interpreter takes minutes for. LOG_K >= 1.
    """
    x = tl.reshape(x, [2] * LOG_N)
    for i in tl.static_range(1, LOG_K + 1):
        x = merge(x, side(LOG_N, LOG_N - 1 - i) if i < LOG_N else 1, LOG_N, i)
    for rank in tl.static_range(LOG_N - 1, LOG_K - 1, -1):
        x = tl.max(x, rank - LOG_K)
        x = merge(x, side(rank, rank - 1 - LOG_K) if rank > LOG_K else 1, rank, LOG_K)
    return tl.reshape(x, [2**LOG_K])


@triton.jit
def chunk_keys(chunk_max_ptr, normalizer_ptr, scores_ptr, item, chunks, mask, beam, n_chunks):
    """The packed keys of an item's chunks, NOTHING where masked."""
    rows = item * beam + chunks // n_chunks
    chunk_max = tl.load(chunk_max_ptr + item * beam * n_chunks + chunks, mask=mask, other=0.0)
    row_max = tl.load(normalizer_ptr + 2 * rows, mask=mask, other=0.0)
    log_sum = tl.load(normalizer_ptr + 2 * rows + 1, mask=mask, other=0.0)
    score = tl.load(scores_ptr + rows, mask=mask, other=0.0)
    return tl.where(mask, pack(score + ((chunk_max - row_max) - log_sum), chunks), NOTHING)


@triton.jit
def load_logits(ptrs, mask, inverse_temperature, other: tl.constexpr):
    return tl.load(ptrs, mask=mask, other=other).to(tl.float32) * inverse_temperature


@triton.jit
def beam_topk_chunks_kernel(
    logits_ptr,
    mask_ptr,
    chunk_max_ptr,
    partial_ptr,
    inverse_temperature,
    beam,
    V,
    n_chunks,
    n_segments,
    stride_b,
    stride_i,
    mask_stride_b,
    mask_stride_i,
    NORMALIZED: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Program (row, segment) owns CHUNKS chunks of CHUNK logits of one of the B*beam rows, and reads them once.

    chunk_max [B*beam, n_chunks] of the logits that are not masked; partial [B*beam, n_segments, 2] the segment's
    maximum m and sum of exp(logit - m), of all; not written where NORMALIZED.
    """
    pid = tl.program_id(0).to(tl.int64)
    row = pid // n_segments
    chunks = (pid % n_segments).to(tl.int32) * CHUNKS + tl.arange(0, CHUNKS)
    v = chunks[:, None] * CHUNK + tl.arange(0, CHUNK)[None, :]
    row_ptr = logits_ptr + (row // beam) * stride_b + (row % beam) * stride_i
    x = load_logits(row_ptr + v, v < V, inverse_temperature, float("-inf"))
    allowed = x
    if mask_ptr is not None:
        mask_row_ptr = mask_ptr + (row // beam) * mask_stride_b + (row % beam) * mask_stride_i
        allowed = tl.where(tl.load(mask_row_ptr + v, mask=v < V, other=0) != 0, x, float("-inf"))
    chunk_max = tl.max(allowed, 1)
    if NORMALIZED:
        # A maximum may lose a NaN, which here is its own affair.
        chunk_max = tl.where(tl.max((allowed != allowed).to(tl.int32), 1) == 1, float("nan"), chunk_max)
    tl.store(chunk_max_ptr + row * n_chunks + chunks, chunk_max, mask=chunks < n_chunks)
    if not NORMALIZED:
        # It may lose one here too; the sum keeps it, and with it the row is NaN.
        m = tl.max(tl.max(x, 1), 0)
        total = tl.sum(tl.sum(tl.exp(x - tl.where(m == float("-inf"), 0.0, m)), 1), 0)
        tl.store(partial_ptr + 2 * pid, m)
        tl.store(partial_ptr + 2 * pid + 1, total)


@triton.jit
def store_normalizers(
    partial_ptr, normalizer_ptr, item, beam, n_segments, BLOCK_I: tl.constexpr, BLOCK_S: tl.constexpr
):
    """The normalizers of an item's rows, from the partial ones of their segments."""
    for i0 in range(0, beam, BLOCK_I):
        i = i0 + tl.arange(0, BLOCK_I)
        rows = item * beam + i
        m = tl.full([BLOCK_I], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_I], tl.float32)
        for s0 in range(0, n_segments, BLOCK_S):
            s = s0 + tl.arange(0, BLOCK_S)
            mask = (i < beam)[:, None] & (s < n_segments)[None, :]
            partial = partial_ptr + 2 * (rows[:, None] * n_segments + s[None, :])
            part_m = tl.load(partial, mask=mask, other=float("-inf"))
            part_total = tl.load(partial + 1, mask=mask, other=0.0)
            new_m = tl.maximum(m, tl.max(part_m, 1))
            base = tl.where(new_m == float("-inf"), 0.0, new_m)
            total = total * tl.exp(m - base) + tl.sum(part_total * tl.exp(part_m - base[:, None]), 1)
            m = new_m
        # Only a row that is all -inf sums to 0.
        dead = total == 0.0
        tl.store(normalizer_ptr + 2 * rows, tl.where(dead, 0.0, m), mask=i < beam)
        log_sum = tl.where(dead, float("inf"), tl.log(tl.where(dead, 1.0, total)))
        tl.store(normalizer_ptr + 2 * rows + 1, log_sum, mask=i < beam)


@triton.jit
def beam_topk_normalizer_kernel(
    partial_ptr, normalizer_ptr, beam, n_segments, BLOCK_I: tl.constexpr, BLOCK_S: tl.constexpr
):
    """Program b owns item b: its rows' normalizers alone, for selections that are not made here."""
    item = tl.program_id(0).to(tl.int64)
    store_normalizers(partial_ptr, normalizer_ptr, item, beam, n_segments, BLOCK_I, BLOCK_S)


@triton.jit
def beam_topk_select_kernel(
    logits_ptr,
    mask_ptr,
    scores_ptr,
    chunk_max_ptr,
    partial_ptr,
    normalizer_ptr,
    best_ptr,
    parents_ptr,
    tokens_ptr,
    inverse_temperature,
    k,
    beam,
    V,
    n_chunks,
    n_segments,
    stride_b,
    stride_i,
    mask_stride_b,
    mask_stride_i,
    NORMALIZED: tl.constexpr,
    CHUNK: tl.constexpr,
    LOG_PART: tl.constexpr,
    LOG_TOP: tl.constexpr,
    LOG_GROUPS: tl.constexpr,
    LOG_MEMBERS: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Program b owns item b: its rows' normalizers, then its best chunks by way of groups of them, then its best k.

    TOP is k rounded up to a power of two. Chunk c belongs to group c % GROUPS, of MEMBERS at most: the best TOP chunks
    lie in the best TOP groups. Of these chunks PART columns at a time are ranked. normalizer [B,beam,2] as in
    `seqops.ops.beam_topk`; best, parents, tokens [B,k].
    """
    PART: tl.constexpr = 2**LOG_PART
    TOP: tl.constexpr = 2**LOG_TOP
    GROUPS: tl.constexpr = 2**LOG_GROUPS
    MEMBERS: tl.constexpr = 2**LOG_MEMBERS
    item = tl.program_id(0).to(tl.int64)
    if not NORMALIZED:
        store_normalizers(partial_ptr, normalizer_ptr, item, beam, n_segments, BLOCK_I, BLOCK_S)
        # What follows reads the normalizers that other threads of this program have stored.
        tl.debug_barrier()

    n = beam * n_chunks
    group_best = tl.full([GROUPS], NOTHING, tl.int64)
    for c0 in range(0, n, GROUPS):
        chunks = c0 + tl.arange(0, GROUPS)
        keys = chunk_keys(chunk_max_ptr, normalizer_ptr, scores_ptr, item, chunks, chunks < n, beam, n_chunks)
        group_best = tl.maximum(group_best, keys)
    best = topk(group_best, LOG_GROUPS, LOG_TOP)
    if MEMBERS > 1:
        chunks = (packed_index(best) % GROUPS)[:, None] + GROUPS * tl.arange(0, MEMBERS)[None, :]
        mask = (best != NOTHING)[:, None] & (chunks < n)
        keys = chunk_keys(chunk_max_ptr, normalizer_ptr, scores_ptr, item, chunks, mask, beam, n_chunks)
        best = topk(keys, LOG_TOP + LOG_MEMBERS, LOG_TOP)

    filled = best != NOTHING
    chunks = tl.where(filled, packed_index(best), 0)
    i = chunks // n_chunks
    rows = item * beam + i
    row_max = tl.load(normalizer_ptr + 2 * rows)
    log_sum = tl.load(normalizer_ptr + 2 * rows + 1)
    score = tl.load(scores_ptr + rows)
    row_ptrs = logits_ptr + item * stride_b + i.to(tl.int64) * stride_i
    best = tl.full([TOP], NOTHING, tl.int64)
    for part in range(0, CHUNK, PART):
        v = (chunks % n_chunks)[:, None] * CHUNK + part + tl.arange(0, PART)[None, :]
        inside = filled[:, None] & (v < V)
        x = load_logits(row_ptrs[:, None] + v, inside, inverse_temperature, 0.0)
        value = score[:, None] + ((x - row_max[:, None]) - log_sum[:, None])
        if mask_ptr is not None:
            mask_row_ptrs = mask_ptr + item * mask_stride_b + i.to(tl.int64) * mask_stride_i
            masks = tl.load(mask_row_ptrs[:, None] + v, mask=inside, other=0)
            value = tl.where(masks != 0, value, float("-inf"))
        packed = tl.where(inside, pack(value, i[:, None] * V + v), NOTHING)
        best = topk(tl.join(best, topk(packed, LOG_TOP + LOG_PART, LOG_TOP)), LOG_TOP + 1, LOG_TOP)

    j = tl.arange(0, TOP)
    flat = packed_index(best)
    own = item * k + j
    tl.store(best_ptr + own, packed_value(best), mask=j < k)
    tl.store(parents_ptr + own, (flat // V).to(tl.int64), mask=j < k)
    tl.store(tokens_ptr + own, (flat % V).to(tl.int64), mask=j < k)


@triton.jit
def beam_topk_bwd_kernel(
    grad_ptr,
    logits_ptr,
    normalizer_ptr,
    parents_ptr,
    tokens_ptr,
    dlogits_ptr,
    inverse_temperature,
    beam,
    V,
    k,
    n_tiles,
    stride_b,
    stride_i,
    TOP: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Program (row, tile) owns BLOCK_V logits of one of the B*beam rows: -softmax * (the row's sum of grad) for all of
    them, then the chosen ones again with their own grad added.
    """
    pid = tl.program_id(0).to(tl.int64)
    row = pid // n_tiles
    v0 = (pid % n_tiles).to(tl.int32) * BLOCK_V
    item = row // beam
    j = tl.arange(0, TOP)
    grad = tl.load(grad_ptr + item * k + j, mask=j < k, other=0.0)
    parent = tl.load(parents_ptr + item * k + j, mask=j < k, other=-1)
    token = tl.load(tokens_ptr + item * k + j, mask=j < k, other=0).to(tl.int32)
    row_max = tl.load(normalizer_ptr + 2 * row)
    log_sum = tl.load(normalizer_ptr + 2 * row + 1)
    # A row that is all -inf has no gradient.
    own = parent == tl.where(log_sum == float("inf"), -2, row % beam)
    total = tl.sum(tl.where(own, grad, 0.0), 0)

    row_ptr = logits_ptr + item * stride_b + (row % beam) * stride_i
    out_ptr = dlogits_ptr + row * V
    dtype = dlogits_ptr.dtype.element_ty
    v = v0 + tl.arange(0, BLOCK_V)
    x = load_logits(row_ptr + v, v < V, inverse_temperature, 0.0)
    # d of the logits before the temperature
    slope = -total * tl.exp((x - row_max) - log_sum) * inverse_temperature
    tl.store(out_ptr + v, slope.to(dtype), mask=v < V)
    # The chosen are stored twice, by two threads: the barrier keeps the order.
    tl.debug_barrier()
    own &= (token >= v0) & (token < v0 + BLOCK_V)
    x = load_logits(row_ptr + token, own, inverse_temperature, 0.0)
    slope = (grad - total * tl.exp((x - row_max) - log_sum)) * inverse_temperature
    tl.store(out_ptr + token, slope.to(dtype), mask=own)


def log2_ceil(n: int) -> int:
    return (n - 1).bit_length()


class Plan(NamedTuple):
    """How the rows of a vocabulary are split, and each kernel's compile-time constants."""

    n_chunks: int
    n_segments: int
    n_tiles: int
    chunks: dict[str, int]
    select: dict[str, int]
    backward: dict[str, int]


def plan(beam: int, V: int, k: int) -> Plan:
    cfg = config.BEAM_TOPK
    n_chunks = triton.cdiv(V, cfg.chunk)
    chunks = min(cfg.chunks, triton.next_power_of_2(n_chunks))
    log_top = max(1, log2_ceil(k))
    log_n = log2_ceil(beam * n_chunks)
    # Balanced: as many groups as there are members in the best groups.
    log_groups = max(log_top, (log_n + log_top + 1) // 2)
    block_v = min(cfg.block_v, triton.next_power_of_2(V))
    return Plan(
        n_chunks=n_chunks,
        n_segments=triton.cdiv(n_chunks, chunks),
        n_tiles=triton.cdiv(V, block_v),
        chunks={"CHUNK": cfg.chunk, "CHUNKS": chunks},
        select={
            "CHUNK": cfg.chunk,
            "LOG_PART": min(log2_ceil(cfg.chunk), cfg.log_candidates - log_top),
            "LOG_TOP": log_top,
            "LOG_GROUPS": log_groups,
            "LOG_MEMBERS": max(0, log_n - log_groups),
            "BLOCK_I": 8,
            "BLOCK_S": 32,
        },
        backward={"TOP": triton.next_power_of_2(k), "BLOCK_V": block_v},
    )


def _unit_stride(rows: Tensor) -> Tensor:
    """Rows may lie anywhere, but are read as contiguous."""
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def beam_topk_fwd(
    logits: Tensor, scores: Tensor, k: int, mask: Tensor | None, inverse_temperature: float, normalized: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.beam_topk`. One launch over all logits, one over the items."""
    B, beam, V = logits.shape
    best = scores.new_empty(B, k)
    parents = scores.new_empty(B, k, dtype=torch.int64)
    tokens = torch.empty_like(parents)
    normalizer = scores.new_zeros(B, beam, 2) if normalized else scores.new_empty(B, beam, 2)
    if B == 0:
        return best, parents, tokens, normalizer
    cfg, p = config.BEAM_TOPK, plan(beam, V, k)
    logits, scores = _unit_stride(logits), scores.contiguous()
    mask_bytes = None if mask is None else _unit_stride(mask).view(torch.uint8)
    chunk_max = scores.new_empty(B * beam, p.n_chunks)
    partial = scores.new_empty(B * beam, p.n_segments, 2)
    sizes = (
        beam,
        V,
        p.n_chunks,
        p.n_segments,
        *logits.stride()[:2],
        *((0, 0) if mask_bytes is None else mask_bytes.stride()[:2]),
    )
    with device_guard(logits):
        beam_topk_chunks_kernel[(B * beam * p.n_segments,)](
            logits,
            mask_bytes,
            chunk_max,
            partial,
            inverse_temperature,
            *sizes,
            NORMALIZED=normalized,
            **p.chunks,
            num_warps=cfg.num_warps,
        )
        if k > MAX_SELECTED:
            if not normalized:
                blocks = {n: p.select[n] for n in ("BLOCK_I", "BLOCK_S")}
                beam_topk_normalizer_kernel[(B,)](
                    partial, normalizer, beam, p.n_segments, **blocks, num_warps=cfg.num_warps
                )
            chunk_max = chunk_max.view(B, beam, p.n_chunks)
            chosen = best_of_chunks(
                logits, scores, k, mask, inverse_temperature, normalizer, chunk_max, p.chunks["CHUNK"]
            )
            return *chosen, normalizer
        beam_topk_select_kernel[(B,)](
            logits,
            mask_bytes,
            scores,
            chunk_max,
            partial,
            normalizer,
            best,
            parents,
            tokens,
            inverse_temperature,
            k,
            *sizes,
            NORMALIZED=normalized,
            **p.select,
            num_warps=cfg.select_warps,
            # One rounding of temperature and normalizer would give an element another value than its chunk has.
            enable_fp_fusion=False,
        )
    return best, parents, tokens, normalizer


def beam_topk_bwd(
    grad: Tensor, logits: Tensor, normalizer: Tensor, parents: Tensor, tokens: Tensor, inverse_temperature: float
) -> Tensor:
    """See `seqops.ops.beam_topk`."""
    B, beam, V = logits.shape
    dlogits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if B == 0:
        return dlogits
    logits, p = _unit_stride(logits), plan(beam, V, grad.shape[1])
    with device_guard(logits):
        beam_topk_bwd_kernel[(B * beam * p.n_tiles,)](
            grad.contiguous(),
            logits,
            normalizer.contiguous(),
            parents.contiguous(),
            tokens.contiguous(),
            dlogits,
            inverse_temperature,
            beam,
            V,
            grad.shape[1],
            p.n_tiles,
            *logits.stride()[:2],
            **p.backward,
            num_warps=config.BEAM_TOPK.num_warps,
        )
    return dlogits
