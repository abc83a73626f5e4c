"""The walk over time of the recurrent ops, forward and backward, in Triton: RNN, GRU, LSTM.

The hidden units are split over programs, and each program owns all gates of its units for a slice of the batch. What a
step needs of the other programs' units is exchanged through the output of the step before it, at a fresh address each
step, so that one barrier a step is enough. Where the grid fits on the chip at once, one launch walks all time steps
(persistent); else, and in the interpreter, which runs programs one after another, a launch is one step. Few units are
one program's, which exchanges nothing: it keeps the hidden state, and one launch walks all time steps anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cpu._recurrent import BOTH, HiddenWeights, half_of
from . import config
from .common import device_guard, dot_precision, grid_barrier, resident_limits
from .recurrent_large import walk_large_back, walk_large_forward
from .recurrent_step import direction_of, lengths_of, starts_at, step_back, step_forward, tile_of_head, time_of

__all__ = [
    "GATES",
    "RUN_TIME",
    "apart",
    "at_once",
    "first_chunk",
    "leave",
    "load_slices",
    "pick",
    "plain",
    "products",
    "walk",
    "walk_back",
    "walk_forward",
]

# By the name of the cell; a "relu" is an RNN with that nonlinearity.
GATES = {"tanh": 1, "relu": 1, "gru": 3, "lstm": 4}
# A new length or batch must not compile anew.
RUN_TIME = ["b0", "step0", "STEPS", "T", "B"]


@triton.jit
def load_weights(w_ptr, columns, column_mask, k0, K, stride_k, stride_column, BLOCK_K: tl.constexpr):
    """A [BLOCK_K, columns] tile of a weight matrix, zero outside it."""
    k = k0 + tl.arange(0, BLOCK_K)
    offsets = k[:, None] * stride_k + columns[None, :] * stride_column
    return tl.load(w_ptr + offsets, mask=(k[:, None] < K) & column_mask[None, :], other=0.0)


@triton.jit
def first_chunk(row_ptrs, BLOCK_K: tl.constexpr):
    """Pointers to the first BLOCK_K elements of rows, between which a program may choose by the row.

    Of pointers to rows, once chosen, Triton from 3.8 on does not know how they are aligned: it loads each element by
    itself, and registers do not suffice.
    """
    return row_ptrs[:, None] + tl.arange(0, BLOCK_K)[None, :]


@triton.jit
def load_rows(row_ptrs, row_mask, k0, K, BLOCK_K: tl.constexpr):
    """A [rows, BLOCK_K] tile of what other programs wrote in the step before: from L2, this SM's L1 may be stale.

    row_ptrs: of the rows, or of their `first_chunk`.
    """
    k = k0 + tl.arange(0, BLOCK_K)
    mask = row_mask[:, None] & (k[None, :] < K)
    ptrs = row_ptrs[:, None] + k[None, :] if len(row_ptrs.shape) == 1 else row_ptrs + k0
    return tl.load(ptrs, mask=mask, other=0.0, cache_modifier=".cg")


@triton.jit
def load_slices(
    w_ptr,
    columns,
    column_mask,
    K: tl.constexpr,
    stride_k,
    stride_column,
    stride_gate,
    GATES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    """The weights [K, columns] of each gate, where they are resident: a tuple of tiles, all gates of a chunk of K, then
    the next chunk. So each tile's place in shared memory is taken before the time loop.
    """
    slices = ()
    if RESIDENT:
        for i in tl.static_range((K + BLOCK_K - 1) // BLOCK_K):
            for g in tl.static_range(GATES):
                w_g = w_ptr + g * stride_gate
                slices = slices + (
                    load_weights(w_g, columns, column_mask, i * BLOCK_K, K, stride_k, stride_column, BLOCK_K),
                )
    return slices


@triton.jit
def products(
    row_ptrs,
    row_mask,
    slices,
    w_ptr,
    columns,
    column_mask,
    K: tl.constexpr,
    stride_k,
    stride_column,
    stride_gate,
    GATES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr,
    scale_ptrs=None,
):
    """What other programs wrote, rows [.., K], times each gate's weights [K, columns]: fp32, a tuple of GATES.

    row_ptrs: as `load_rows` has them. scale_ptrs, not with RESIDENT: of rows [.., K] by which those are multiplied.
    """
    sums = ()
    for _ in tl.static_range(GATES):
        sums = sums + (tl.zeros([row_mask.shape[0], column_mask.shape[0]], tl.float32),)
    if RESIDENT:
        for i in tl.static_range((K + BLOCK_K - 1) // BLOCK_K):
            rows_k = load_rows(row_ptrs, row_mask, i * BLOCK_K, K, BLOCK_K)
            more = ()
            for g in tl.static_range(GATES):
                more = more + (tl.dot(rows_k, slices[i * GATES + g], sums[g], input_precision=PRECISION),)
            sums = more
    else:
        for k0 in range(0, K, BLOCK_K):
            rows_k = load_rows(row_ptrs, row_mask, k0, K, BLOCK_K)
            if scale_ptrs is not None:
                rows_k *= load_rows(scale_ptrs, row_mask, k0, K, BLOCK_K)
            more = ()
            for g in tl.static_range(GATES):
                w_g = w_ptr + g * stride_gate
                w_k = load_weights(w_g, columns, column_mask, k0, K, stride_k, stride_column, BLOCK_K)
                more = more + (tl.dot(rows_k, w_k, sums[g], input_precision=PRECISION),)
            sums = more
    return sums


@triton.jit
def products_of(tile, slices, GATES: tl.constexpr, PRECISION: tl.constexpr):
    """A tile [rows, K] that the program has itself times each gate's resident weights: as `products`."""
    sums = ()
    for g in tl.static_range(GATES):
        sums = sums + (tl.dot(tile, slices[g], input_precision=PRECISION),)
    return sums


@triton.jit
def product_sum(
    row_ptrs,
    row_mask,
    stride_part,
    slices,
    w_ptr,
    columns,
    column_mask,
    K: tl.constexpr,
    stride_k,
    stride_column,
    stride_weights,
    PARTS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The sum over parts of what other programs wrote, a part's rows [.., K] times its weights [K, columns]: fp32."""
    total = tl.zeros([row_mask.shape[0], column_mask.shape[0]], tl.float32)
    if RESIDENT:
        for i in tl.static_range((K + BLOCK_K - 1) // BLOCK_K):
            for p in tl.static_range(PARTS):
                rows_k = load_rows(row_ptrs + p * stride_part, row_mask, i * BLOCK_K, K, BLOCK_K)
                total = tl.dot(rows_k, slices[i * PARTS + p], total, input_precision=PRECISION)
    else:
        for k0 in range(0, K, BLOCK_K):
            for p in tl.static_range(PARTS):
                rows_k = load_rows(row_ptrs + p * stride_part, row_mask, k0, K, BLOCK_K)
                w_p = w_ptr + p * stride_weights
                w_k = load_weights(w_p, columns, column_mask, k0, K, stride_k, stride_column, BLOCK_K)
                total = tl.dot(rows_k, w_k, total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=RUN_TIME)
def recurrent_fwd_kernel(
    gx_ptr,
    h0_ptr,
    w_hh_ptr,
    b_hh_ptr,
    lengths_ptr,
    reset_ptr,
    reset_state_ptr,
    mask_ptr,
    zoneout_ptr,
    zoneout_c_ptr,
    y_ptr,
    cells_ptr,
    state_ptr,
    barrier_ptr,
    b0,
    step0,
    STEPS,
    T,
    B,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    H: tl.constexpr,
    HEADS: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (g_b, head, g_h) owns BLOCK_B batch rows from b0 on x BLOCK_H units of a head, and walks STEPS steps from
    step0 on. Programs of a row and a head wait for one another; one alone multiplies the h that it has.

    gx [T,B,GATES*H]: the input's share of the pre-activations, with all biases that need not wait for h's share; b_hh:
    the others. w_hh [GATES*H,H/HEADS]. y [T,B,H]; cells [T,B,H]: of an LSTM c, of an RNN its output before zoneout.
    state [1 or 2,B,H] fp32 holds h, and an LSTM's c, before step0, then after the last step; reset_state is laid out
    like it. mask [B,H] multiplies h where it meets w_hh; zoneout [T,B,H] is what share of h is kept, zoneout_c of c.
    """
    D: tl.constexpr = H // HEADS
    G_H: tl.constexpr = (D + BLOCK_H - 1) // BLOCK_H
    ALONE: tl.constexpr = RESIDENT and D <= BLOCK_H and BLOCK_H == BLOCK_K
    group, rows, first, units, row_mask, unit_mask = tile_of_head(b0, B, D, HEADS, BLOCK_B, BLOCK_H)
    mask = row_mask[:, None] & unit_mask[None, :]
    own = rows[:, None] * H + units[None, :]
    second = tl.cast(B, tl.int64) * H

    w = load_slices(w_hh_ptr, units, unit_mask, D, 1, D, H * D, GATES, BLOCK_K, RESIDENT)
    bias = ()
    for g in tl.static_range(GATES):
        if b_hh_ptr is None:
            bias = bias + (tl.zeros([BLOCK_H], tl.float32),)
        else:
            bias = bias + (tl.load(b_hh_ptr + g * H + units, mask=unit_mask, other=0.0).to(tl.float32),)
    length = lengths_of(lengths_ptr, rows, row_mask, T)
    back = direction_of(group, HEADS, REVERSE)
    if reset_ptr is not None and REVERSE == 2:
        reset_ptr += back.to(tl.int64) * T * B
    scale_ptrs = None
    if mask_ptr is not None:
        scale_ptrs = mask_ptr + rows * H + first

    h = tl.load(state_ptr + own, mask=mask, other=0.0)
    c = h
    if CELL == "lstm":
        c = tl.load(state_ptr + second + own, mask=mask, other=0.0)
    for step in range(step0, step0 + STEPS):
        t, before = time_of(step, T, back)
        starts = starts_at(t, length, back)
        active = t < length
        gx_ptrs = gx_ptr + t * B * GATES * H + rows[:, None] * GATES * H + units[None, :]
        gx = ()
        for g in tl.static_range(GATES):
            gx = gx + (tl.load(gx_ptrs + g * H, mask=mask, other=0.0).to(tl.float32),)

        # A row's first step reads h0, each later one the output of the step before, a reset one what takes its place.
        h_ptrs = first_chunk(y_ptr + before * B * H + rows * H + first, BLOCK_K)
        h_ptrs = tl.where(starts[:, None], first_chunk(h0_ptr + rows * H + first, BLOCK_K), h_ptrs)
        if reset_ptr is not None:
            fresh = tl.load(reset_ptr + t * B + rows, mask=row_mask, other=0) != 0
            h_ptrs = tl.where(fresh[:, None], first_chunk(reset_state_ptr + rows * H + first, BLOCK_K), h_ptrs)
            fresh_mask = mask & fresh[:, None]
            h = tl.where(fresh_mask, tl.load(reset_state_ptr + own, mask=fresh_mask, other=0.0).to(tl.float32), h)
            if CELL == "lstm":
                c_ptrs = reset_state_ptr + second + own
                c = tl.where(fresh_mask, tl.load(c_ptrs, mask=fresh_mask, other=0.0).to(tl.float32), c)
        if ALONE:
            scaled = h.to(y_ptr.dtype.element_ty)
            if mask_ptr is not None:
                scaled *= tl.load(mask_ptr + own, mask=mask, other=0.0)
            gh = products_of(scaled, w, GATES, PRECISION)
        else:
            gh = products(
                h_ptrs, row_mask & active, w, w_hh_ptr, units, unit_mask, D, 1, D, H * D, GATES, BLOCK_K, RESIDENT,
                PRECISION, scale_ptrs,
            )  # fmt: skip

        h, c = step_forward(
            gx, gh, bias, h, c, active, t * B * H, own, mask, y_ptr, cells_ptr, zoneout_ptr, zoneout_c_ptr, CELL
        )
        if BARRIER:
            grid_barrier(barrier_ptr + group, (step - step0 + 1) * G_H)
    tl.store(state_ptr + own, h, mask=mask)
    if CELL == "lstm":
        tl.store(state_ptr + second + own, c, mask=mask)


@triton.jit(do_not_specialize=RUN_TIME)
def recurrent_bwd_kernel(
    dg_ptr,
    aux_ptr,
    grad_y_ptr,
    grad_cells_ptr,
    w_hh_ptr,
    lengths_ptr,
    reset_ptr,
    mask_ptr,
    zoneout_ptr,
    zoneout_c_ptr,
    by_reset_ptr,
    state_ptr,
    barrier_ptr,
    b0,
    step0,
    STEPS,
    T,
    B,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    H: tl.constexpr,
    HEADS: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (g_b, head, g_h) owns BLOCK_B batch rows from b0 on x BLOCK_H units of a head, and goes last to first.

    dg [T,B,GATES*H] holds the factors by which the gradients of h's share of the pre-activations follow from dh (of an
    LSTM's i, f, g: from dc), and becomes these gradients. aux: of a GRU, d gx with z and the factor of d gx_n in it
    [T,B,3H]; of an LSTM the factor of dc and f [T,B,2H]. state [1 or 2,B,H] fp32 holds the part of dh that does not
    pass through W_hh, and dc: the gradients of h_n and c_n at first. by_reset, laid out like it, gathers those of the
    state that resets put in place. zoneout, zoneout_c [T,B,H]: what shares of h and c are kept, of a GRU in aux's z.
    """
    D: tl.constexpr = H // HEADS
    G_H: tl.constexpr = (D + BLOCK_H - 1) // BLOCK_H
    ALONE: tl.constexpr = RESIDENT and D <= BLOCK_H and BLOCK_H == BLOCK_K
    group, rows, first, units, row_mask, unit_mask = tile_of_head(b0, B, D, HEADS, BLOCK_B, BLOCK_H)
    mask = row_mask[:, None] & unit_mask[None, :]
    own = rows[:, None] * H + units[None, :]
    second = tl.cast(B, tl.int64) * H
    K: tl.constexpr = GATES * H

    # Without heads the gates of all units lie side by side, and are one product.
    PARTS: tl.constexpr = GATES if HEADS > 1 or ALONE else 1
    DEPTH: tl.constexpr = D if HEADS > 1 or ALONE else K
    # W_hh has a head's units as its columns 0..D-1, and as its rows from `first` on in each gate.
    w_ptr = w_hh_ptr + first * D - first
    w = load_slices(w_ptr, units, unit_mask, DEPTH, D, 1, H * D, PARTS, BLOCK_K, RESIDENT)
    length = lengths_of(lengths_ptr, rows, row_mask, T)
    back = direction_of(group, HEADS, REVERSE)
    if reset_ptr is not None and REVERSE == 2:
        reset_ptr += back.to(tl.int64) * T * B

    direct = tl.load(state_ptr + own, mask=mask, other=0.0)
    dc = direct
    if CELL == "lstm":
        dc = tl.load(state_ptr + second + own, mask=mask, other=0.0)
    by_reset_h = direct
    by_reset_c = direct
    if by_reset_ptr is not None:
        by_reset_h = tl.load(by_reset_ptr + own, mask=mask, other=0.0)
        if CELL == "lstm":
            by_reset_c = tl.load(by_reset_ptr + second + own, mask=mask, other=0.0)
    dtype = dg_ptr.dtype.element_ty
    dg = ()
    for _ in tl.static_range(GATES):
        dg = dg + (tl.zeros([BLOCK_B, BLOCK_H], dtype),)
    for step in range(step0, step0 + STEPS):
        t, after = time_of(step, T, 1 - back)
        active = (t < length)[:, None]
        gates = t * B * K + rows[:, None] * K + units[None, :]
        by = ()
        for g in tl.static_range(GATES):
            by = by + (tl.load(dg_ptr + gates + g * H, mask=mask, other=0.0).to(tl.float32),)
        grad = tl.load(grad_y_ptr + t * B * H + own, mask=mask, other=0.0).to(tl.float32)

        # The last time step has none after it: its rows are masked off.
        dg_ptrs = dg_ptr + after * B * K + rows * K
        dg_mask = row_mask & (step > 0)
        if ALONE:
            passed = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
            for g in tl.static_range(GATES):
                passed = tl.dot(dg[g], w[g], passed, input_precision=PRECISION)
        else:
            passed = product_sum(
                dg_ptrs + first, dg_mask, H, w, w_ptr, units, unit_mask, DEPTH, D, 1, H * D, PARTS, BLOCK_K, RESIDENT,
                PRECISION,
            )  # fmt: skip
        if mask_ptr is not None:
            passed *= tl.load(mask_ptr + own, mask=mask, other=0.0).to(tl.float32)
        passed += direct
        if reset_ptr is not None:
            # The step after began anew: its gradient is of the state that the reset put in place.
            fresh = (tl.load(reset_ptr + after * B + rows, mask=dg_mask, other=0) != 0)[:, None]
            if by_reset_ptr is not None:
                by_reset_h += tl.where(fresh, passed, 0.0)
                if CELL == "lstm":
                    by_reset_c += tl.where(fresh, dc, 0.0)
            passed = tl.where(fresh, 0.0, passed)
            dc = tl.where(fresh, 0.0, dc)

        dh = passed + grad
        dg, direct, dc = step_back(
            by, dh, dc, active, t * B, rows, units, mask, dg_ptr, aux_ptr, grad_cells_ptr, zoneout_ptr, zoneout_c_ptr,
            CELL, GATES, H,
        )  # fmt: skip
        if BARRIER:
            grid_barrier(barrier_ptr + group, (step - step0 + 1) * G_H)
    tl.store(state_ptr + own, direct, mask=mask)
    if CELL == "lstm":
        tl.store(state_ptr + second + own, dc, mask=mask)
    if by_reset_ptr is not None:
        tl.store(by_reset_ptr + own, by_reset_h, mask=mask)
        if CELL == "lstm":
            tl.store(by_reset_ptr + second + own, by_reset_c, mask=mask)


def pick(
    table, like: Tensor, T: int, units: int, depths: tuple[int, ...], heads: int = 1, regular: bool = False
) -> config.RecurrentConfig:
    """The tile for a walk of T steps; see `config.recurrent`. `regular`: with a recurrent mask or zoneout."""
    memory, multiprocessors = resident_limits(like.device)
    if like.is_cuda and T == 1:
        memory = 0  # nothing is won by keeping weights for one step
    cfg = config.recurrent(table, like.dtype, units, depths, memory, multiprocessors, heads)
    return config.REGULAR[like.dtype.itemsize] if regular and not cfg.alone(units) else cfg


def walk(
    kernel, args, cfg, units: int, T: int, B: int, like: Tensor, halves: bool = False, heads: int = 1, **constants
) -> None:
    """Launches a sequence kernel over all of T and B: persistent where its grid fits on the chip, else step by step.

    `units`: of each head. `halves`: programs wait for one another within a step too, which without a barrier takes two
    launches. Without halves a program may have all units, and wait for none.
    """
    _, multiprocessors = resident_limits(like.device)
    groups_h, groups_b = heads * triton.cdiv(units, cfg.block_h), triton.cdiv(B, cfg.block_b)
    steps, options = 1, {}
    barrier = None
    stages = [{"HALF": 1}, {"HALF": 2}] if halves else [{}]
    if not halves and cfg.alone(units):
        steps = T
    elif like.is_cuda and cfg.resident:
        # One program a multiprocessor: that many are resident at once whatever their registers.
        groups_b = min(groups_b, multiprocessors // groups_h)
        # The barrier counts programs, twice a step at most, in an int32.
        steps = min(T, (2**31 - 1) // (2 * groups_h))
        options = {"launch_cooperative_grid": True}
        stages = [{"HALF": 0}] if halves else [{}]
    rows = groups_b * cfg.block_b
    with device_guard(like):
        for b0 in range(0, B, rows):
            for step0, stage in itertools.product(range(0, T, steps), stages):
                if options:
                    barrier = torch.zeros(groups_b * heads, dtype=torch.int32, device=like.device)
                kernel[(groups_h * min(groups_b, triton.cdiv(B - b0, cfg.block_b)),)](
                    *args,
                    barrier,
                    b0,
                    step0,
                    min(steps, T - step0),
                    T,
                    B,
                    BLOCK_B=cfg.block_b,
                    BLOCK_H=cfg.block_h,
                    BLOCK_K=cfg.block_k,
                    RESIDENT=cfg.resident,
                    BARRIER=barrier is not None,
                    PRECISION=dot_precision(like.dtype),
                    num_warps=cfg.num_warps,
                    **constants,
                    **stage,
                    **options,
                )


def plain(tensor: Tensor | None) -> Tensor | None:
    """Contiguous; bool as the bytes that it is."""
    if tensor is None:
        return None
    return tensor.contiguous().view(torch.uint8) if tensor.dtype == torch.bool else tensor.contiguous()


def at_once(cell: str, backward: bool, like: Tensor, H: int, heads: int, *regular: Tensor | None) -> bool:
    """Whether both directions are walked in one launch: if each by itself would keep its weights, both must do so."""
    (joint, _), (single, _) = (_form(cell, backward, like, H * n // heads, n, regular) for n in (heads, heads // 2))
    kept = ("alone", "resident")
    return joint in kept or single not in kept


def _form(
    cell: str, backward: bool, like: Tensor, H: int, heads: int, regular: Sequence[Tensor | None]
) -> tuple[str, config.RecurrentConfig]:
    """As which form, and with which tile, to walk a sequence of like's length and batch [T,B,..]."""
    tables = {"gru": (config.GRU_FWD, config.GRU_BWD), "lstm": (config.LSTM_FWD, config.LSTM_BWD)}
    table = tables.get(cell, (config.RNN_FWD, config.RNN_BWD))[backward]
    D, gates, (T, B) = H // heads, GATES[cell], like.shape[:2]
    tile = pick(table, like, T, D, (D,) * gates, heads, any(r is not None for r in regular))
    return config.form(tile, like.dtype, gates, D, B, heads), tile


def walk_forward(
    cell: str,
    gx: Tensor,
    state: tuple[Tensor, ...],
    w_hh: Tensor,
    b_hh: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: tuple[Tensor, ...] | None,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | None,
    zoneout_c: Tensor | None,
    heads: int,
    reverse: int,
    keep_cells: bool,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """y, the last state, and all cells (none unless kept). gx [T,B,gates*H] as `recurrent_fwd_kernel` has it."""
    T, B, _ = gx.shape
    H = state[0].shape[1]
    y, cells = gx.new_empty(T, B, H), gx.new_empty(T if keep_cells else 0, B, H)
    last = torch.stack([s.float() for s in state])
    if y.numel():
        fresh = None
        if reset is not None:
            fresh = torch.stack(reset_state) if reset_state is not None else gx.new_zeros(len(state), B, H)
        args = (
            gx.contiguous(),
            state[0].contiguous(),
            w_hh.contiguous(),
            plain(b_hh),
            plain(lengths),
            plain(reset),
            fresh,
            plain(recurrent_mask),
            plain(zoneout),
            plain(zoneout_c),
            y,
            cells if keep_cells else None,
            last,
        )
        constants: dict[str, Any] = {"CELL": cell, "GATES": GATES[cell], "H": H, "HEADS": heads, "REVERSE": reverse}
        form, tile = _form(cell, False, gx, H, heads, (recurrent_mask, zoneout, zoneout_c))
        if form == "large":
            walk_large_forward(*args, **constants)
        else:
            walk(recurrent_fwd_kernel, args, tile, H // heads, T, B, gx, heads=heads, **constants)
    return y, apart(last, gx.dtype), cells


def apart(states: Sequence[Tensor] | Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The states as results of an op: not views of one tensor, which torch forbids, and of which one is unaligned."""
    return tuple(state.to(dtype, copy=len(states) > 1) for state in states)


def leave(
    first: int,
    dg: Tensor,
    w_hh: Tensor,
    state: Tensor | tuple[Tensor, ...],
    by_reset: Tensor | tuple[Tensor, ...] | None,
    reset: Tensor | None,
    recurrent_mask: Tensor | None = None,
    heads: int = 1,
) -> None:
    """After the walk back, dh of the first step passes on to h0, as one more product, or to what a reset put there."""
    mask = None if recurrent_mask is None else recurrent_mask.float()
    state[0].copy_(HiddenWeights(w_hh.float(), heads).back(dg.float(), state[0], mask))
    if reset is not None:
        began = reset[first][:, None]
        for i, grad in enumerate(state):
            if by_reset is not None:
                by_reset[i].add_(torch.where(began, grad, 0.0))
            grad.masked_fill_(began, 0.0)


def walk_back(
    cell: str,
    dg: Tensor,
    aux: Tensor | None,
    grad_y: Tensor,
    grad_cells: Tensor | None,
    grads: tuple[Tensor, ...],
    w_hh: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | None,
    zoneout_c: Tensor | None,
    heads: int,
    need_reset_state: bool,
    reverse: int,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The gradients of the first state and of the state that resets put in place (empty unless needed).

    dg and aux hold factors, and become gradients, as `recurrent_bwd_kernel` says.
    """
    T, B, H = grad_y.shape
    state = torch.stack([g.float() for g in grads])
    by_reset = torch.zeros_like(state) if need_reset_state else None
    if grad_y.numel():
        w_hh = w_hh.contiguous()
        args = (
            dg,
            aux,
            grad_y.contiguous(),
            plain(grad_cells),
            w_hh,
            plain(lengths),
            plain(reset),
            plain(recurrent_mask),
            plain(zoneout),
            plain(zoneout_c),
            by_reset if reset is not None else None,
            state,
        )
        constants: dict[str, Any] = {"CELL": cell, "GATES": GATES[cell], "H": H, "HEADS": heads, "REVERSE": reverse}
        form, tile = _form(cell, True, grad_y, H, heads, (recurrent_mask, zoneout, zoneout_c))
        if form == "large":
            walk_large_back(*args, **constants)
        else:
            walk(recurrent_bwd_kernel, args, tile, H // heads, T, B, grad_y, heads=heads, **constants)
        for back in (0, 1) if reverse == BOTH else (int(reverse),):
            # Of both directions each leaves by itself, at another end.
            words = ("units", "rows", "units", "units", "resets", "units", "heads") if reverse == BOTH else ("-",) * 7
            ends = (dg[-back], w_hh, state, by_reset, reset, recurrent_mask, heads)
            leave(-back, *(half_of(v, word, H // 2, back) for v, word in zip(ends, words, strict=True)))
    dtype = grad_y.dtype
    empty = tuple(g.new_empty(0) for g in grads)
    return apart(state, dtype), empty if by_reset is None else apart(by_reset, dtype)
