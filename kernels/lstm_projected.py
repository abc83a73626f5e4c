"""The LSTM with a projection over a sequence, forward and backward, in Triton: h = W_hr m, m = o * tanh(c).

A step exchanges twice, h and then m, of which each program has made its own columns: two barriers where one launch
walks all steps, and two launches a step where it does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..cpu._recurrent import sum_of_biases
from . import config
from .common import grid_barrier, tanh
from .recurrent import RUN_TIME, apart, first_chunk, leave, load_slices, pick, plain, products, walk
from .recurrent_step import add_at, lengths_of, lstm_gates, starts_at, tile_of, time_of

__all__ = ["projected_back", "projected_forward"]


@triton.jit(do_not_specialize=RUN_TIME)
def projected_fwd_kernel(
    gx_ptr,
    h0_ptr,
    w_hh_ptr,
    w_hr_ptr,
    lengths_ptr,
    reset_ptr,
    reset_h_ptr,
    reset_c_ptr,
    y_ptr,
    cells_ptr,
    state_ptr,
    barrier_ptr,
    b0,
    step0,
    STEPS,
    T,
    B,
    H: tl.constexpr,
    P: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALF: tl.constexpr,
    RESIDENT: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (g_b, g_h) owns BLOCK_B batch rows from b0 on x BLOCK_H units and as many columns of h, and walks STEPS
    steps from step0 on.

    gx [T,B,4H]: the input's share of the pre-activations with all biases; i's share becomes m, what programs exchange
    within a step. HALF 1 ends there, 2 begins there, 0 is both. y [T,B,P], cells [T,B,H]. state: [B,P] then [B,H] fp32,
    h and c before step0, then after the last step.
    """
    W: tl.constexpr = max(H, P)
    G_H: tl.constexpr = (W + BLOCK_H - 1) // BLOCK_H
    g_b, rows, units, row_mask, _ = tile_of(b0, B, W, BLOCK_B, BLOCK_H)
    unit_mask = units < H
    column_mask = units < P
    mask_c = row_mask[:, None] & unit_mask[None, :]
    mask_h = row_mask[:, None] & column_mask[None, :]
    own_c = rows[:, None] * H + units[None, :]
    own_h = rows[:, None] * P + units[None, :]
    c_ptrs = state_ptr + tl.cast(B, tl.int64) * P + own_c
    w = load_slices(w_hh_ptr, units, unit_mask, P, 1, P, H * P, 4, BLOCK_K, RESIDENT and HALF != 2)
    w_r = load_slices(w_hr_ptr, units, column_mask, H, 1, H, 0, 1, BLOCK_K, RESIDENT and HALF != 1)
    length = lengths_of(lengths_ptr, rows, row_mask, T)
    dtype = y_ptr.dtype.element_ty

    if HALF != 1:
        h = tl.load(state_ptr + own_h, mask=mask_h, other=0.0)
    if HALF != 2:
        c = tl.load(c_ptrs, mask=mask_c, other=0.0)
    for step in range(step0, step0 + STEPS):
        t, before = time_of(step, T, REVERSE)
        active = t < length
        gx_rows = gx_ptr + (t * B + rows) * 4 * H
        gx_ptrs = gx_rows[:, None] + units[None, :]
        if HALF != 2:
            starts = starts_at(t, length, REVERSE)[:, None]
            h_ptrs = first_chunk(y_ptr + before * B * P + rows * P, BLOCK_K)
            h_ptrs = tl.where(starts, first_chunk(h0_ptr + rows * P, BLOCK_K), h_ptrs)
            if reset_ptr is not None:
                fresh = tl.load(reset_ptr + t * B + rows, mask=row_mask, other=0) != 0
                h_ptrs = tl.where(fresh[:, None], first_chunk(reset_h_ptr + rows * P, BLOCK_K), h_ptrs)
                fresh_mask = mask_c & fresh[:, None]
                c = tl.where(fresh_mask, tl.load(reset_c_ptr + own_c, mask=fresh_mask, other=0.0).to(tl.float32), c)
            gx = ()
            if RESIDENT:  # else later: fewer registers
                for g in tl.static_range(4):
                    gx = gx + (tl.load(gx_ptrs + g * H, mask=mask_c, other=0.0).to(tl.float32),)
            gh = products(
                h_ptrs,
                row_mask & active,
                w,
                w_hh_ptr,
                units,
                unit_mask,
                P,
                1,
                P,
                H * P,
                4,
                BLOCK_K,
                RESIDENT,
                PRECISION,
            )
            if not RESIDENT:
                for g in tl.static_range(4):
                    gx = gx + (tl.load(gx_ptrs + g * H, mask=mask_c, other=0.0).to(tl.float32),)
            i_t, f_t, g_t, o_t = lstm_gates(gx[0] + gh[0], gx[1] + gh[1], gx[2] + gh[2], gx[3] + gh[3])
            c = tl.where(active[:, None], f_t * c + i_t * g_t, c)
            tl.store(gx_ptrs, (o_t * tanh(c)).to(dtype), mask=mask_c)
            if cells_ptr is not None:
                kept = tl.where(active[:, None], c, 0.0).to(dtype)
                tl.store(cells_ptr + t * B * H + own_c, kept, mask=mask_c)
            if BARRIER:
                grid_barrier(barrier_ptr + g_b, (2 * (step - step0) + 1) * G_H)
        if HALF != 1:
            (new,) = products(
                gx_rows,
                row_mask & active,
                w_r,
                w_hr_ptr,
                units,
                column_mask,
                H,
                1,
                H,
                0,
                1,
                BLOCK_K,
                RESIDENT,
                PRECISION,
            )
            h = tl.where(active[:, None], new, h)
            y = tl.where(active[:, None], new, 0.0).to(dtype)
            tl.store(y_ptr + t * B * P + own_h, y, mask=mask_h)
            if BARRIER:
                grid_barrier(barrier_ptr + g_b, (2 * (step - step0) + 2) * G_H)
    if HALF != 1:
        tl.store(state_ptr + own_h, h, mask=mask_h)
    if HALF != 2:
        tl.store(c_ptrs, c, mask=mask_c)


@triton.jit(do_not_specialize=RUN_TIME)
def projected_bwd_kernel(
    dg_ptr,
    aux_ptr,
    dh_ptr,
    grad_cells_ptr,
    w_hh_ptr,
    w_hr_ptr,
    lengths_ptr,
    reset_ptr,
    by_reset_ptr,
    state_ptr,
    barrier_ptr,
    b0,
    step0,
    STEPS,
    T,
    B,
    H: tl.constexpr,
    P: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALF: tl.constexpr,
    RESIDENT: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (g_b, g_h) owns BLOCK_B batch rows from b0 on x BLOCK_H units and as many columns of h, and walks the
    steps last to first.

    dg [T,B,4H] and aux [T,B,2H] hold the factors of `lstm_factors_kernel`; dg becomes the gradients of the
    pre-activations. dh [T,B,P] holds the gradient of y, and becomes that of h, zero past an item's end. HALF 1 ends
    with it, 2 begins with the gradient of m, 0 is both. state: [B,P] then [B,H] fp32, the part of dh that does not pass
    through W_hh, and dc: the gradients of h_n and c_n at first. by_reset, laid out like it, gathers those of the state
    that resets put in place.
    """
    W: tl.constexpr = max(H, P)
    G_H: tl.constexpr = (W + BLOCK_H - 1) // BLOCK_H
    g_b, rows, units, row_mask, _ = tile_of(b0, B, W, BLOCK_B, BLOCK_H)
    unit_mask = units < H
    column_mask = units < P
    mask_c = row_mask[:, None] & unit_mask[None, :]
    mask_h = row_mask[:, None] & column_mask[None, :]
    own_c = rows[:, None] * H + units[None, :]
    own_h = rows[:, None] * P + units[None, :]
    second = tl.cast(B, tl.int64) * P + own_c
    w = load_slices(w_hh_ptr, units, column_mask, 4 * H, P, 1, 0, 1, BLOCK_K, RESIDENT and HALF != 2)
    w_r = load_slices(w_hr_ptr, units, unit_mask, P, H, 1, 0, 1, BLOCK_K, RESIDENT and HALF != 1)
    length = lengths_of(lengths_ptr, rows, row_mask, T)
    dtype = dg_ptr.dtype.element_ty

    direct = tl.load(state_ptr + own_h, mask=mask_h, other=0.0)
    dc = tl.load(state_ptr + second, mask=mask_c, other=0.0)
    for step in range(step0, step0 + STEPS):
        t, after = time_of(step, T, not REVERSE)
        active = (t < length)[:, None]
        # The last time step has none after it: its rows are masked off.
        after_mask = row_mask & (step > 0)
        fresh = after_mask[:, None] & False
        if reset_ptr is not None:
            # The step after began anew: its gradient is of the state that the reset put in place.
            fresh = (tl.load(reset_ptr + after * B + rows, mask=after_mask, other=0) != 0)[:, None]
        dh_rows = dh_ptr + (t * B + rows) * P
        if HALF != 2:
            dh_ptrs = dh_rows[:, None] + units[None, :]
            if RESIDENT:  # else later: fewer registers
                grad = tl.load(dh_ptrs, mask=mask_h, other=0.0).to(tl.float32)
            (passed,) = products(
                dg_ptr + (after * B + rows) * 4 * H, after_mask, w, w_hh_ptr, units, column_mask, 4 * H, P, 1, 0, 1,
                BLOCK_K, RESIDENT, PRECISION,
            )  # fmt: skip
            passed += direct
            if by_reset_ptr is not None:
                add_at(by_reset_ptr + own_h, passed, mask_h & fresh)
            if not RESIDENT:
                grad = tl.load(dh_ptrs, mask=mask_h, other=0.0).to(tl.float32)
            dh = tl.where(fresh, 0.0, passed) + grad
            tl.store(dh_ptrs, tl.where(active, dh, 0.0).to(dtype), mask=mask_h)
            direct = tl.where(active, 0.0, dh)
            if BARRIER:
                grid_barrier(barrier_ptr + g_b, (2 * (step - step0) + 1) * G_H)
        if HALF != 1:
            dg_ptrs = dg_ptr + (t * B + rows)[:, None] * 4 * H + units[None, :]
            aux_ptrs = aux_ptr + (t * B + rows)[:, None] * 2 * H + units[None, :]
            by = ()
            for g in tl.static_range(4):
                by = by + (tl.load(dg_ptrs + g * H, mask=mask_c, other=0.0).to(tl.float32),)
            by_c = tl.load(aux_ptrs, mask=mask_c, other=0.0).to(tl.float32)
            f = tl.load(aux_ptrs + H, mask=mask_c, other=0.0).to(tl.float32)
            (dm,) = products(
                dh_rows, row_mask, w_r, w_hr_ptr, units, unit_mask, P, H, 1, 0, 1, BLOCK_K, RESIDENT, PRECISION
            )
            if by_reset_ptr is not None:
                add_at(by_reset_ptr + second, dc, mask_c & fresh)
            dc = tl.where(fresh, 0.0, dc) + by_c * dm
            if grad_cells_ptr is not None:
                dc += tl.load(grad_cells_ptr + t * B * H + own_c, mask=mask_c, other=0.0).to(tl.float32)
            for g in tl.static_range(3):
                tl.store(dg_ptrs + g * H, (by[g] * dc).to(dtype), mask=mask_c)
            tl.store(dg_ptrs + 3 * H, (by[3] * dm).to(dtype), mask=mask_c)
            dc *= f
            if BARRIER:
                grid_barrier(barrier_ptr + g_b, (2 * (step - step0) + 2) * G_H)
    if HALF != 2:
        tl.store(state_ptr + own_h, direct, mask=mask_h)
    if HALF != 1:
        tl.store(state_ptr + second, dc, mask=mask_c)


def _pair(h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """h [B,P] and c [B,H] in fp32, one behind the other: whole, and as views."""
    both = torch.cat((h.flatten(), c.flatten())).float()
    return both, (both[: h.numel()].view(h.shape), both[h.numel() :].view(c.shape))


def projected_forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_h: Tensor | None,
    reset_c: Tensor | None,
    reverse: bool,
    keep_cells: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the last h and c, and all cells (none unless kept). One GEMM for the inputs of all steps, then the walk."""
    (T, B, _), P, H = x.shape, h0.shape[1], c0.shape[1]
    y, cells = x.new_empty(T, B, P), x.new_empty(T if keep_cells else 0, B, H)
    both, (h_n, c_n) = _pair(h0, c0)
    if T * B * max(H, P):
        if reset is not None:
            reset_h = torch.zeros_like(h0) if reset_h is None else reset_h
            reset_c = torch.zeros_like(c0) if reset_c is None else reset_c
        args = (
            F.linear(x, w_ih, sum_of_biases(b_ih, b_hh)).contiguous(),
            h0.contiguous(),
            w_hh.contiguous(),
            w_hr.contiguous(),
            plain(lengths),
            plain(reset),
            plain(reset_h),
            plain(reset_c),
            y,
            cells if keep_cells else None,
            both,
        )
        cfg = pick(config.PROJECTED_FWD, x, T, max(H, P), (P, P, P, P, H))
        walk(projected_fwd_kernel, args, cfg, max(H, P), T, B, x, halves=True, H=H, P=P, REVERSE=reverse)
    h_n, c_n = apart((h_n, c_n), x.dtype)
    return y, h_n, c_n, cells


def projected_back(
    grad_y: Tensor,
    grad_h_n: Tensor,
    grad_c_n: Tensor,
    grad_cells: Tensor | None,
    dg: Tensor,
    aux: Tensor,
    m: Tensor,
    w_hh: Tensor,
    w_hr: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    need_reset_state: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of h0 and c0, of the reset state (empty unless needed) and of w_hr.

    dg and aux hold factors, and dg becomes gradients, as `projected_bwd_kernel` says; m [T,B,H] is o * tanh(c), zero
    past an item's end.
    """
    (T, B, P), H = grad_y.shape, m.shape[2]
    both, state = _pair(grad_h_n, grad_c_n)
    both_reset, by_reset = _pair(torch.zeros_like(grad_h_n), torch.zeros_like(grad_c_n))
    dh = grad_y.clone(memory_format=torch.contiguous_format)
    if T * B * max(H, P):
        args = (
            dg,
            aux,
            dh,
            plain(grad_cells),
            w_hh.contiguous(),
            w_hr.contiguous(),
            plain(lengths),
            plain(reset),
            both_reset if need_reset_state and reset is not None else None,
            both,
        )
        cfg = pick(config.PROJECTED_BWD, dh, T, max(H, P), (4 * H, P))
        walk(projected_bwd_kernel, args, cfg, max(H, P), T, B, dh, halves=True, H=H, P=P, REVERSE=reverse)
        first = T - 1 if reverse else 0
        leave(first, dg[first], w_hh, state, by_reset if need_reset_state else None, reset)
    dtype = grad_y.dtype
    resets = apart(by_reset if need_reset_state else [g.new_empty(0) for g in by_reset], dtype)
    dw_hr = dh.flatten(0, 1).t() @ m.flatten(0, 1)
    dh0, dc0 = apart(state, dtype)
    reset_h, reset_c = resets
    return dh0, dc0, reset_h, reset_c, dw_hr
