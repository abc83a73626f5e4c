"""The layer-normalised LSTM over a sequence in plain torch, with a hand-derived backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._layer_norm import LayerNorm
from ._recurrent import HiddenWeights, mask_ended, sigmoid_slope, tanh_slope, walk_back, walk_forward

__all__ = ["layer_norm_lstm_cell", "layer_norm_lstm_sequence_bwd", "layer_norm_lstm_sequence_fwd"]


def layer_norm_lstm_cell(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    gamma_ih: Tensor | None,
    gamma_hh: Tensor | None,
    gamma_c: Tensor | None,
    beta_c: Tensor | None,
    joint: bool,
    norm_cell: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See `seqops.ops.layer_norm_lstm`. Differentiated by autograd: of one step there is nothing to save."""
    width = w_hh.shape[:1]
    if joint:
        products = torch.addmm(F.linear(x, w_ih, b_ih), h, w_hh.t())
        gates = torch.layer_norm(products, width, gamma_hh, b_hh, eps)
    else:
        gates = torch.layer_norm(torch.mm(x, w_ih.t()), width, gamma_ih, b_ih, eps)
        gates.add_(torch.layer_norm(torch.mm(h, w_hh.t()), width, gamma_hh, b_hh, eps))
    i, f, g, o = gates.chunk(4, 1)
    new_c = torch.addcmul(f.sigmoid() * c, i.sigmoid(), g.tanh())
    normed = torch.layer_norm(new_c, c.shape[1:], gamma_c, beta_c, eps) if norm_cell else new_c
    return o.sigmoid() * normed.tanh(), new_c


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
    norm, weights = LayerNorm(gamma, beta, eps), HiddenWeights(w_hh, heads)
    norm_c = LayerNorm(gamma_c, beta_c, eps)
    products = gx.new_empty(T if training else 1, B, 4 * H)
    products_t = products.unbind(0) if training else [products[0]] * T
    y, c_all = gx.new_empty(T, B, H), gx.new_empty(T if cells or training else 0, B, H)
    y_t, gx_t, c_t = y.unbind(0), gx.unbind(0), c_all.unbind(0)
    kept_h = None if zoneout_h is None else zoneout_h.unbind(0)
    kept_c = None if zoneout_c is None else zoneout_c.unbind(0)

    def step(t: int, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        met = h if recurrent_mask is None else h * recurrent_mask
        if joint:
            gates = norm(weights.add_to(products_t[t].copy_(gx_t[t]), met))
        else:
            gates = norm(weights.product(met, None, products_t[t])).add_(gx_t[t])
        i_f, g, o = gates[:, : 2 * H].sigmoid_(), gates[:, 2 * H : 3 * H].tanh_(), gates[:, 3 * H :].sigmoid_()
        c_out = c_t[t] if c_t else None
        new_c = torch.mul(i_f[:, H:], c, out=c_out if kept_c is None else None).addcmul_(i_f[:, :H], g)
        out = (norm_c(new_c) if norm_cell else new_c).tanh()
        new_h = torch.mul(o, out, out=y_t[t] if kept_h is None else None)
        return (
            new_h if kept_h is None else torch.lerp(new_h, h, kept_h[t], out=y_t[t]),
            new_c if kept_c is None else torch.lerp(new_c, c, kept_c[t], out=c_out),
        )

    fresh = None if reset_h is None or reset_c is None else (reset_h, reset_c)
    h_n, c_n = walk_forward(step, (h0, c0), T, lengths, reset, fresh, reverse)
    mask_ended(lengths, y, *([c_all] if cells or training else []))
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
    """See `seqops.ops.layer_norm_lstm`.

    The gates are found again for all steps at once; all gradients of step t are linear in dh_t and dc_t, with factors
    that do not depend on later steps.
    """
    T, B, H = c_prev.shape
    norm, weights = LayerNorm(gamma, beta, eps), HiddenWeights(w_hh, heads)
    norm_c = LayerNorm(gamma_c, beta_c, eps)
    gates, mean, rstd = norm.with_moments(products)
    if not joint:
        gates.add_(gx)
    i, f, g, o = (gates[..., j * H : (j + 1) * H] for j in range(4))
    gates[..., : 2 * H].sigmoid_(), g.tanh_(), o.sigmoid_()
    raw = (f * c_prev).addcmul_(i, g)
    mask_ended(lengths, raw)
    normed, mean_c, rstd_c = norm_c.with_moments(raw) if norm_cell else (raw, raw, raw)
    tanh_c = normed.tanh()
    d_gates = torch.empty_like(products)
    split = d_gates.view(T, B, 4, H)
    sigmoid_slope(g, i, grad_input=split[:, :, 0])
    sigmoid_slope(c_prev, f, grad_input=split[:, :, 1])
    tanh_slope(i, g, grad_input=split[:, :, 2])
    sigmoid_slope(tanh_c, o, grad_input=split[:, :, 3])
    # What the normalised cell gets of dh, and in the loop its gradient.
    d_normed = tanh_slope(o, tanh_c, grad_input=torch.empty_like(raw))
    d_products = torch.empty_like(products)
    by_cell, by_out, d_gates_t, d_products_t = (
        split[:, :, :3].unbind(0), split[:, :, 3].unbind(0), d_gates.unbind(0), d_products.unbind(0),
    )  # fmt: skip
    f_t, d_normed_t, grad_t = f.unbind(0), d_normed.unbind(0), grad_y.unbind(0)
    products_t, mean_t, rstd_t = products.unbind(0), mean.unbind(0), rstd.unbind(0)
    raw_t, mean_c_t, rstd_c_t = raw.unbind(0), mean_c.unbind(0), rstd_c.unbind(0)
    grad_c_t = None if grad_cells is None else grad_cells.unbind(0)
    kept_h = None if zoneout_h is None else zoneout_h.unbind(0)
    kept_c = None if zoneout_c is None else zoneout_c.unbind(0)

    def step(t: int, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        dh = dh + grad_t[t]
        direct_h = direct_c = None
        if kept_h is not None:
            direct_h, dh = dh * kept_h[t], dh * (1 - kept_h[t])
        if grad_c_t is not None:
            dc = dc + grad_c_t[t]
        if kept_c is not None:
            direct_c, dc = dc * kept_c[t], dc * (1 - kept_c[t])
        by_h = d_normed_t[t].mul_(dh)
        dc = dc + (norm_c.back(by_h, raw_t[t], mean_c_t[t], rstd_c_t[t]) if norm_cell else by_h)
        by_cell[t].mul_(dc[:, None])
        by_out[t].mul_(dh)
        d = d_products_t[t].copy_(norm.back(d_gates_t[t], products_t[t], mean_t[t], rstd_t[t]))
        dh_prev = weights.back(d, direct_h, recurrent_mask)
        return dh_prev, dc * f_t[t] if direct_c is None else torch.addcmul(direct_c, dc, f_t[t])

    (dh0, dc0), (by_reset_h, by_reset_c) = walk_back(
        step, (grad_h_n, grad_c_n), T, lengths, reset, need_reset_state, reverse
    )
    mask_ended(lengths, d_products, d_gates, d_normed)
    dgamma, dbeta = norm.gradients(d_gates, products, mean, rstd)
    none = gx.new_empty(0)
    dgamma_c, dbeta_c = norm_c.gradients(d_normed, raw, mean_c, rstd_c) if norm_cell else (none, none.clone())
    dgx = none.clone() if joint else d_gates
    return dgx, d_products, dgamma, dbeta, dgamma_c, dbeta_c, dh0.clone(), dc0.clone(), by_reset_h, by_reset_c
