"""The layer-normalised GRU over a sequence in plain torch, with a hand-derived backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._layer_norm import LayerNorm
from ._recurrent import HiddenWeights, mask_ended, shares, sigmoid_slope, tanh_slope, walk_back, walk_forward

__all__ = ["layer_norm_gru_cell", "layer_norm_gru_sequence_bwd", "layer_norm_gru_sequence_fwd"]


def layer_norm_gru_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    gamma_ih: Tensor | None,
    gamma_hh: Tensor | None,
    joint: bool,
    eps: float,
) -> Tensor:
    """See `seqops.ops.layer_norm_gru`. Differentiated by autograd: of one step there is nothing to save."""
    width = w_hh.shape[:1]
    if joint:
        products = torch.addmm(F.linear(x, w_ih, b_ih), h, w_hh.t())
        r, z, gh_n = torch.layer_norm(products, width, gamma_hh, b_hh, eps).chunk(3, 1)
        return torch.lerp((r.sigmoid() * gh_n).tanh_(), h, z.sigmoid())
    gx_r, gx_z, gx_n = torch.layer_norm(torch.mm(x, w_ih.t()), width, gamma_ih, b_ih, eps).chunk(3, 1)
    gh_r, gh_z, gh_n = torch.layer_norm(torch.mm(h, w_hh.t()), width, gamma_hh, b_hh, eps).chunk(3, 1)
    r, z = (gx_r + gh_r).sigmoid_(), (gx_z + gh_z).sigmoid_()
    return torch.lerp(torch.addcmul(gx_n, r, gh_n).tanh_(), h, z)


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
    norm, weights = LayerNorm(gamma, beta, eps), HiddenWeights(w_hh, heads)
    products = gx.new_empty(T if training else 1, B, 3 * H)
    products_t = products.unbind(0) if training else [products[0]] * T
    y = gx.new_empty(T, B, H)
    y_t, gx_t = y.unbind(0), gx.unbind(0)
    kept_t = None if zoneout is None else zoneout.unbind(0)

    def step(t: int, h: Tensor) -> tuple[Tensor]:
        met = h if recurrent_mask is None else h * recurrent_mask
        if joint:
            gates = norm(weights.add_to(products_t[t].copy_(gx_t[t]), met))
            rz, n = gates[:, : 2 * H].sigmoid_(), gates[:, 2 * H :]
            n = n.mul_(rz[:, :H]).tanh_()
        else:
            gates = norm(weights.product(met, None, products_t[t]))
            rz = gates[:, : 2 * H].add_(gx_t[t][:, : 2 * H]).sigmoid_()
            n = torch.addcmul(gx_t[t][:, 2 * H :], rz[:, :H], gates[:, 2 * H :]).tanh_()
        new = torch.lerp(n, h, rz[:, H:], out=y_t[t])
        return (new if kept_t is None else new.lerp_(h, kept_t[t]),)

    (h_n,) = walk_forward(step, (h0,), T, lengths, reset, None if reset_state is None else (reset_state,), reverse)
    mask_ended(lengths, y)
    return y, h_n.clone(), products if training else gx.new_empty(0)


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
    """See `seqops.ops.layer_norm_gru`.

    The gates are found again for all steps at once. Every gradient of step t up to the normalisation is linear in dh_t,
    with factors that do not depend on later steps; the loop is left with a scaling, the normalisation's gradient and a
    matrix product a step.
    """
    T, B, H = h_prev.shape
    norm, weights = LayerNorm(gamma, beta, eps), HiddenWeights(w_hh, heads)
    gates, mean, rstd = norm.with_moments(products)
    rz = torch.sigmoid(gates[..., : 2 * H] if joint else gates[..., : 2 * H] + gx[..., : 2 * H])
    r, z, gh_n = rz[..., :H], rz[..., H:], gates[..., 2 * H :]
    n = torch.mul(r, gh_n).tanh_() if joint else torch.addcmul(gx[..., 2 * H :], r, gh_n).tanh_()
    passed, taken = shares(z, zoneout)
    by_n = tanh_slope(taken, n, grad_input=torch.empty_like(h_prev))
    d_gates = torch.empty_like(products)
    by_r, by_z, by_gh_n = (d_gates.view(T, B, 3, H)[:, :, i] for i in range(3))
    sigmoid_slope(by_n * gh_n, r, grad_input=by_r)
    sigmoid_slope(h_prev - n if zoneout is None else (h_prev - n).mul_(1 - zoneout), z, grad_input=by_z)
    torch.mul(by_n, r, out=by_gh_n)
    d_products, dh_all = torch.empty_like(products), torch.empty_like(by_n)
    d_gates_t, split_t, d_products_t = d_gates.unbind(0), d_gates.view(T, B, 3, H).unbind(0), d_products.unbind(0)
    dh_t, passed_t, grad_t = dh_all.unbind(0), passed.unbind(0), grad_y.unbind(0)
    products_t, mean_t, rstd_t = products.unbind(0), mean.unbind(0), rstd.unbind(0)

    def step(t: int, later: Tensor) -> tuple[Tensor]:
        dh = torch.add(later, grad_t[t], out=dh_t[t])
        split_t[t].mul_(dh[:, None])
        d = d_products_t[t].copy_(norm.back(d_gates_t[t], products_t[t], mean_t[t], rstd_t[t]))
        return (weights.back(d, dh * passed_t[t], recurrent_mask),)

    (dh0,), (by_reset,) = walk_back(step, (grad_h_n,), T, lengths, reset, need_reset_state, reverse)
    mask_ended(lengths, d_products, d_gates)
    dgamma, dbeta = norm.gradients(d_gates, products, mean, rstd)
    if joint:
        return gx.new_empty(0), d_products, dgamma, dbeta, dh0.clone(), by_reset
    torch.mul(by_n, dh_all, out=by_gh_n)
    mask_ended(lengths, d_gates)
    return d_gates, d_products, dgamma, dbeta, dh0.clone(), by_reset
