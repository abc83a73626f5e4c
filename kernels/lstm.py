"""The LSTM over a sequence, forward and backward: what is its own beside the shared walk."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..cpu._recurrent import HiddenWeights, each_direction, mask_ended, sum_of_biases
from ..cpu.lstm import BACKWARD, FORWARD
from . import config
from .common import device_guard, tanh
from .lstm_projected import projected_back, projected_forward
from .recurrent import at_once, plain, walk_back, walk_forward
from .recurrent_step import lstm_gates

__all__ = ["lstm_sequence_bwd", "lstm_sequence_fwd"]


@triton.jit(do_not_specialize=["N", "B"])
def lstm_factors_kernel(
    gates_ptr,
    aux_ptr,
    c_prev_ptr,
    cells_ptr,
    zoneout_ptr,
    zoneout_c_ptr,
    lengths_ptr,
    N,
    B,
    H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program (n, g_h) owns BLOCK_N of the N = T*B rows x BLOCK_H units: pre-activations become factors, in place.

    All that backward needs of step t is linear in dh and dc, the gradients of h_t and c_t: gates [N,4H] becomes that of
    i, f, g by dc and of o by dh; aux [N,2H] becomes d c_t / d h_t, and f = d c_t / d c_{t-1}. With zoneout_c, dc is of
    the cell before it, which is found anew: cells [N,H] holds the one after it.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    units = tl.program_id(1).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    row_mask = rows < N
    mask = row_mask[:, None] & (units < H)[None, :]
    gates = gates_ptr + rows[:, None] * 4 * H + units[None, :]
    own = rows[:, None] * H + units[None, :]
    a_i = tl.load(gates, mask=mask, other=0.0).to(tl.float32)
    a_f = tl.load(gates + H, mask=mask, other=0.0).to(tl.float32)
    a_g = tl.load(gates + 2 * H, mask=mask, other=0.0).to(tl.float32)
    a_o = tl.load(gates + 3 * H, mask=mask, other=0.0).to(tl.float32)
    c_prev = tl.load(c_prev_ptr + own, mask=mask, other=0.0).to(tl.float32)

    i, f, g, o = lstm_gates(a_i, a_f, a_g, a_o)
    if zoneout_c_ptr is None:
        tanh_c = tanh(tl.load(cells_ptr + own, mask=mask, other=0.0).to(tl.float32))
    else:
        tanh_c = tanh(f * c_prev + i * g)
    by_i = g * i * (1.0 - i)
    by_f = c_prev * f * (1.0 - f)
    by_g = i * (1.0 - g * g)
    by_o = tanh_c * o * (1.0 - o)
    by_c = o * (1.0 - tanh_c * tanh_c)
    if zoneout_ptr is not None:
        new = 1.0 - tl.load(zoneout_ptr + own, mask=mask, other=0.0).to(tl.float32)
        by_o *= new
        by_c *= new
    if lengths_ptr is not None:
        # Past an item's end c is passed on as it is.
        length = tl.load(lengths_ptr + rows % B, mask=row_mask, other=0)
        active = (rows // B < length)[:, None]
        by_i = tl.where(active, by_i, 0.0)
        by_f = tl.where(active, by_f, 0.0)
        by_g = tl.where(active, by_g, 0.0)
        by_o = tl.where(active, by_o, 0.0)
        by_c = tl.where(active, by_c, 0.0)
        f = tl.where(active, f, 1.0)
    dtype = gates_ptr.dtype.element_ty
    tl.store(gates, by_i.to(dtype), mask=mask)
    tl.store(gates + H, by_f.to(dtype), mask=mask)
    tl.store(gates + 2 * H, by_g.to(dtype), mask=mask)
    tl.store(gates + 3 * H, by_o.to(dtype), mask=mask)
    aux = aux_ptr + rows[:, None] * 2 * H + units[None, :]
    tl.store(aux, by_c.to(dtype), mask=mask)
    tl.store(aux + H, f.to(dtype), mask=mask)


def _fwd_at_once(x: Tensor, h0: Tensor, *rest: Any) -> bool:
    mask, zoneout_h, zoneout_c, heads, *_ = rest[10:]
    return at_once("lstm", False, x, h0.shape[1], heads, mask, zoneout_h, zoneout_c)


def _bwd_at_once(grad_y: Tensor, grad_h_n: Tensor, *rest: Any) -> bool:
    mask, zoneout_h, zoneout_c, heads, *_ = rest[10:]
    return at_once("lstm", True, grad_y, grad_y.shape[2], heads, mask, zoneout_h, zoneout_c)


@each_direction(FORWARD, _fwd_at_once)
def lstm_sequence_fwd(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_h: Tensor | None,
    reset_c: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout_h: Tensor | None,
    zoneout_c: Tensor | None,
    heads: int,
    reverse: bool,
    cells: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.lstm`. One GEMM for the inputs of all steps, then the walk; backward rebuilds the gates."""
    if w_hr is not None:
        y, h_n, c_n, c_all = projected_forward(
            x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reset_h, reset_c, reverse, cells or training
        )
        return y, h_n, c_n, c_all, x.new_empty(0)
    gx = F.linear(x, w_ih, sum_of_biases(b_ih, b_hh))
    fresh = None if reset_h is None or reset_c is None else (reset_h, reset_c)
    y, (h_n, c_n), c_all = walk_forward(
        "lstm", gx, (h0, c0), w_hh, None, lengths, reset, fresh, recurrent_mask, zoneout_h, zoneout_c, heads, reverse,
        cells or training,
    )  # fmt: skip
    return y, h_n, c_n, c_all, x.new_empty(0)


@each_direction(BACKWARD, _bwd_at_once)
def lstm_sequence_bwd(
    grad_y: Tensor,
    grad_h_n: Tensor,
    grad_c_n: Tensor,
    grad_cells: Tensor | None,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout_h: Tensor | None,
    zoneout_c: Tensor | None,
    heads: int,
    reverse: bool,
    h_prev: Tensor,
    c_prev: Tensor,
    cells: Tensor,
    gates: Tensor,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.lstm`. Two GEMMs rebuild all pre-activations, one pass turns them into factors, then the walk."""
    T, B, H = cells.shape
    dg = F.linear(x, w_ih, sum_of_biases(b_ih, b_hh)).contiguous()
    aux, m = x.new_empty(T, B, 2 * H), x.new_empty(T, B, H)
    if cells.numel():
        met = h_prev if recurrent_mask is None else h_prev * recurrent_mask
        HiddenWeights(w_hh, heads).add_to(dg.flatten(0, 1), met.flatten(0, 1))
        if w_hr is not None:
            m = torch.sigmoid(dg[..., 3 * H :]).mul_(cells.tanh())
            mask_ended(lengths, m)
        tile = config.LSTM_FACTORS
        block_h = min(tile.block_h, triton.next_power_of_2(H))
        with device_guard(x):
            lstm_factors_kernel[(triton.cdiv(T * B, tile.block_n), triton.cdiv(H, block_h))](
                dg,
                aux,
                c_prev.contiguous(),
                cells.contiguous(),
                plain(zoneout_h),
                plain(zoneout_c),
                plain(lengths),
                T * B,
                B,
                H=H,
                BLOCK_N=tile.block_n,
                BLOCK_H=block_h,
                num_warps=tile.num_warps,
            )
    if w_hr is not None:
        grads = projected_back(
            grad_y, grad_h_n, grad_c_n, grad_cells, dg, aux, m, w_hh, w_hr, lengths, reset, need_reset_state, reverse
        )
        return dg, *grads
    (dh0, dc0), (by_reset_h, by_reset_c) = walk_back(
        "lstm", dg, aux, grad_y, grad_cells, (grad_h_n, grad_c_n), w_hh, lengths, reset, recurrent_mask, zoneout_h,
        zoneout_c, heads, need_reset_state, reverse,
    )  # fmt: skip
    return dg, dh0, dc0, by_reset_h, by_reset_c, x.new_empty(0)
