"""The LSTM over a sequence in plain torch: products for all steps outside the time loop, a hand-derived backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ._recurrent import (
    HiddenWeights,
    each_direction,
    input_products,
    mask_ended,
    sigmoid_slope,
    sum_of_biases,
    tanh_slope,
    walk_back,
    walk_forward,
)

__all__ = ["BACKWARD", "FORWARD", "lstm_sequence_bwd", "lstm_sequence_fwd"]

# The arguments of the ops, as `each_direction` has them.
FORWARD = "- units units rows rows rows rows - - resets units units units units units heads reverse - -"
BACKWARD = (
    "units units units units - rows rows rows rows - - resets units units units heads reverse units units units units -"
)


@each_direction(FORWARD)
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
    """See `seqops.ops.lstm`. What is kept for backward: i, f, g, o, [T,B,4H]."""
    T, B, _ = x.shape
    P, H = h0.shape[1], c0.shape[1]
    gates = x.new_empty(T, B, 4 * H)
    input_products(x, w_ih, sum_of_biases(b_ih, b_hh), gates)
    all_t, i_f, i, f, g, o = (
        gates[..., a * H : b * H].unbind(0) for a, b in ((0, 4), (0, 2), (0, 1), (1, 2), (2, 3), (3, 4))
    )
    y = x.new_empty(T, B, P)
    y_t, weights = y.unbind(0), HiddenWeights(w_hh, heads)
    c_all = x.new_empty(T if cells or training else 0, B, H)
    c_t = c_all.unbind(0)
    m = None if w_hr is None else x.new_empty(B, H)
    kept_h = None if zoneout_h is None else zoneout_h.unbind(0)
    kept_c = None if zoneout_c is None else zoneout_c.unbind(0)

    def step(t: int, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        weights.add_to(all_t[t], h if recurrent_mask is None else h * recurrent_mask)
        i_f[t].sigmoid_()
        g[t].tanh_()
        o[t].sigmoid_()
        y_out, c_out = y_t[t] if kept_h is None else None, c_t[t] if c_t else None
        new_c = torch.mul(f[t], c, out=c_out if kept_c is None else None).addcmul_(i[t], g[t])
        new_h = torch.mul(o[t], new_c.tanh(), out=y_out if m is None else m)
        if w_hr is not None:
            new_h = torch.mm(new_h, w_hr.t(), out=y_out)
        return (
            new_h if kept_h is None else torch.lerp(new_h, h, kept_h[t], out=y_t[t]),
            new_c if kept_c is None else torch.lerp(new_c, c, kept_c[t], out=c_out),
        )

    fresh = None if reset_h is None or reset_c is None else (reset_h, reset_c)
    h_n, c_n = walk_forward(step, (h0, c0), T, lengths, reset, fresh, reverse)
    mask_ended(lengths, y, *([c_all] if cells or training else []))
    return y, h_n.clone(), c_n.clone(), c_all, gates if training else x.new_empty(0)


@each_direction(BACKWARD)
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
    """See `seqops.ops.lstm`.

    All gradients of step t are linear in dh_t and dc_t, with factors that are found for all steps at once.
    """
    T, B, H = cells.shape
    i, f, g, o = (gates[..., j * H : (j + 1) * H] for j in range(4))
    tanh_c = cells.tanh() if zoneout_c is None else (f * c_prev).addcmul_(i, g).tanh_()
    dg = torch.empty(T, B, 4, H, dtype=cells.dtype, device=cells.device)
    sigmoid_slope(g, i, grad_input=dg[:, :, 0])
    sigmoid_slope(c_prev, f, grad_input=dg[:, :, 1])
    tanh_slope(i, g, grad_input=dg[:, :, 2])
    sigmoid_slope(tanh_c, o, grad_input=dg[:, :, 3])
    by_c = tanh_slope(o, tanh_c, grad_input=torch.empty_like(cells))
    dh_all = grad_y.new_empty(grad_y.shape if w_hr is not None else 0)
    by_cell, by_out, all_t = dg[:, :, :3].unbind(0), dg[:, :, 3].unbind(0), dg.unbind(0)
    f_t, by_c_t, grad_t = f.unbind(0), by_c.unbind(0), grad_y.unbind(0)
    grad_c_t = None if grad_cells is None else grad_cells.unbind(0)
    kept_h = None if zoneout_h is None else zoneout_h.unbind(0)
    kept_c = None if zoneout_c is None else zoneout_c.unbind(0)
    weights = HiddenWeights(w_hh, heads)

    def step(t: int, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        dh = dh + grad_t[t]
        direct_h = None
        if kept_h is not None:
            direct_h, dh = dh * kept_h[t], dh * (1 - kept_h[t])
        if w_hr is not None:
            dh_all[t] = dh
            dh = torch.mm(dh, w_hr)
        if grad_c_t is not None:
            dc = dc + grad_c_t[t]
        direct_c = None
        if kept_c is not None:
            direct_c, dc = dc * kept_c[t], dc * (1 - kept_c[t])
        dc = torch.addcmul(dc, by_c_t[t], dh)
        by_cell[t].mul_(dc[:, None])
        by_out[t].mul_(dh)
        dh_prev = weights.back(all_t[t].flatten(1), direct_h, recurrent_mask)
        return dh_prev, dc * f_t[t] if direct_c is None else torch.addcmul(direct_c, dc, f_t[t])

    (dh0, dc0), (by_reset_h, by_reset_c) = walk_back(
        step, (grad_h_n, grad_c_n), T, lengths, reset, need_reset_state, reverse
    )
    dg = dg.flatten(2)
    mask_ended(lengths, dg)
    dw_hr = x.new_empty(0)
    if w_hr is not None:
        m = o * tanh_c
        mask_ended(lengths, dh_all, m)
        dw_hr = dh_all.flatten(0, 1).t() @ m.flatten(0, 1)
    return dg, dh0.clone(), dc0.clone(), by_reset_h, by_reset_c, dw_hr
