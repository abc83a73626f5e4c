"""The GRU over a sequence in plain torch: products for all steps outside the time loop, a hand-derived backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ._recurrent import (
    HiddenWeights,
    each_direction,
    input_products,
    mask_ended,
    shares,
    sigmoid_slope,
    sum_of_biases,
    tanh_slope,
    walk_back,
    walk_forward,
)

__all__ = ["BACKWARD", "FORWARD", "gru_sequence_bwd", "gru_sequence_fwd"]

# The arguments of the ops, as `each_direction` has them.
FORWARD = "- units rows rows rows rows - resets units units units heads reverse - -"
BACKWARD = "units units - rows rows rows rows - resets units units heads reverse - units units -"


@each_direction(FORWARD)
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
    """See `seqops.ops.gru`. Kept for backward: r, z, n, with `reset_after` W_hn h + b_hn, [T,B,3H or 4H]."""
    T, B, _ = x.shape
    H = h0.shape[1]
    keeps = training and reset_after
    gates = x.new_empty(T, B, (4 if keeps else 3) * H)
    bias, b_n = _biases(b_ih, b_hh, H, reset_after)
    input_products(x, w_ih, bias, gates[..., : 3 * H])
    rz, r, z, n = (gates[..., i * H : j * H].unbind(0) for i, j in ((0, 2), (0, 1), (1, 2), (2, 3)))
    gh_n = gates[..., 3 * H :].unbind(0) if keeps else [x.new_empty(B, H)] * T
    y = x.new_empty(T, B, H)
    y_t = y.unbind(0)
    kept_t = None if zoneout is None else zoneout.unbind(0)
    w_rz, w_n = HiddenWeights(w_hh[: 2 * H], heads), HiddenWeights(w_hh[2 * H :], heads)

    def step(t: int, h: Tensor) -> tuple[Tensor]:
        met = h if recurrent_mask is None else h * recurrent_mask
        w_rz.add_to(rz[t], met).sigmoid_()
        if not reset_after:
            w_n.add_to(n[t], r[t] * met).tanh_()
        else:
            w_n.product(met, b_n, gh_n[t])
            n[t].addcmul_(r[t], gh_n[t]).tanh_()
        new = torch.lerp(n[t], h, z[t], out=y_t[t])
        return (new if kept_t is None else new.lerp_(h, kept_t[t]),)

    (h_n,) = walk_forward(step, (h0,), T, lengths, reset, None if reset_state is None else (reset_state,), reverse)
    mask_ended(lengths, y)
    return y, h_n.clone(), gates if training else x.new_empty(0)


def _biases(b_ih: Tensor | None, b_hh: Tensor | None, H: int, reset_after: bool) -> tuple[Tensor | None, Tensor | None]:
    """What the input's products start from, and what the hidden state's part of n does, if that is another."""
    if b_hh is None or not reset_after:
        return sum_of_biases(b_ih, b_hh), None
    shared = b_hh.clone()
    shared[2 * H :] = 0
    return shared if b_ih is None else shared.add_(b_ih), b_hh[2 * H :]


@each_direction(BACKWARD)
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
    """See `seqops.ops.gru`.

    Every gradient of step t is linear in dh_t, with factors that do not depend on later steps: they are found for all
    steps at once, and the loop is left with a scaling and a matrix product a step.
    """
    T, B, H = h_prev.shape
    r, z, n = (gates[..., i * H : (i + 1) * H] for i in range(3))
    passed, taken = shares(z, zoneout)
    by_n = tanh_slope(taken, n, grad_input=torch.empty_like(h_prev))
    dgh = torch.empty(T, B, 3, H, dtype=h_prev.dtype, device=h_prev.device)
    by_z = h_prev - n if zoneout is None else (h_prev - n).mul_(1 - zoneout)
    sigmoid_slope(by_z, z, grad_input=dgh[:, :, 1])
    dh_all = torch.empty_like(by_n)
    dh_t, passed_t, grad_t = dh_all.unbind(0), passed.unbind(0), grad_y.unbind(0)
    rh = None
    if reset_after:
        sigmoid_slope(by_n * gates[..., 3 * H :], r, grad_input=dgh[:, :, 0])
        torch.mul(by_n, r, out=dgh[:, :, 2])
        dgh_t, weights = dgh.unbind(0), HiddenWeights(w_hh, heads)

        def step(t: int, later: Tensor) -> tuple[Tensor]:
            dh = torch.add(later, grad_t[t], out=dh_t[t])
            dgh_t[t].mul_(dh[:, None])
            return (weights.back(dgh_t[t].flatten(1), dh * passed_t[t], recurrent_mask),)
    else:
        met = h_prev if recurrent_mask is None else h_prev * recurrent_mask
        rh = r * met
        # d rh / d r's pre-activation
        sigmoid_slope(met, r, grad_input=dgh[:, :, 0])
        dgh[:, :, 2] = by_n
        dr_t, dz_t, dn_t = (dgh[:, :, i].unbind(0) for i in range(3))
        r_t, drz_t = r.unbind(0), dgh[:, :, :2].unbind(0)
        w_rz, w_n = HiddenWeights(w_hh[: 2 * H], heads), HiddenWeights(w_hh[2 * H :], heads)

        def step(t: int, later: Tensor) -> tuple[Tensor]:
            dh = torch.add(later, grad_t[t], out=dh_t[t])
            drh = w_n.back(dn_t[t].mul_(dh))
            dr_t[t].mul_(drh)
            dz_t[t].mul_(dh)
            direct = dh * passed_t[t]
            if recurrent_mask is None:
                return (w_rz.back(drz_t[t].flatten(1), torch.addcmul(direct, drh, r_t[t])),)
            return (w_rz.back(drz_t[t].flatten(1), drh * r_t[t]).mul_(recurrent_mask).add_(direct),)

    (dh0,), (by_reset,) = walk_back(step, (grad_h_n,), T, lengths, reset, need_reset_state, reverse)
    dgh = dgh.flatten(2)
    mask_ended(lengths, dgh)
    if rh is not None:
        mask_ended(lengths, rh)
        return dgh, x.new_empty(0), dh0.clone(), by_reset, rh
    dgx = dgh.clone()
    torch.mul(by_n, dh_all, out=dgx[..., 2 * H :])
    mask_ended(lengths, dgx)
    return dgx, dgh, dh0.clone(), by_reset, x.new_empty(0)
