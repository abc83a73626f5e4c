"""What the walks of the recurrent kernels share: a program's tile, time and lengths, and a step beside its product."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import mix, sigmoid, tanh

__all__ = [
    "add_at",
    "direction_of",
    "gru_gates",
    "lengths_of",
    "lstm_gates",
    "starts_at",
    "step_back",
    "step_forward",
    "tile_of",
    "tile_of_head",
    "time_of",
]


@triton.jit
def gru_gates(gx_r, gx_z, gx_n, gh_r, gh_z, gh_n):
    """r, z, n from the input's and the hidden state's share of the pre-activations, fp32."""
    r = sigmoid(gx_r + gh_r)
    z = sigmoid(gx_z + gh_z)
    n = tanh(gx_n + r * gh_n)
    return r, z, n


@triton.jit
def lstm_gates(a_i, a_f, a_g, a_o):
    """i, f, g, o from the pre-activations, fp32."""
    g = tanh(a_g)  # first: else the LLVM of Triton 3.9 aborts at 64 units in fp32
    return sigmoid(a_i), sigmoid(a_f), g, sigmoid(a_o)


@triton.jit
def tile_of(b0, B, H: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr):
    """The program's group g_b of batch rows from b0 on, these rows and its units, and which of them there are."""
    pid = tl.program_id(0).to(tl.int64)
    G_H: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    g_b = pid // G_H
    rows = b0 + g_b * BLOCK_B + tl.arange(0, BLOCK_B)
    units = (pid % G_H) * BLOCK_H + tl.arange(0, BLOCK_H)
    return g_b, rows, units, rows < B, units < H


@triton.jit
def tile_of_head(b0, B, D: tl.constexpr, HEADS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr):
    """As `tile_of`, each head's D units split by themselves: the group of programs, and the head's first unit too."""
    pid = tl.program_id(0).to(tl.int64)
    G_H: tl.constexpr = (D + BLOCK_H - 1) // BLOCK_H
    group = pid // G_H
    rows = b0 + (group // HEADS) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = (pid % G_H) * BLOCK_H + tl.arange(0, BLOCK_H)
    first = (group % HEADS) * D
    return group, rows, first, first + units, rows < B, units < D


@triton.jit
def lengths_of(lengths_ptr, rows, row_mask, T):
    """Each row's length; without lengths every row has T steps."""
    length = tl.zeros(rows.shape, tl.int32) + T
    if lengths_ptr is not None:
        length = tl.minimum(tl.load(lengths_ptr + rows, mask=row_mask, other=0), T)
    return length


@triton.jit
def time_of(step, T, back):
    """The time of the walk's step, and that of the step before it; `back` is 1, or True, where it goes back."""
    sign = 1 - 2 * back
    t = tl.cast(back * (T - 1) + sign * step, tl.int64)
    return t, t - sign


@triton.jit
def starts_at(t, length, back):
    """Which rows have their first step at t."""
    return t == back * (length - 1)


@triton.jit
def direction_of(group, HEADS: tl.constexpr, REVERSE: tl.constexpr):
    """1 where the group of programs goes back, else 0; of both directions (2) the second half of the heads does."""
    back = tl.cast(REVERSE, tl.int32)
    if REVERSE == 2:
        back = tl.cast(group % HEADS >= HEADS // 2, tl.int32)
    return back


@triton.jit
def add_at(ptrs, values, mask):
    """Adds to what only this program has: rarely, so memory holds the sum and no register."""
    tl.store(ptrs, tl.load(ptrs, mask=mask, other=0.0) + values, mask=mask)


@triton.jit
def step_forward(
    gx,
    gh,
    bias,
    h,
    c,
    active,
    start,
    own,
    mask,
    y_ptr,
    cells_ptr,
    zoneout_ptr,
    zoneout_c_ptr,
    CELL: tl.constexpr,
):
    """h and c after a step from those before it and both shares of the pre-activations, a tile a gate: fp32.

    Stores y and, where kept, the cells of the step, which begins at `start` in [T,B,H]; bias: only of a GRU.
    """
    if CELL == "gru":
        _, z, n = gru_gates(
            gx[0], gx[1], gx[2], gh[0] + bias[0][None, :], gh[1] + bias[1][None, :], gh[2] + bias[2][None, :]
        )
        new = mix(z, h, n)
    elif CELL == "lstm":
        if zoneout_c_ptr is not None:
            # Before the gates, and no mix of c and new_c below: else the LLVM of Triton 3.9 aborts in fp32.
            kept_c = tl.load(zoneout_c_ptr + start + own, mask=mask, other=0.0).to(tl.float32)
        i_t, f_t, g_t, o_t = lstm_gates(gx[0] + gh[0], gx[1] + gh[1], gx[2] + gh[2], gx[3] + gh[3])
        new_c = f_t * c + i_t * g_t
        new = o_t * tanh(new_c)
        if zoneout_c_ptr is not None:
            rest = 1.0 - kept_c
            new_c = (kept_c + rest * f_t) * c + rest * i_t * g_t
        c = tl.where(active[:, None], new_c, c)
        if cells_ptr is not None:
            kept = tl.where(active[:, None], c, 0.0).to(cells_ptr.dtype.element_ty)
            tl.store(cells_ptr + start + own, kept, mask=mask)
    else:
        a = gx[0] + gh[0]
        new = tanh(a) if CELL == "tanh" else tl.where(a < 0.0, 0.0, a)
        if cells_ptr is not None:
            tl.store(cells_ptr + start + own, new.to(cells_ptr.dtype.element_ty), mask=mask)
    if zoneout_ptr is not None:
        kept_h = tl.load(zoneout_ptr + start + own, mask=mask, other=0.0).to(tl.float32)
        new = mix(kept_h, h, new)
    h = tl.where(active[:, None], new, h)
    y = tl.where(active[:, None], h, 0.0).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + start + own, y, mask=mask)
    return h, c


@triton.jit
def step_back(
    by,
    dh,
    dc,
    active,
    start,
    rows,
    units,
    mask,
    dg_ptr,
    aux_ptr,
    grad_cells_ptr,
    zoneout_ptr,
    zoneout_c_ptr,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    H: tl.constexpr,
):
    """From dh and dc of a step: the gradients of its gates' pre-activations, a tile each, dh's share that does not pass
    through them, and dc of the step before. by: the gates' factors; the step's rows begin at `start` in [T*B].

    Stores dg, and of a GRU aux, as `recurrent_bwd_kernel` says.
    """
    dtype = dg_ptr.dtype.element_ty
    K: tl.constexpr = GATES * H
    first = start * H
    own = rows[:, None] * H + units[None, :]
    gates = start * K + rows[:, None] * K + units[None, :]
    if CELL == "lstm":
        if grad_cells_ptr is not None:
            dc += tl.load(grad_cells_ptr + first + own, mask=mask, other=0.0).to(tl.float32)
        aux_ptrs = aux_ptr + start * 2 * H + rows[:, None] * 2 * H + units[None, :]
        if zoneout_c_ptr is not None:
            kept_c = tl.load(zoneout_c_ptr + first + own, mask=mask, other=0.0).to(tl.float32)
            direct_c = kept_c * dc
            dc *= 1.0 - kept_c
        dc += tl.load(aux_ptrs, mask=mask, other=0.0).to(tl.float32) * dh
        dg = ((by[0] * dc).to(dtype), (by[1] * dc).to(dtype), (by[2] * dc).to(dtype), (by[3] * dh).to(dtype))
    elif CELL == "gru":
        z = tl.load(aux_ptr + gates + H, mask=mask, other=0.0).to(tl.float32)
        by_n = tl.load(aux_ptr + gates + 2 * H, mask=mask, other=0.0).to(tl.float32)
        dg = ((by[0] * dh).to(dtype), (by[1] * dh).to(dtype), (by[2] * dh).to(dtype))
    else:
        dg = ((by[0] * dh).to(dtype),)
    for g in tl.static_range(GATES):
        tl.store(dg_ptr + gates + g * H, dg[g], mask=mask)
    if CELL == "gru":
        tl.store(aux_ptr + gates, dg[0], mask=mask)
        tl.store(aux_ptr + gates + H, dg[1], mask=mask)
        tl.store(aux_ptr + gates + 2 * H, (by_n * dh).to(dtype), mask=mask)
        direct = z * dh
    else:
        if CELL == "lstm":
            dc *= tl.load(aux_ptrs + H, mask=mask, other=0.0).to(tl.float32)
            if zoneout_c_ptr is not None:
                dc += direct_c
        direct = tl.where(active, 0.0, dh)
        if zoneout_ptr is not None:
            kept = tl.load(zoneout_ptr + first + own, mask=mask, other=0.0).to(tl.float32)
            direct = tl.where(active, kept * dh, dh)
    return dg, direct, dc
