"""The walk over time of the recurrent ops for a step so large that its product is best a library's: RNN, GRU, LSTM.

A step is one matrix product for all rows and gates, and one elementwise kernel, which ends the step that the product is
of and begins the next. Nothing waits for the host, so that a CUDA graph can hold the walk.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cpu._recurrent import BOTH, HiddenWeights
from . import config
from .common import device_guard
from .recurrent_step import add_at, direction_of, lengths_of, step_back, step_forward, tile_of_head, time_of

__all__ = ["walk_large_back", "walk_large_forward"]

# A new length or batch must not compile anew.
RUN_TIME = ["step", "T", "B"]


@triton.jit(do_not_specialize=RUN_TIME)
def large_fwd_kernel(
    gx_ptr,
    gh_ptr,
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
    met_ptr,
    step,
    T,
    B,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    H: tl.constexpr,
    HEADS: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program (g_b, direction, g_h) owns BLOCK_B batch rows x BLOCK_H units: ends the step before `step` and begins it.

    gh [HEADS,B,GATES*H/HEADS]: the share that W_hh gives the step that ends. met [B,H]: what meets W_hh in the one that
    begins. Before the first step none ends, after the last none begins. All else is as `recurrent_fwd_kernel` has it.
    """
    D: tl.constexpr = H // HEADS
    DIRECTIONS: tl.constexpr = 2 if REVERSE == 2 else 1
    group, rows, _, units, row_mask, unit_mask = tile_of_head(0, B, H // DIRECTIONS, DIRECTIONS, BLOCK_B, BLOCK_H)
    mask = row_mask[:, None] & unit_mask[None, :]
    own = rows[:, None] * H + units[None, :]
    second = tl.cast(B, tl.int64) * H
    length = lengths_of(lengths_ptr, rows, row_mask, T)
    back = direction_of(group, DIRECTIONS, REVERSE)
    if reset_ptr is not None and REVERSE == 2:
        reset_ptr += back.to(tl.int64) * T * B

    h = tl.load(state_ptr + own, mask=mask, other=0.0)
    c = h
    if CELL == "lstm":
        c = tl.load(state_ptr + second + own, mask=mask, other=0.0)

    t, before = time_of(step, T, back)
    ends = mask & (step > 0)
    gx_ptrs = gx_ptr + before * B * GATES * H + rows[:, None] * GATES * H + units[None, :]
    gh_ptrs = gh_ptr + (rows[:, None] + (units // D * B)[None, :]) * GATES * D + (units % D)[None, :]
    gx, gh, bias = (), (), ()
    for g in tl.static_range(GATES):
        gx = gx + (tl.load(gx_ptrs + g * H, mask=ends, other=0.0).to(tl.float32),)
        gh = gh + (tl.load(gh_ptrs + g * D, mask=ends, other=0.0).to(tl.float32),)
        if b_hh_ptr is None:
            bias = bias + (tl.zeros([BLOCK_H], tl.float32),)
        else:
            bias = bias + (tl.load(b_hh_ptr + g * H + units, mask=unit_mask, other=0.0).to(tl.float32),)
    active = (before < length) & (step > 0)
    h, c = step_forward(
        gx, gh, bias, h, c, active, before * B * H, own, ends, y_ptr, cells_ptr, zoneout_ptr, zoneout_c_ptr, CELL
    )

    if reset_ptr is not None:
        fresh = tl.load(reset_ptr + t * B + rows, mask=row_mask & (step < T), other=0) != 0
        fresh_mask = mask & fresh[:, None]
        h = tl.where(fresh_mask, tl.load(reset_state_ptr + own, mask=fresh_mask, other=0.0).to(tl.float32), h)
        if CELL == "lstm":
            c_ptrs = reset_state_ptr + second + own
            c = tl.where(fresh_mask, tl.load(c_ptrs, mask=fresh_mask, other=0.0).to(tl.float32), c)
    tl.store(state_ptr + own, h, mask=mask)
    if CELL == "lstm":
        tl.store(state_ptr + second + own, c, mask=mask)
    met = h.to(met_ptr.dtype.element_ty)
    if mask_ptr is not None:
        met *= tl.load(mask_ptr + own, mask=mask, other=0.0)
    tl.store(met_ptr + own, met, mask=mask)


@triton.jit(do_not_specialize=RUN_TIME)
def large_bwd_kernel(
    dg_ptr,
    aux_ptr,
    grad_y_ptr,
    grad_cells_ptr,
    lengths_ptr,
    reset_ptr,
    mask_ptr,
    zoneout_ptr,
    zoneout_c_ptr,
    by_reset_ptr,
    state_ptr,
    met_ptr,
    product_ptr,
    step,
    T,
    B,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    H: tl.constexpr,
    HEADS: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program (g_b, direction, g_h) owns BLOCK_B batch rows x BLOCK_H units, of one step; the last comes first.

    product [HEADS,B,H/HEADS]: the gradients of the step after this, times W_hh: none before the first launch. met
    [HEADS,B,GATES*H/HEADS]: of several heads, dg of this step as it meets W_hh. All else is as `recurrent_bwd_kernel`
    has it.
    """
    D: tl.constexpr = H // HEADS
    K: tl.constexpr = GATES * H
    DIRECTIONS: tl.constexpr = 2 if REVERSE == 2 else 1
    group, rows, _, units, row_mask, unit_mask = tile_of_head(0, B, H // DIRECTIONS, DIRECTIONS, BLOCK_B, BLOCK_H)
    mask = row_mask[:, None] & unit_mask[None, :]
    own = rows[:, None] * H + units[None, :]
    second = tl.cast(B, tl.int64) * H
    length = lengths_of(lengths_ptr, rows, row_mask, T)
    back = direction_of(group, DIRECTIONS, REVERSE)
    if reset_ptr is not None and REVERSE == 2:
        reset_ptr += back.to(tl.int64) * T * B

    t, after = time_of(step, T, 1 - back)
    # A row of a head is one of HEADS*B.
    within = rows[:, None] + (units // D * B)[None, :]
    passed = tl.load(product_ptr + within * D + (units % D)[None, :], mask=mask & (step > 0), other=0.0).to(tl.float32)
    if mask_ptr is not None:
        passed *= tl.load(mask_ptr + own, mask=mask, other=0.0).to(tl.float32)
    passed += tl.load(state_ptr + own, mask=mask, other=0.0)
    dc = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
    if CELL == "lstm":
        dc = tl.load(state_ptr + second + own, mask=mask, other=0.0)
    if reset_ptr is not None:
        # The step after began anew: its gradient is of the state that the reset put in place.
        fresh = (tl.load(reset_ptr + after * B + rows, mask=row_mask & (step > 0), other=0) != 0)[:, None]
        if by_reset_ptr is not None:
            add_at(by_reset_ptr + own, passed, mask & fresh)
            if CELL == "lstm":
                add_at(by_reset_ptr + second + own, dc, mask & fresh)
        passed = tl.where(fresh, 0.0, passed)
        dc = tl.where(fresh, 0.0, dc)

    dh = passed + tl.load(grad_y_ptr + t * B * H + own, mask=mask, other=0.0).to(tl.float32)
    gates = t * B * K + rows[:, None] * K + units[None, :]
    by = ()
    for g in tl.static_range(GATES):
        by = by + (tl.load(dg_ptr + gates + g * H, mask=mask, other=0.0).to(tl.float32),)
    dg, direct, dc = step_back(
        by, dh, dc, (t < length)[:, None], t * B, rows, units, mask, dg_ptr, aux_ptr, grad_cells_ptr, zoneout_ptr,
        zoneout_c_ptr, CELL, GATES, H,
    )  # fmt: skip
    if met_ptr is not None:
        met_ptrs = met_ptr + within * GATES * D + (units % D)[None, :]
        for g in tl.static_range(GATES):
            tl.store(met_ptrs + g * D, dg[g], mask=mask)
    tl.store(state_ptr + own, direct, mask=mask)
    if CELL == "lstm":
        tl.store(state_ptr + second + own, dc, mask=mask)


def launch(kernel, like: Tensor, *arguments: Tensor | int | None, H: int, REVERSE: int, **constants) -> None:
    """One step's elementwise kernel over all of B [T,B,..], the shape of `like`."""
    tile, B, directions = config.LARGE, like.shape[1], 2 if REVERSE == BOTH else 1
    block_h = min(tile.block_h, triton.next_power_of_2(H // directions))
    grid = (triton.cdiv(B, tile.block_n) * directions * triton.cdiv(H // directions, block_h),)
    sizes = {"H": H, "REVERSE": REVERSE, "BLOCK_B": tile.block_n, "BLOCK_H": block_h}
    kernel[grid](*arguments, *like.shape[:2], num_warps=tile.num_warps, **sizes, **constants)


def walk_large_forward(
    gx: Tensor, h0: Tensor, w_hh: Tensor, *arguments: Tensor | None, HEADS: int, **constants
) -> None:
    """Walks as `recurrent_fwd_kernel` with these arguments would; the first state is that in the last of them."""
    T, B, width = gx.shape
    gh, met = gx.new_empty(HEADS, B, width // HEADS), torch.empty_like(h0)
    weights = HiddenWeights(w_hh, HEADS)
    with device_guard(gx):
        for step in range(T + 1):
            launch(large_fwd_kernel, gx, gx, gh, *arguments, met, step, HEADS=HEADS, **constants)
            if step == T:
                break
            if HEADS == 1:
                torch.mm(met, weights.w_t, out=gh[0])
            else:
                torch.bmm(met.view(B, HEADS, -1).transpose(0, 1), weights.blocks, out=gh)


def walk_large_back(
    dg: Tensor,
    aux: Tensor | None,
    grad_y: Tensor,
    grad_cells: Tensor | None,
    w_hh: Tensor,
    *arguments: Tensor | None,
    HEADS: int,
    REVERSE: int,
    **constants,
) -> None:
    """Walks as `recurrent_bwd_kernel` with these arguments would."""
    T, B, H = grad_y.shape
    product = grad_y.new_empty(HEADS, B, H // HEADS)
    weights, met = HiddenWeights(w_hh, HEADS), None
    if HEADS > 1:
        met = dg.new_empty(HEADS, B, dg.shape[2] // HEADS)
    with device_guard(dg):
        for step in range(T):
            own = (dg, aux, grad_y, grad_cells, *arguments, met, product, step)
            launch(large_bwd_kernel, dg, *own, HEADS=HEADS, REVERSE=REVERSE, **constants)
            if step == T - 1:
                break  # the product of the first step is `leave`'s
            if met is None:
                torch.mm(dg[step if REVERSE else T - 1 - step], w_hh, out=product[0])
            else:
                torch.bmm(met, weights.blocks.transpose(1, 2), out=product)
