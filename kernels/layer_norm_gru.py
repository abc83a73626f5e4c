"""The layer-normalised GRU over a sequence, forward and backward: a step is a library's product and one kernel.

The normalisation needs all gates of a row before any of them, so a program holds whole rows. Nothing waits for the
host: a CUDA graph can hold the walk.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cpu._layer_norm import LayerNorm
from ..cpu._recurrent import HiddenWeights
from .common import mix
from .layer_norm import RUN_TIME, gates_of, launch_rows, none_of, normalized, normalized_back, owned_rows, scaled
from .recurrent import leave, plain
from .recurrent_step import add_at, gru_gates, time_of

__all__ = ["layer_norm_gru_sequence_bwd", "layer_norm_gru_sequence_fwd"]


@triton.jit(do_not_specialize=RUN_TIME)
def layer_norm_gru_fwd_kernel(
    gx_ptr,
    products_ptr,
    gamma_ptr,
    beta_ptr,
    lengths_ptr,
    reset_ptr,
    reset_state_ptr,
    mask_ptr,
    zoneout_ptr,
    y_ptr,
    state_ptr,
    met_ptr,
    eps,
    stride,
    step,
    T,
    B,
    H: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program b owns BLOCK_B batch rows: it ends the step before `step`, and begins this one.

    gx [T,B,3H]: the input's share of the gates, absent where it is in the products already. products: what is
    normalised of the step that ends, [B,3H] at its time times `stride`. state [B,H] fp32 holds h, met [B,H] what meets
    W_hh in the step that begins. Before the first step none ends, after the last none begins.
    """
    rows, row_mask, length, units, mask = owned_rows(lengths_ptr, T, B, H, BLOCK_B, BLOCK_H)
    own = rows[:, None] * H + units[None, :]
    t, before = time_of(step, T, REVERSE)
    ends = mask & (step > 0)
    gates = rows[:, None] * 3 * H + units[None, :]
    hat, _ = normalized(gates_of(products_ptr + before * stride + gates, ends, H, 3), mask, eps, H, 3)
    gh = scaled(hat, gamma_ptr, beta_ptr, units, H, 3)
    gx = none_of(mask, 3) if gx_ptr is None else gates_of(gx_ptr + before * B * 3 * H + gates, ends, H, 3)
    _, z, n = gru_gates(gx[0], gx[1], gx[2], gh[0], gh[1], gh[2])
    past = before * B * H + own
    h = tl.load(state_ptr + own, mask=mask, other=0.0)
    new = mix(z, h, n)
    if zoneout_ptr is not None:
        new = mix(tl.load(zoneout_ptr + past, mask=ends, other=0.0).to(tl.float32), h, new)
    active = ((before < length) & (step > 0))[:, None]
    h = tl.where(active, new, h)
    tl.store(y_ptr + past, tl.where(active, h, 0.0).to(y_ptr.dtype.element_ty), mask=ends)
    if reset_ptr is not None:
        begins = row_mask & (step < T)
        fresh = ((tl.load(reset_ptr + t * B + rows, mask=begins, other=0) != 0) & begins)[:, None]
        h = tl.where(fresh, tl.load(reset_state_ptr + own, mask=mask & fresh, other=0.0).to(tl.float32), h)
    tl.store(state_ptr + own, h, mask=mask)
    met = h.to(met_ptr.dtype.element_ty)
    if mask_ptr is not None:
        met *= tl.load(mask_ptr + own, mask=mask, other=0.0)
    tl.store(met_ptr + own, met, mask=mask)


@triton.jit(do_not_specialize=RUN_TIME)
def layer_norm_gru_bwd_kernel(
    gx_ptr,
    products_ptr,
    gamma_ptr,
    beta_ptr,
    h_prev_ptr,
    grad_y_ptr,
    lengths_ptr,
    reset_ptr,
    mask_ptr,
    zoneout_ptr,
    by_reset_ptr,
    state_ptr,
    passed_ptr,
    d_gates_ptr,
    d_products_ptr,
    dn_ptr,
    eps,
    step,
    T,
    B,
    H: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program b owns BLOCK_B batch rows of one step; the last comes first.

    From the gradients of h after the step, d_products [T,B,3H] of what was normalised, d_gates [T,B,3H] of
    gamma * hat + beta, and where gx is apart dn [T,B,H] of its n. passed [B,H]: what comes through W_hh from the step
    after, none before the first launch; state [B,H] fp32: what comes past it; by_reset, like it, gathers the gradients
    of the state that resets put in place.
    """
    rows, row_mask, length, units, mask = owned_rows(lengths_ptr, T, B, H, BLOCK_B, BLOCK_H)
    own = rows[:, None] * H + units[None, :]
    t, after = time_of(step, T, 1 - REVERSE)
    here = t * B * H + own
    passed = tl.load(passed_ptr + own, mask=mask & (step > 0), other=0.0).to(tl.float32)
    if mask_ptr is not None:
        passed *= tl.load(mask_ptr + own, mask=mask, other=0.0).to(tl.float32)
    passed += tl.load(state_ptr + own, mask=mask, other=0.0)
    if reset_ptr is not None:
        # The step after began anew: its gradient is of the state that the reset put in place.
        follows = row_mask & (step > 0)
        fresh = ((tl.load(reset_ptr + after * B + rows, mask=follows, other=0) != 0) & follows)[:, None]
        if by_reset_ptr is not None:
            add_at(by_reset_ptr + own, passed, mask & fresh)
        passed = tl.where(fresh, 0.0, passed)
    dh = passed + tl.load(grad_y_ptr + here, mask=mask, other=0.0).to(tl.float32)

    gates = t * B * 3 * H + rows[:, None] * 3 * H + units[None, :]
    hat, rstd = normalized(gates_of(products_ptr + gates, mask, H, 3), mask, eps, H, 3)
    gh = scaled(hat, gamma_ptr, beta_ptr, units, H, 3)
    gx = none_of(mask, 3) if gx_ptr is None else gates_of(gx_ptr + gates, mask, H, 3)
    r, z, n = gru_gates(gx[0], gx[1], gx[2], gh[0], gh[1], gh[2])
    active = (t < length)[:, None]
    dz = (tl.load(h_prev_ptr + here, mask=mask, other=0.0).to(tl.float32) - n) * z * (1.0 - z)
    dn = (1.0 - z) * (1.0 - n * n)
    if zoneout_ptr is not None:
        kept = tl.load(zoneout_ptr + here, mask=mask, other=0.0).to(tl.float32)
        dz *= 1.0 - kept
        dn *= 1.0 - kept
        z = kept + (1.0 - kept) * z
    now = tl.where(active, dh, 0.0)
    dn *= now
    d = (dn * gh[2] * r * (1.0 - r), dz * now, dn * r)
    dtype = d_gates_ptr.dtype.element_ty
    tl.store(state_ptr + own, tl.where(active, z * dh, dh), mask=mask)
    if gx_ptr is not None:
        tl.store(dn_ptr + here, dn.to(dtype), mask=mask)
    for g in tl.static_range(3):
        tl.store(d_gates_ptr + gates + g * H, d[g].to(dtype), mask=mask)
    back = normalized_back(d, hat, rstd, gamma_ptr, units, H, 3)
    for g in tl.static_range(3):
        tl.store(d_products_ptr + gates + g * H, back[g].to(dtype), mask=mask)


def layer_norm_gru_sequence_fwd(
    gx: Tensor,
    h0: Tensor,
    w_hh: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | None,
    heads: int,
    reverse: bool,
    joint: bool,
    eps: float,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.layer_norm_gru`. What is kept for backward: what was normalised, [T,B,3H]."""
    T, B, _ = gx.shape
    H = h0.shape[1]
    gx, weights = gx.contiguous(), HiddenWeights(w_hh, heads)
    products = gx.new_empty(T if training else 1, B, 3 * H)
    y, met = gx.new_empty(T, B, H), gx.new_empty(B, H)
    state = h0.to(torch.float32, copy=True).contiguous()
    if reset is not None and reset_state is None:
        reset_state = torch.zeros_like(h0)
    own = (
        None if joint else gx,
        products,
        *(plain(p) for p in (gamma, beta, lengths, reset, reset_state, recurrent_mask, zoneout)),
        y,
        state,
        met,
        eps,
        B * 3 * H if training else 0,
    )
    for step in range(T + 1 if y.numel() else 0):
        launch_rows(layer_norm_gru_fwd_kernel, gx, *own, step, H=H, REVERSE=reverse)
        if step < T:
            t = T - 1 - step if reverse else step
            weights.product(met, gx[t] if joint else None, products[t if training else 0])
    return y, state.to(gx.dtype), products if training else gx.new_empty(0)


def layer_norm_gru_sequence_bwd(
    grad_y: Tensor,
    grad_h_n: Tensor,
    gx: Tensor,
    w_hh: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | None,
    heads: int,
    reverse: bool,
    joint: bool,
    eps: float,
    h_prev: Tensor,
    products: Tensor,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.layer_norm_gru`."""
    T, B, H = h_prev.shape
    norm, weights = LayerNorm(gamma, beta, eps), HiddenWeights(w_hh, heads)
    products = products.contiguous()
    d_gates, d_products = torch.empty_like(products), torch.empty_like(products)
    dn = products.new_empty(0 if joint else T, B, H)
    state = grad_h_n.to(torch.float32, copy=True).contiguous()
    by_reset = torch.zeros_like(state) if need_reset_state else None
    own = (
        None if joint else gx.contiguous(),
        products,
        *(plain(p) for p in (gamma, beta, h_prev, grad_y, lengths, reset, recurrent_mask, zoneout)),
        by_reset,
        state,
    )
    passed = products.new_empty(B, H)
    for step in range(T if h_prev.numel() else 0):
        rest = (passed, d_gates, d_products, dn, eps, step)
        launch_rows(layer_norm_gru_bwd_kernel, products, *own, *rest, H=H, REVERSE=reverse)
        if step < T - 1:
            passed = weights.back(d_products[step if reverse else T - 1 - step])
    if h_prev.numel():
        first, gathered = T - 1 if reverse else 0, None if by_reset is None else (by_reset,)
        leave(first, d_products[first], w_hh, (state,), gathered, reset, recurrent_mask, heads)
    dgamma, dbeta = norm.gradients(d_gates, products, *norm.with_moments(products)[1:])
    dgx = products.new_empty(0)
    if not joint:
        d_gates.view(T, B, 3, H)[:, :, 2].copy_(dn)
        dgx = d_gates
    dtype = products.dtype
    empty = products.new_empty(0)
    return dgx, d_products, dgamma, dbeta, state.to(dtype), empty if by_reset is None else by_reset.to(dtype)
