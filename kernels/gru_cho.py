"""Cho's GRU over a sequence, forward and backward, in Triton: the reset gate acts before the product.

A step exchanges twice, h and then r * h, of which each program has made its own units: two barriers where one launch
walks all steps, and two launches a step where it does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..cpu._recurrent import mask_ended, sum_of_biases
from . import config
from .common import device_guard, grid_barrier, mix, sigmoid, tanh
from .recurrent import RUN_TIME, first_chunk, leave, load_slices, pick, plain, products, walk
from .recurrent_step import lengths_of, starts_at, tile_of, time_of

__all__ = ["cho_back", "cho_forward"]


@triton.jit(do_not_specialize=RUN_TIME)
def cho_fwd_kernel(
    gx_ptr,
    h0_ptr,
    w_hh_ptr,
    lengths_ptr,
    reset_ptr,
    reset_state_ptr,
    y_ptr,
    state_ptr,
    barrier_ptr,
    b0,
    step0,
    STEPS,
    T,
    B,
    H: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALF: tl.constexpr,
    RESIDENT: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (g_b, g_h) owns BLOCK_B batch rows from b0 on x BLOCK_H units, and walks STEPS steps from step0 on.

    gx [T,B,3H]: the input's share of the pre-activations with all biases; r's share becomes r * h, what programs
    exchange within a step. HALF 1 ends there, 2 begins there, 0 is both. y [T,B,H]. state [2,B,H] fp32 holds h before
    step0, then after the last step, and from one half of a step to the other z.
    """
    G_H: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    g_b, rows, units, row_mask, unit_mask = tile_of(b0, B, H, BLOCK_B, BLOCK_H)
    mask = row_mask[:, None] & unit_mask[None, :]
    own = rows[:, None] * H + units[None, :]
    z_ptrs = state_ptr + tl.cast(B, tl.int64) * H + own
    w_n_ptr = w_hh_ptr + 2 * H * H
    w_rz = load_slices(w_hh_ptr, units, unit_mask, H, 1, H, H * H, 2, BLOCK_K, RESIDENT and HALF != 2)
    w_n = load_slices(w_n_ptr, units, unit_mask, H, 1, H, 0, 1, BLOCK_K, RESIDENT and HALF != 1)
    length = lengths_of(lengths_ptr, rows, row_mask, T)
    dtype = gx_ptr.dtype.element_ty

    h = tl.load(state_ptr + own, mask=mask, other=0.0)
    for step in range(step0, step0 + STEPS):
        t, before = time_of(step, T, REVERSE)
        active = t < length
        gx_rows = gx_ptr + (t * B + rows) * 3 * H
        gx_ptrs = gx_rows[:, None] + units[None, :]
        if HALF != 2:
            starts = starts_at(t, length, REVERSE)[:, None]
            h_ptrs = first_chunk(y_ptr + before * B * H + rows * H, BLOCK_K)
            h_ptrs = tl.where(starts, first_chunk(h0_ptr + rows * H, BLOCK_K), h_ptrs)
            if reset_ptr is not None:
                fresh = tl.load(reset_ptr + t * B + rows, mask=row_mask, other=0) != 0
                h_ptrs = tl.where(fresh[:, None], first_chunk(reset_state_ptr + rows * H, BLOCK_K), h_ptrs)
                fresh_mask = mask & fresh[:, None]
                h = tl.where(fresh_mask, tl.load(reset_state_ptr + own, mask=fresh_mask, other=0.0).to(tl.float32), h)
            gx_r = tl.load(gx_ptrs, mask=mask, other=0.0).to(tl.float32)
            gx_z = tl.load(gx_ptrs + H, mask=mask, other=0.0).to(tl.float32)
            gh_r, gh_z = products(
                h_ptrs, row_mask & active, w_rz, w_hh_ptr, units, unit_mask, H, 1, H, H * H, 2, BLOCK_K, RESIDENT,
                PRECISION,
            )  # fmt: skip
            r = sigmoid(gx_r + gh_r)
            tl.store(gx_ptrs, (r * h).to(dtype), mask=mask)
            # In memory: else a compiler may move z's products, with all that they read, behind the barrier.
            tl.store(z_ptrs, sigmoid(gx_z + gh_z), mask=mask)
            if BARRIER:
                grid_barrier(barrier_ptr + g_b, (2 * (step - step0) + 1) * G_H)
        if HALF != 1:
            z = tl.load(z_ptrs, mask=mask, other=0.0)
            gx_n = tl.load(gx_ptrs + 2 * H, mask=mask, other=0.0).to(tl.float32)
            (gh_n,) = products(
                gx_rows, row_mask & active, w_n, w_n_ptr, units, unit_mask, H, 1, H, 0, 1, BLOCK_K, RESIDENT, PRECISION
            )
            n = tanh(gx_n + gh_n)
            h = tl.where(active[:, None], mix(z, h, n), h)
            y = tl.where(active[:, None], h, 0.0).to(dtype)
            tl.store(y_ptr + t * B * H + own, y, mask=mask)
            if BARRIER:
                grid_barrier(barrier_ptr + g_b, (2 * (step - step0) + 2) * G_H)
    tl.store(state_ptr + own, h, mask=mask)


@triton.jit(do_not_specialize=["N", "B"])
def cho_factors_kernel(
    gates_ptr,
    aux_ptr,
    h_prev_ptr,
    lengths_ptr,
    N,
    B,
    H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program (n, g_h) owns BLOCK_N of the N = T*B rows x BLOCK_H units: pre-activations become factors, in place.

    gates [N,3H] becomes that of r by the gradient of r * h, and of z and n by dh; aux [N,2H] becomes r and z, by which
    the two gradients pass on to h.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    units = tl.program_id(1).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    row_mask = rows < N
    mask = row_mask[:, None] & (units < H)[None, :]
    gates = gates_ptr + rows[:, None] * 3 * H + units[None, :]
    r = sigmoid(tl.load(gates, mask=mask, other=0.0).to(tl.float32))
    z = sigmoid(tl.load(gates + H, mask=mask, other=0.0).to(tl.float32))
    n = tanh(tl.load(gates + 2 * H, mask=mask, other=0.0).to(tl.float32))
    h_prev = tl.load(h_prev_ptr + rows[:, None] * H + units[None, :], mask=mask, other=0.0).to(tl.float32)

    by_r = h_prev * r * (1.0 - r)
    by_z = (h_prev - n) * z * (1.0 - z)
    by_n = (1.0 - z) * (1.0 - n * n)
    if lengths_ptr is not None:
        # Past an item's end h is passed on as it is.
        length = tl.load(lengths_ptr + rows % B, mask=row_mask, other=0)
        active = (rows // B < length)[:, None]
        by_r = tl.where(active, by_r, 0.0)
        by_z = tl.where(active, by_z, 0.0)
        by_n = tl.where(active, by_n, 0.0)
        r = tl.where(active, r, 0.0)
        z = tl.where(active, z, 1.0)
    dtype = gates_ptr.dtype.element_ty
    tl.store(gates, by_r.to(dtype), mask=mask)
    tl.store(gates + H, by_z.to(dtype), mask=mask)
    tl.store(gates + 2 * H, by_n.to(dtype), mask=mask)
    aux = aux_ptr + rows[:, None] * 2 * H + units[None, :]
    tl.store(aux, r.to(dtype), mask=mask)
    tl.store(aux + H, z.to(dtype), mask=mask)


@triton.jit(do_not_specialize=RUN_TIME)
def cho_bwd_kernel(
    dg_ptr,
    aux_ptr,
    grad_y_ptr,
    w_hh_ptr,
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
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALF: tl.constexpr,
    RESIDENT: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (g_b, g_h) owns BLOCK_B batch rows from b0 on x BLOCK_H units, and walks the steps last to first.

    dg [T,B,3H] and aux [T,B,2H] hold the factors of `cho_factors_kernel`; dg becomes the gradients of the
    pre-activations. HALF 1 ends with z's and n's, 2 begins with the gradient of r * h, 0 is both. state [B,H] fp32
    holds the part of dh that does not pass through r's and z's weights, at first the gradient of h_n; by_reset, laid
    out like it, gathers those of the state that resets put in place.
    """
    G_H: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    g_b, rows, units, row_mask, unit_mask = tile_of(b0, B, H, BLOCK_B, BLOCK_H)
    mask = row_mask[:, None] & unit_mask[None, :]
    own = rows[:, None] * H + units[None, :]
    w_n_ptr = w_hh_ptr + 2 * H * H
    w_rz = load_slices(w_hh_ptr, units, unit_mask, 2 * H, H, 1, 0, 1, BLOCK_K, RESIDENT and HALF != 2)
    w_n = load_slices(w_n_ptr, units, unit_mask, H, H, 1, 0, 1, BLOCK_K, RESIDENT and HALF != 1)
    dtype = dg_ptr.dtype.element_ty

    direct = tl.load(state_ptr + own, mask=mask, other=0.0)
    by_reset = direct
    if by_reset_ptr is not None:
        by_reset = tl.load(by_reset_ptr + own, mask=mask, other=0.0)
    for step in range(step0, step0 + STEPS):
        t, after = time_of(step, T, not REVERSE)
        dg_rows = dg_ptr + (t * B + rows) * 3 * H
        dg_ptrs = dg_rows[:, None] + units[None, :]
        aux_ptrs = aux_ptr + (t * B + rows)[:, None] * 2 * H + units[None, :]
        if HALF != 2:
            grad = tl.load(grad_y_ptr + t * B * H + own, mask=mask, other=0.0).to(tl.float32)
            by_z = tl.load(dg_ptrs + H, mask=mask, other=0.0).to(tl.float32)
            by_n = tl.load(dg_ptrs + 2 * H, mask=mask, other=0.0).to(tl.float32)
            z = tl.load(aux_ptrs + H, mask=mask, other=0.0).to(tl.float32)
            # The last time step has none after it: its rows are masked off.
            after_mask = row_mask & (step > 0)
            (passed,) = products(
                dg_ptr + (after * B + rows) * 3 * H, after_mask, w_rz, w_hh_ptr, units, unit_mask, 2 * H, H, 1, 0, 1,
                BLOCK_K, RESIDENT, PRECISION,
            )  # fmt: skip
            passed += direct
            if reset_ptr is not None:
                # The step after began anew: its gradient is of the state that the reset put in place.
                fresh = (tl.load(reset_ptr + after * B + rows, mask=after_mask, other=0) != 0)[:, None]
                if by_reset_ptr is not None:
                    by_reset += tl.where(fresh, passed, 0.0)
                passed = tl.where(fresh, 0.0, passed)
            dh = passed + grad
            tl.store(dg_ptrs + H, (by_z * dh).to(dtype), mask=mask)
            tl.store(dg_ptrs + 2 * H, (by_n * dh).to(dtype), mask=mask)
            direct = z * dh
            if BARRIER:
                grid_barrier(barrier_ptr + g_b, (2 * (step - step0) + 1) * G_H)
        if HALF != 1:
            by_r = tl.load(dg_ptrs, mask=mask, other=0.0).to(tl.float32)
            r = tl.load(aux_ptrs, mask=mask, other=0.0).to(tl.float32)
            (drh,) = products(
                dg_rows + 2 * H, row_mask, w_n, w_n_ptr, units, unit_mask, H, H, 1, 0, 1, BLOCK_K, RESIDENT, PRECISION
            )
            tl.store(dg_ptrs, (by_r * drh).to(dtype), mask=mask)
            direct += r * drh
            if BARRIER:
                grid_barrier(barrier_ptr + g_b, (2 * (step - step0) + 2) * G_H)
    tl.store(state_ptr + own, direct, mask=mask)
    if by_reset_ptr is not None:
        tl.store(by_reset_ptr + own, by_reset, mask=mask)


def cho_forward(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """y and the last state. One GEMM for the inputs of all steps, then the walk."""
    T, B, _ = x.shape
    H = h0.shape[1]
    y = x.new_empty(T, B, H)
    state = torch.empty(2, B, H, dtype=torch.float32, device=x.device)
    state[0] = h0
    if y.numel():
        fresh = None
        if reset is not None:
            fresh = x.new_zeros(B, H) if reset_state is None else reset_state.contiguous()
        gx = F.linear(x, w_ih, sum_of_biases(b_ih, b_hh)).contiguous()
        args = (gx, h0.contiguous(), w_hh.contiguous(), plain(lengths), plain(reset), fresh, y, state)
        cfg = pick(config.CHO_FWD, x, T, H, (H, H, H))
        walk(cho_fwd_kernel, args, cfg, H, T, B, x, halves=True, H=H, REVERSE=reverse)
    return y, state[0].to(x.dtype)


def cho_back(
    grad_y: Tensor,
    grad_h_n: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    h_prev: Tensor,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the pre-activations, of h0 and of reset_state (empty unless needed), and r * h_prev.

    Three GEMMs rebuild all pre-activations, n's once r * h is there; one pass turns them into factors, then the walk.
    """
    T, B, H = h_prev.shape
    dg = F.linear(x, w_ih, sum_of_biases(b_ih, b_hh)).contiguous()
    rh = torch.empty_like(h_prev, memory_format=torch.contiguous_format)
    state = grad_h_n.to(torch.float32, copy=True).contiguous()
    by_reset = torch.zeros_like(state) if need_reset_state else None
    if h_prev.numel():
        h_prev, w_hh = h_prev.contiguous(), w_hh.contiguous()
        flat, w_rz, w_n = dg.flatten(0, 1), w_hh[: 2 * H], w_hh[2 * H :]
        flat[:, : 2 * H].addmm_(h_prev.flatten(0, 1), w_rz.t())
        torch.mul(torch.sigmoid(dg[..., :H]), h_prev, out=rh)
        mask_ended(lengths, rh)
        flat[:, 2 * H :].addmm_(rh.flatten(0, 1), w_n.t())
        aux = x.new_empty(T, B, 2 * H)
        tile = config.GRU_FACTORS
        block_h = min(tile.block_h, triton.next_power_of_2(H))
        with device_guard(x):
            cho_factors_kernel[(triton.cdiv(T * B, tile.block_n), triton.cdiv(H, block_h))](
                dg,
                aux,
                h_prev,
                plain(lengths),
                T * B,
                B,
                H=H,
                BLOCK_N=tile.block_n,
                BLOCK_H=block_h,
                num_warps=tile.num_warps,
            )
        args = (dg, aux, grad_y.contiguous(), w_hh, plain(reset), None if reset is None else by_reset, state)
        cfg = pick(config.CHO_BWD, x, T, H, (H, H, H))
        walk(cho_bwd_kernel, args, cfg, H, T, B, x, halves=True, H=H, REVERSE=reverse)
        first = T - 1 if reverse else 0
        leave(first, dg[first, :, : 2 * H], w_rz, (state,), None if by_reset is None else (by_reset,), reset)
    dtype = x.dtype
    return dg, state.to(dtype), x.new_empty(0) if by_reset is None else by_reset.to(dtype), rh
