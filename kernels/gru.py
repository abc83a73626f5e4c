"""GRU over a sequence, forward and backward, in Triton.

The hidden units are split over programs, and each program owns all three gates of its units for a slice of the batch.
What a step needs of the other programs' units is exchanged through the output of the step before it, at a fresh
address each step, so that one barrier a step is enough. Where the grid fits on the chip at once, one launch walks all
time steps (persistent); else, and in the interpreter, which runs programs one after another, a launch is one step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from . import config
from .common import device_guard, dot_precision, grid_barrier, resident_limits, sigmoid, tanh

__all__ = ["gru_sequence_bwd", "gru_sequence_fwd"]


@triton.jit
def gru_gates(gx_r, gx_z, gx_n, gh_r, gh_z, gh_n):
    """r, z, n from the input's and the hidden state's share of the pre-activations, fp32."""
    r = sigmoid(gx_r + gh_r)
    z = sigmoid(gx_z + gh_z)
    n = tanh(gx_n + r * gh_n)
    return r, z, n


@triton.jit
def load_weights(w_ptr, columns, column_mask, k0, K, stride_k, stride_column, BLOCK_K: tl.constexpr):
    """A [BLOCK_K, columns] tile of a weight matrix, zero outside it."""
    k = k0 + tl.arange(0, BLOCK_K)
    offsets = k[:, None] * stride_k + columns[None, :] * stride_column
    return tl.load(w_ptr + offsets, mask=(k[:, None] < K) & column_mask[None, :], other=0.0)


@triton.jit
def load_rows(row_ptrs, row_mask, k0, K, BLOCK_K: tl.constexpr):
    """A [rows, BLOCK_K] tile of what other programs wrote in the step before: from L2, this SM's L1 may be stale."""
    k = k0 + tl.arange(0, BLOCK_K)
    mask = row_mask[:, None] & (k[None, :] < K)
    return tl.load(row_ptrs[:, None] + k[None, :], mask=mask, other=0.0, cache_modifier=".cg")


@triton.jit
def gru_sequence_fwd_kernel(
    gx_ptr,
    h0_ptr,
    w_hh_ptr,
    b_hh_ptr,
    lengths_ptr,
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
    RESIDENT: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (g_b, g_h) owns BLOCK_B batch rows from b0 on x BLOCK_H units, and walks STEPS steps from step0 on.

    gx [T,B,3H] = x W_ih^T + b_ih; y [T,B,H]; state [B,H] fp32 holds h before step0, then h after the last step.
    """
    pid = tl.program_id(0).to(tl.int64)
    G_H: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    g_b = pid // G_H
    rows = b0 + g_b * BLOCK_B + tl.arange(0, BLOCK_B)
    units = (pid % G_H) * BLOCK_H + tl.arange(0, BLOCK_H)
    row_mask = rows < B
    unit_mask = units < H
    mask = row_mask[:, None] & unit_mask[None, :]
    own = rows[:, None] * H + units[None, :]
    NUM_K: tl.constexpr = (H + BLOCK_K - 1) // BLOCK_K

    w_r = ()
    w_z = ()
    w_n = ()
    if RESIDENT:
        # Loaded chunk by chunk into tuples, so that each chunk's place in shared memory is taken before the time loop.
        for i in tl.static_range(NUM_K):
            w_r = w_r + (load_weights(w_hh_ptr, units, unit_mask, i * BLOCK_K, H, 1, H, BLOCK_K),)
            w_z = w_z + (load_weights(w_hh_ptr + H * H, units, unit_mask, i * BLOCK_K, H, 1, H, BLOCK_K),)
            w_n = w_n + (load_weights(w_hh_ptr + 2 * H * H, units, unit_mask, i * BLOCK_K, H, 1, H, BLOCK_K),)

    b_r = tl.zeros([BLOCK_H], tl.float32)
    b_z = tl.zeros([BLOCK_H], tl.float32)
    b_n = tl.zeros([BLOCK_H], tl.float32)
    if b_hh_ptr is not None:
        b_r = tl.load(b_hh_ptr + units, mask=unit_mask, other=0.0).to(tl.float32)
        b_z = tl.load(b_hh_ptr + H + units, mask=unit_mask, other=0.0).to(tl.float32)
        b_n = tl.load(b_hh_ptr + 2 * H + units, mask=unit_mask, other=0.0).to(tl.float32)
    # Without lengths every row starts at the same step.
    length = tl.zeros([BLOCK_B], tl.int32) + T
    if lengths_ptr is not None:
        length = tl.minimum(tl.load(lengths_ptr + rows, mask=row_mask, other=0), T)

    h = tl.load(state_ptr + own, mask=mask, other=0.0)
    for step in range(step0, step0 + STEPS):
        if REVERSE:
            t = tl.cast(T - 1 - step, tl.int64)
            starts = t == length - 1
            before = t + 1
        else:
            t = tl.cast(step, tl.int64)
            starts = length * 0 == t
            before = t - 1
        active = t < length
        gx_ptrs = gx_ptr + t * B * 3 * H + rows[:, None] * 3 * H + units[None, :]
        gx_r = tl.load(gx_ptrs, mask=mask, other=0.0).to(tl.float32)
        gx_z = tl.load(gx_ptrs + H, mask=mask, other=0.0).to(tl.float32)
        gx_n = tl.load(gx_ptrs + 2 * H, mask=mask, other=0.0).to(tl.float32)

        # A row's first step reads h0, each later one the output of the step before it.
        h_ptrs = tl.where(starts, h0_ptr + rows * H, y_ptr + before * B * H + rows * H)
        h_mask = row_mask & active
        gh_r = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
        gh_z = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
        gh_n = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
        if RESIDENT:
            for i in tl.static_range(NUM_K):
                h_k = load_rows(h_ptrs, h_mask, i * BLOCK_K, H, BLOCK_K)
                gh_r = tl.dot(h_k, w_r[i], gh_r, input_precision=PRECISION)
                gh_z = tl.dot(h_k, w_z[i], gh_z, input_precision=PRECISION)
                gh_n = tl.dot(h_k, w_n[i], gh_n, input_precision=PRECISION)
        else:
            for k0 in range(0, H, BLOCK_K):
                h_k = load_rows(h_ptrs, h_mask, k0, H, BLOCK_K)
                r_k = load_weights(w_hh_ptr, units, unit_mask, k0, H, 1, H, BLOCK_K)
                z_k = load_weights(w_hh_ptr + H * H, units, unit_mask, k0, H, 1, H, BLOCK_K)
                n_k = load_weights(w_hh_ptr + 2 * H * H, units, unit_mask, k0, H, 1, H, BLOCK_K)
                gh_r = tl.dot(h_k, r_k, gh_r, input_precision=PRECISION)
                gh_z = tl.dot(h_k, z_k, gh_z, input_precision=PRECISION)
                gh_n = tl.dot(h_k, n_k, gh_n, input_precision=PRECISION)

        _, z, n = gru_gates(gx_r, gx_z, gx_n, gh_r + b_r[None, :], gh_z + b_z[None, :], gh_n + b_n[None, :])
        h = tl.where(active[:, None], n + z * (h - n), h)
        y = tl.where(active[:, None], h, 0.0).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + t * B * H + own, y, mask=mask)
        if BARRIER:
            grid_barrier(barrier_ptr + g_b, (step - step0 + 1) * G_H)
    tl.store(state_ptr + own, h, mask=mask)


@triton.jit
def gru_factors_kernel(
    gx_ptr,
    gh_ptr,
    h_prev_ptr,
    lengths_ptr,
    N,
    B,
    H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program (n, g_h) owns BLOCK_N of the N = T*B rows x BLOCK_H units: pre-activations become factors, in place.

    With dh the gradient of h_t, all that backward needs of step t is linear in dh: gh becomes (r, z, n) of
    d gh / dh; gx's n becomes d gx_n / dh and gx's z becomes z = d h_t / d h_{t-1}, the direct way. gx's r is left over.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    units = tl.program_id(1).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    row_mask = rows < N
    mask = row_mask[:, None] & (units < H)[None, :]
    gates = rows[:, None] * 3 * H + units[None, :]
    gx_r = tl.load(gx_ptr + gates, mask=mask, other=0.0).to(tl.float32)
    gx_z = tl.load(gx_ptr + gates + H, mask=mask, other=0.0).to(tl.float32)
    gx_n = tl.load(gx_ptr + gates + 2 * H, mask=mask, other=0.0).to(tl.float32)
    gh_r = tl.load(gh_ptr + gates, mask=mask, other=0.0).to(tl.float32)
    gh_z = tl.load(gh_ptr + gates + H, mask=mask, other=0.0).to(tl.float32)
    gh_n = tl.load(gh_ptr + gates + 2 * H, mask=mask, other=0.0).to(tl.float32)
    h_prev = tl.load(h_prev_ptr + rows[:, None] * H + units[None, :], mask=mask, other=0.0).to(tl.float32)

    r, z, n = gru_gates(gx_r, gx_z, gx_n, gh_r, gh_z, gh_n)
    by_n = (1.0 - z) * (1.0 - n * n)
    by_z = (h_prev - n) * z * (1.0 - z)
    by_r = by_n * gh_n * r * (1.0 - r)
    by_gh_n = by_n * r
    if lengths_ptr is not None:
        # Past an item's end h is passed on as it is.
        length = tl.load(lengths_ptr + rows % B, mask=row_mask, other=0)
        active = (rows // B < length)[:, None]
        by_n = tl.where(active, by_n, 0.0)
        by_z = tl.where(active, by_z, 0.0)
        by_r = tl.where(active, by_r, 0.0)
        by_gh_n = tl.where(active, by_gh_n, 0.0)
        z = tl.where(active, z, 1.0)
    dtype = gx_ptr.dtype.element_ty
    tl.store(gh_ptr + gates, by_r.to(dtype), mask=mask)
    tl.store(gh_ptr + gates + H, by_z.to(dtype), mask=mask)
    tl.store(gh_ptr + gates + 2 * H, by_gh_n.to(dtype), mask=mask)
    tl.store(gx_ptr + gates + H, z.to(dtype), mask=mask)
    tl.store(gx_ptr + gates + 2 * H, by_n.to(dtype), mask=mask)


@triton.jit
def gru_sequence_bwd_kernel(
    dgx_ptr,
    dgh_ptr,
    grad_y_ptr,
    w_hh_ptr,
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
    RESIDENT: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (g_b, g_h) owns BLOCK_B batch rows from b0 on x BLOCK_H units, and walks the steps last to first.

    dgx, dgh [T,B,3H] hold the factors of `gru_factors_kernel` and become the gradients of the pre-activations.
    state [B,H] fp32 holds the part of dh that does not pass through W_hh: the gradient of h_n at first.
    """
    pid = tl.program_id(0).to(tl.int64)
    G_H: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    g_b = pid // G_H
    rows = b0 + g_b * BLOCK_B + tl.arange(0, BLOCK_B)
    units = (pid % G_H) * BLOCK_H + tl.arange(0, BLOCK_H)
    row_mask = rows < B
    unit_mask = units < H
    mask = row_mask[:, None] & unit_mask[None, :]
    own = rows[:, None] * H + units[None, :]
    K: tl.constexpr = 3 * H
    NUM_K: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K

    w = ()
    if RESIDENT:
        for i in tl.static_range(NUM_K):
            w = w + (load_weights(w_hh_ptr, units, unit_mask, i * BLOCK_K, K, H, 1, BLOCK_K),)

    direct = tl.load(state_ptr + own, mask=mask, other=0.0)
    for step in range(step0, step0 + STEPS):
        if REVERSE:
            t = tl.cast(step, tl.int64)
            after = t - 1
        else:
            t = tl.cast(T - 1 - step, tl.int64)
            after = t + 1
        gates = t * B * K + rows[:, None] * K + units[None, :]
        by_r = tl.load(dgh_ptr + gates, mask=mask, other=0.0).to(tl.float32)
        by_z = tl.load(dgh_ptr + gates + H, mask=mask, other=0.0).to(tl.float32)
        by_gh_n = tl.load(dgh_ptr + gates + 2 * H, mask=mask, other=0.0).to(tl.float32)
        z = tl.load(dgx_ptr + gates + H, mask=mask, other=0.0).to(tl.float32)
        by_n = tl.load(dgx_ptr + gates + 2 * H, mask=mask, other=0.0).to(tl.float32)
        dh = direct + tl.load(grad_y_ptr + t * B * H + own, mask=mask, other=0.0).to(tl.float32)

        # The last time step has none after it: its rows are masked off.
        dgh_ptrs = dgh_ptr + after * B * K + rows * K
        dgh_mask = row_mask & (step > 0)
        through = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
        if RESIDENT:
            for i in tl.static_range(NUM_K):
                dgh_k = load_rows(dgh_ptrs, dgh_mask, i * BLOCK_K, K, BLOCK_K)
                through = tl.dot(dgh_k, w[i], through, input_precision=PRECISION)
        else:
            for k0 in range(0, K, BLOCK_K):
                dgh_k = load_rows(dgh_ptrs, dgh_mask, k0, K, BLOCK_K)
                w_k = load_weights(w_hh_ptr, units, unit_mask, k0, K, H, 1, BLOCK_K)
                through = tl.dot(dgh_k, w_k, through, input_precision=PRECISION)
        dh += through

        dtype = dgh_ptr.dtype.element_ty
        dg_r = (by_r * dh).to(dtype)
        dg_z = (by_z * dh).to(dtype)
        tl.store(dgh_ptr + gates, dg_r, mask=mask)
        tl.store(dgh_ptr + gates + H, dg_z, mask=mask)
        tl.store(dgh_ptr + gates + 2 * H, (by_gh_n * dh).to(dtype), mask=mask)
        tl.store(dgx_ptr + gates, dg_r, mask=mask)
        tl.store(dgx_ptr + gates + H, dg_z, mask=mask)
        tl.store(dgx_ptr + gates + 2 * H, (by_n * dh).to(dtype), mask=mask)
        direct = z * dh
        if BARRIER:
            grid_barrier(barrier_ptr + g_b, (step - step0 + 1) * G_H)
    tl.store(state_ptr + own, direct, mask=mask)


def _walk(kernel, args, table, T: int, B: int, H: int, reverse: bool, like: Tensor) -> None:
    """Launches a sequence kernel over all of T and B: persistent where its grid fits on the chip, else step by step."""
    memory, multiprocessors = resident_limits(like.device)
    if like.is_cuda and T == 1:
        memory = 0  # nothing is won by keeping weights for one step
    cfg = config.recurrent(table, like.dtype, H, 3, memory, multiprocessors)
    groups_h, groups_b = triton.cdiv(H, cfg.block_h), triton.cdiv(B, cfg.block_b)
    steps, options = 1, {}
    barrier = None
    if like.is_cuda and cfg.resident:
        # One program a multiprocessor: that many are resident at once whatever their registers.
        groups_b, steps = min(groups_b, multiprocessors // groups_h), T
        options = {"launch_cooperative_grid": True}
    rows = groups_b * cfg.block_b
    with device_guard(like):
        for b0 in range(0, B, rows):
            if options:
                barrier = torch.zeros(groups_b, dtype=torch.int32, device=like.device)
            for step0 in range(0, T, steps):
                kernel[(groups_h * min(groups_b, triton.cdiv(B - b0, cfg.block_b)),)](
                    *args,
                    barrier,
                    b0,
                    step0,
                    steps,
                    T,
                    B,
                    H=H,
                    REVERSE=reverse,
                    BLOCK_B=cfg.block_b,
                    BLOCK_H=cfg.block_h,
                    BLOCK_K=cfg.block_k,
                    RESIDENT=cfg.resident,
                    BARRIER=barrier is not None,
                    PRECISION=dot_precision(like.dtype),
                    num_warps=cfg.num_warps,
                    **options,
                )


def gru_sequence_fwd(
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
    reset_after: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.gru`. One GEMM for the inputs of all steps, then the walk."""
    T, B, _ = x.shape
    H = h0.shape[1]
    y = x.new_empty(T, B, H)
    state = h0.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if y.numel():
        gx = F.linear(x, w_ih, b_ih).contiguous()
        b_hh = None if b_hh is None else b_hh.contiguous()
        lengths = None if lengths is None else lengths.contiguous()
        args = (gx, h0.contiguous(), w_hh.contiguous(), b_hh, lengths, y, state)
        _walk(gru_sequence_fwd_kernel, args, config.GRU_FWD, T, B, H, reverse, x)
    return y, state.to(x.dtype, copy=True), x.new_empty(0)


def gru_sequence_bwd(
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
    reset_after: bool,
    h_prev: Tensor,
    gates: Tensor,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.gru`. Two GEMMs rebuild all pre-activations, one pass turns them into factors, then the walk."""
    T, B, H = h_prev.shape
    dgx = F.linear(x, w_ih, b_ih).contiguous()
    dgh = F.linear(h_prev, w_hh, b_hh).contiguous()
    state = grad_h_n.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if h_prev.numel() == 0:
        return dgx, dgh, state.to(x.dtype, copy=True), x.new_empty(0), x.new_empty(0)
    w_hh = w_hh.contiguous()
    tile = config.GRU_FACTORS
    block_h = min(tile.block_h, triton.next_power_of_2(H))
    with device_guard(x):
        gru_factors_kernel[(triton.cdiv(T * B, tile.block_n), triton.cdiv(H, block_h))](
            dgx,
            dgh,
            h_prev.contiguous(),
            None if lengths is None else lengths.contiguous(),
            T * B,
            B,
            H=H,
            BLOCK_N=tile.block_n,
            BLOCK_H=block_h,
            num_warps=tile.num_warps,
        )
    args = (dgx, dgh, grad_y.contiguous(), w_hh, state)
    _walk(gru_sequence_bwd_kernel, args, config.GRU_BWD, T, B, H, reverse, x)
    # dh of the first step passes on to h0 outside the walk, as one more product.
    first = dgh[T - 1 if reverse else 0]
    dh0 = state.add_(first.float() @ w_hh.float()).to(x.dtype, copy=True)
    return dgx, dgh, dh0, x.new_empty(0), x.new_empty(0)
