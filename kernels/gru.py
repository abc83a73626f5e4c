"""The GRU over a sequence, forward and backward: what is its own beside the shared walk."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..cpu._recurrent import HiddenWeights, each_direction
from ..cpu.gru import BACKWARD, FORWARD
from . import config
from .common import device_guard
from .gru_cho import cho_back, cho_forward
from .recurrent import at_once, plain, walk_back, walk_forward
from .recurrent_step import gru_gates

__all__ = ["gru_sequence_bwd", "gru_sequence_fwd"]


@triton.jit(do_not_specialize=["N", "B"])
def gru_factors_kernel(
    gx_ptr,
    gh_ptr,
    h_prev_ptr,
    zoneout_ptr,
    lengths_ptr,
    N,
    B,
    H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program (n, g_h) owns BLOCK_N of the N = T*B rows x BLOCK_H units: pre-activations become factors, in place.

    With dh the gradient of h_t, all that backward needs of step t is linear in dh: gh becomes (r, z, n) of
    d gh / dh; gx's n becomes d gx_n / dh and gx's z becomes d h_t / d h_{t-1}, the direct way: z, and with zoneout
    [N,H] what it keeps and z of the rest. gx's r is left over.
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
    by_z = (h_prev - n) * z * (1.0 - z)
    by_n = (1.0 - z) * (1.0 - n * n)
    if zoneout_ptr is not None:
        kept_ptrs = zoneout_ptr + rows[:, None] * H + units[None, :]
        kept = tl.load(kept_ptrs, mask=mask, other=0.0).to(tl.float32)
        by_z *= 1.0 - kept
        by_n *= 1.0 - kept
        z = kept + (1.0 - kept) * z
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


def _fwd_at_once(x: Tensor, h0: Tensor, *rest: Any) -> bool:
    mask, zoneout, heads, _, reset_after, _ = rest[7:]
    return reset_after and at_once("gru", False, x, h0.shape[1], heads, mask, zoneout)


def _bwd_at_once(grad_y: Tensor, grad_h_n: Tensor, *rest: Any) -> bool:
    mask, zoneout, heads, _, reset_after, *_ = rest[7:]
    return reset_after and at_once("gru", True, grad_y, grad_y.shape[2], heads, mask, zoneout)


@each_direction(FORWARD, _fwd_at_once)
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
    recurrent_mask: Tensor | None,
    zoneout: Tensor | None,
    heads: int,
    reverse: bool,
    reset_after: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.gru`. One GEMM for the inputs of all steps, then the walk; backward rebuilds the gates."""
    if not reset_after:
        y, h_n = cho_forward(x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reset, reset_state, reverse)
        return y, h_n, x.new_empty(0)
    fresh = None if reset_state is None else (reset_state,)
    gx = F.linear(x, w_ih, b_ih)
    y, (h_n,), _ = walk_forward(
        "gru", gx, (h0,), w_hh, b_hh, lengths, reset, fresh, recurrent_mask, zoneout, None, heads, reverse, False
    )
    return y, h_n, x.new_empty(0)


@each_direction(BACKWARD, _bwd_at_once)
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
    recurrent_mask: Tensor | None,
    zoneout: Tensor | None,
    heads: int,
    reverse: bool,
    reset_after: bool,
    h_prev: Tensor,
    gates: Tensor,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.gru`. Two GEMMs rebuild all pre-activations, one pass turns them into factors, then the walk."""
    if not reset_after:
        dg, dh0, by_reset, rh = cho_back(
            grad_y, grad_h_n, x, w_ih, w_hh, b_ih, b_hh, lengths, reset, reverse, h_prev, need_reset_state
        )
        return dg, x.new_empty(0), dh0, by_reset, rh
    T, B, H = h_prev.shape
    dgx = F.linear(x, w_ih, b_ih).contiguous()
    dgh = torch.empty_like(dgx)
    if h_prev.numel():
        met = h_prev if recurrent_mask is None else h_prev * recurrent_mask
        HiddenWeights(w_hh, heads).product(met.flatten(0, 1), b_hh, dgh.flatten(0, 1))
        tile = config.GRU_FACTORS
        block_h = min(tile.block_h, triton.next_power_of_2(H))
        with device_guard(x):
            gru_factors_kernel[(triton.cdiv(T * B, tile.block_n), triton.cdiv(H, block_h))](
                dgx,
                dgh,
                h_prev.contiguous(),
                plain(zoneout),
                plain(lengths),
                T * B,
                B,
                H=H,
                BLOCK_N=tile.block_n,
                BLOCK_H=block_h,
                num_warps=tile.num_warps,
            )
    (dh0,), (by_reset,) = walk_back(
        "gru", dgh, dgx, grad_y, None, (grad_h_n,), w_hh, lengths, reset, recurrent_mask, None, None, heads,
        need_reset_state, reverse,
    )  # fmt: skip
    return dgx, dgh, dh0, by_reset, x.new_empty(0)
