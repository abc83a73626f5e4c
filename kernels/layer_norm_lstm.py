"""The layer-normalised LSTM over a sequence, forward and backward: a step is a library's product and one kernel.

As in `layer_norm_gru`, a program holds whole rows, and nothing waits for the host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cpu._layer_norm import LayerNorm
from ..cpu._recurrent import HiddenWeights
from .common import mix, tanh
from .layer_norm import RUN_TIME, gates_of, launch_rows, none_of, normalized, normalized_back, owned_rows, scaled
from .recurrent import leave, plain
from .recurrent_step import add_at, lstm_gates, time_of

__all__ = ["layer_norm_lstm_sequence_bwd", "layer_norm_lstm_sequence_fwd"]


@triton.jit(do_not_specialize=RUN_TIME)
def layer_norm_lstm_fwd_kernel(
    gx_ptr,
    products_ptr,
    gamma_ptr,
    beta_ptr,
    gamma_c_ptr,
    beta_c_ptr,
    lengths_ptr,
    reset_ptr,
    reset_h_ptr,
    reset_c_ptr,
    mask_ptr,
    zoneout_h_ptr,
    zoneout_c_ptr,
    y_ptr,
    cells_ptr,
    state_ptr,
    met_ptr,
    eps,
    stride,
    step,
    T,
    B,
    H: tl.constexpr,
    REVERSE: tl.constexpr,
    NORM_CELL: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program b owns BLOCK_B batch rows: it ends the step before `step`, and begins this one.

    As `layer_norm_gru_fwd_kernel`, with 4H for 3H; state [2,B,H] holds h and c; cells [T,B,H], where kept, are all c.
    """
    rows, row_mask, length, units, mask = owned_rows(lengths_ptr, T, B, H, BLOCK_B, BLOCK_H)
    own = rows[:, None] * H + units[None, :]
    second = tl.cast(B, tl.int64) * H
    t, before = time_of(step, T, REVERSE)
    ends = mask & (step > 0)
    h = tl.load(state_ptr + own, mask=mask, other=0.0)
    c = tl.load(state_ptr + second + own, mask=mask, other=0.0)
    gates = rows[:, None] * 4 * H + units[None, :]
    hat, _ = normalized(gates_of(products_ptr + before * stride + gates, ends, H, 4), mask, eps, H, 4)
    gh = scaled(hat, gamma_ptr, beta_ptr, units, H, 4)
    gx = none_of(mask, 4) if gx_ptr is None else gates_of(gx_ptr + before * B * 4 * H + gates, ends, H, 4)
    i, f, g, o = lstm_gates(gx[0] + gh[0], gx[1] + gh[1], gx[2] + gh[2], gx[3] + gh[3])
    new_c = tl.where(mask, f * c + i * g, 0.0)
    normed = (new_c,)
    if NORM_CELL:
        hat_c, _ = normalized(normed, mask, eps, H, 1)
        normed = scaled(hat_c, gamma_c_ptr, beta_c_ptr, units, H, 1)
    new_h = o * tanh(normed[0])
    past = before * B * H + own
    if zoneout_h_ptr is not None:
        kept = tl.load(zoneout_h_ptr + past, mask=ends, other=0.0).to(tl.float32)
        new_h = mix(kept, h, new_h)
    if zoneout_c_ptr is not None:
        kept_c = tl.load(zoneout_c_ptr + past, mask=ends, other=0.0).to(tl.float32)
        new_c = mix(kept_c, c, new_c)
    active = ((before < length) & (step > 0))[:, None]
    h = tl.where(active, new_h, h)
    c = tl.where(active, new_c, c)
    tl.store(y_ptr + past, tl.where(active, h, 0.0).to(y_ptr.dtype.element_ty), mask=ends)
    if cells_ptr is not None:
        tl.store(cells_ptr + past, tl.where(active, c, 0.0).to(cells_ptr.dtype.element_ty), mask=ends)
    if reset_ptr is not None:
        begins = row_mask & (step < T)
        fresh = ((tl.load(reset_ptr + t * B + rows, mask=begins, other=0) != 0) & begins)[:, None]
        h = tl.where(fresh, tl.load(reset_h_ptr + own, mask=mask & fresh, other=0.0).to(tl.float32), h)
        c = tl.where(fresh, tl.load(reset_c_ptr + own, mask=mask & fresh, other=0.0).to(tl.float32), c)
    tl.store(state_ptr + own, h, mask=mask)
    tl.store(state_ptr + second + own, c, mask=mask)
    met = h.to(met_ptr.dtype.element_ty)
    if mask_ptr is not None:
        met *= tl.load(mask_ptr + own, mask=mask, other=0.0)
    tl.store(met_ptr + own, met, mask=mask)


@triton.jit(do_not_specialize=RUN_TIME)
def layer_norm_lstm_bwd_kernel(
    gx_ptr,
    products_ptr,
    gamma_ptr,
    beta_ptr,
    gamma_c_ptr,
    beta_c_ptr,
    c_prev_ptr,
    grad_y_ptr,
    grad_cells_ptr,
    lengths_ptr,
    reset_ptr,
    mask_ptr,
    zoneout_h_ptr,
    zoneout_c_ptr,
    by_reset_ptr,
    state_ptr,
    passed_ptr,
    d_gates_ptr,
    d_products_ptr,
    raw_ptr,
    d_normed_ptr,
    eps,
    step,
    T,
    B,
    H: tl.constexpr,
    REVERSE: tl.constexpr,
    NORM_CELL: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program b owns BLOCK_B batch rows of one step; the last comes first.

    As `layer_norm_gru_bwd_kernel`, with 4H for 3H; state [2,B,H] holds what comes of dh past W_hh, and dc. Where the
    cell is normalised: raw [T,B,H] is the cell before, d_normed [T,B,H] the gradient of what it becomes.
    """
    rows, row_mask, length, units, mask = owned_rows(lengths_ptr, T, B, H, BLOCK_B, BLOCK_H)
    own = rows[:, None] * H + units[None, :]
    second = tl.cast(B, tl.int64) * H
    t, after = time_of(step, T, 1 - REVERSE)
    here = t * B * H + own
    passed = tl.load(passed_ptr + own, mask=mask & (step > 0), other=0.0).to(tl.float32)
    if mask_ptr is not None:
        passed *= tl.load(mask_ptr + own, mask=mask, other=0.0).to(tl.float32)
    passed += tl.load(state_ptr + own, mask=mask, other=0.0)
    dc = tl.load(state_ptr + second + own, mask=mask, other=0.0)
    if reset_ptr is not None:
        # The step after began anew: its gradients are of the state that the reset put in place.
        follows = row_mask & (step > 0)
        fresh = ((tl.load(reset_ptr + after * B + rows, mask=follows, other=0) != 0) & follows)[:, None]
        if by_reset_ptr is not None:
            add_at(by_reset_ptr + own, passed, mask & fresh)
            add_at(by_reset_ptr + second + own, dc, mask & fresh)
        passed = tl.where(fresh, 0.0, passed)
        dc = tl.where(fresh, 0.0, dc)
    dh = passed + tl.load(grad_y_ptr + here, mask=mask, other=0.0).to(tl.float32)
    if grad_cells_ptr is not None:
        dc += tl.load(grad_cells_ptr + here, mask=mask, other=0.0).to(tl.float32)

    gates = t * B * 4 * H + rows[:, None] * 4 * H + units[None, :]
    hat, rstd = normalized(gates_of(products_ptr + gates, mask, H, 4), mask, eps, H, 4)
    gh = scaled(hat, gamma_ptr, beta_ptr, units, H, 4)
    gx = none_of(mask, 4) if gx_ptr is None else gates_of(gx_ptr + gates, mask, H, 4)
    i, f, g, o = lstm_gates(gx[0] + gh[0], gx[1] + gh[1], gx[2] + gh[2], gx[3] + gh[3])
    c_prev = tl.load(c_prev_ptr + here, mask=mask, other=0.0).to(tl.float32)
    raw = tl.where(mask, f * c_prev + i * g, 0.0)
    normed = (raw,)
    hat_c, rstd_c = normed, 1.0
    if NORM_CELL:
        hat_c, rstd_c = normalized((raw,), mask, eps, H, 1)
        normed = scaled(hat_c, gamma_c_ptr, beta_c_ptr, units, H, 1)
    tanh_c = tanh(normed[0])

    active = (t < length)[:, None]
    now_h = tl.where(active, dh, 0.0)
    now_c = tl.where(active, dc, 0.0)
    direct_h = tl.where(active, 0.0, dh)
    direct_c = tl.where(active, 0.0, dc)
    if zoneout_h_ptr is not None:
        kept = tl.load(zoneout_h_ptr + here, mask=mask, other=0.0).to(tl.float32)
        direct_h += kept * now_h
        now_h *= 1.0 - kept
    if zoneout_c_ptr is not None:
        kept_c = tl.load(zoneout_c_ptr + here, mask=mask, other=0.0).to(tl.float32)
        direct_c += kept_c * now_c
        now_c *= 1.0 - kept_c
    dtype = d_gates_ptr.dtype.element_ty
    d_normed = (o * (1.0 - tanh_c * tanh_c) * now_h,)
    if NORM_CELL:
        tl.store(raw_ptr + here, raw.to(dtype), mask=mask)
        tl.store(d_normed_ptr + here, d_normed[0].to(dtype), mask=mask)
        d_normed = normalized_back(d_normed, hat_c, rstd_c, gamma_c_ptr, units, H, 1)
    now_c += tl.where(mask, d_normed[0], 0.0)
    d = (
        now_c * g * i * (1.0 - i),
        now_c * c_prev * f * (1.0 - f),
        now_c * i * (1.0 - g * g),
        now_h * tanh_c * o * (1.0 - o),
    )
    back = normalized_back(d, hat, rstd, gamma_ptr, units, H, 4)
    for k in tl.static_range(4):
        tl.store(d_gates_ptr + gates + k * H, d[k].to(dtype), mask=mask)
        tl.store(d_products_ptr + gates + k * H, back[k].to(dtype), mask=mask)
    tl.store(state_ptr + own, direct_h, mask=mask)
    tl.store(state_ptr + second + own, direct_c + now_c * f, mask=mask)


def layer_norm_lstm_sequence_fwd(
    gx: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    gamma_c: Tensor | None,
    beta_c: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_h: Tensor | None,
    reset_c: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout_h: Tensor | None,
    zoneout_c: Tensor | None,
    heads: int,
    reverse: bool,
    joint: bool,
    norm_cell: bool,
    eps: float,
    cells: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.layer_norm_lstm`. What is kept for backward: what was normalised, [T,B,4H]."""
    T, B, _ = gx.shape
    H = h0.shape[1]
    gx, weights = gx.contiguous(), HiddenWeights(w_hh, heads)
    products = gx.new_empty(T if training else 1, B, 4 * H)
    y, c_all = gx.new_empty(T, B, H), gx.new_empty(T if cells or training else 0, B, H)
    state, met = torch.stack([h0.float(), c0.float()]), gx.new_empty(B, H)
    if reset is not None and reset_h is None:
        reset_h = reset_c = torch.zeros_like(h0)
    norms = (plain(p) for p in (gamma, beta, gamma_c, beta_c))
    rest = (plain(p) for p in (lengths, reset, reset_h, reset_c, recurrent_mask, zoneout_h, zoneout_c))
    kept = c_all if cells or training else None
    own = (None if joint else gx, products, *norms, *rest, y, kept, state, met, eps, B * 4 * H if training else 0)
    for step in range(T + 1 if y.numel() else 0):
        launch_rows(layer_norm_lstm_fwd_kernel, gx, *own, step, H=H, REVERSE=reverse, NORM_CELL=norm_cell)
        if step < T:
            t = T - 1 - step if reverse else step
            weights.product(met, gx[t] if joint else None, products[t if training else 0])
    h_n, c_n = state.to(gx.dtype).unbind(0)
    return y, h_n.clone(), c_n.clone(), c_all, products if training else gx.new_empty(0)


def layer_norm_lstm_sequence_bwd(
    grad_y: Tensor,
    grad_h_n: Tensor,
    grad_c_n: Tensor,
    grad_cells: Tensor | None,
    gx: Tensor,
    w_hh: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    gamma_c: Tensor | None,
    beta_c: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout_h: Tensor | None,
    zoneout_c: Tensor | None,
    heads: int,
    reverse: bool,
    joint: bool,
    norm_cell: bool,
    eps: float,
    h_prev: Tensor,
    c_prev: Tensor,
    products: Tensor,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.layer_norm_lstm`."""
    T, B, H = c_prev.shape
    weights, products = HiddenWeights(w_hh, heads), products.contiguous()
    d_gates, d_products = torch.empty_like(products), torch.empty_like(products)
    raw, d_normed = (products.new_empty(T if norm_cell else 0, B, H) for _ in range(2))
    state = torch.stack([grad_h_n.float(), grad_c_n.float()])
    by_reset = torch.zeros_like(state) if need_reset_state else None
    inputs = (gamma, beta, gamma_c, beta_c, c_prev, grad_y, grad_cells)
    rest = (lengths, reset, recurrent_mask, zoneout_h, zoneout_c)
    own = (None if joint else gx.contiguous(), products, *(plain(p) for p in (*inputs, *rest)), by_reset, state)
    passed = products.new_empty(B, H)
    for step in range(T if c_prev.numel() else 0):
        results = (passed, d_gates, d_products, raw, d_normed, eps, step)
        constants = {"H": H, "REVERSE": reverse, "NORM_CELL": norm_cell}
        launch_rows(layer_norm_lstm_bwd_kernel, products, *own, *results, **constants)
        if step < T - 1:
            passed = weights.back(d_products[step if reverse else T - 1 - step])
    if c_prev.numel():
        first = T - 1 if reverse else 0
        leave(first, d_products[first], w_hh, state, by_reset, reset, recurrent_mask, heads)
    norm, norm_c = LayerNorm(gamma, beta, eps), LayerNorm(gamma_c, beta_c, eps)
    dgamma, dbeta = norm.gradients(d_gates, products, *norm.with_moments(products)[1:])
    dgamma_c, dbeta_c = (products.new_empty(0) for _ in range(2))
    if norm_cell:
        dgamma_c, dbeta_c = norm_c.gradients(d_normed, raw, *norm_c.with_moments(raw)[1:])
    dgx = products.new_empty(0) if joint else d_gates
    dh0, dc0 = state.to(products.dtype).unbind(0)
    by_h, by_c = (products.new_empty(0), products.new_empty(0)) if by_reset is None else by_reset.to(products.dtype)
    return dgx, d_products, dgamma, dbeta, dgamma_c, dbeta_c, dh0.clone(), dc0.clone(), by_h.clone(), by_c.clone()
