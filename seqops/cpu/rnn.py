"""The RNN over a sequence in plain torch: products for all steps outside the time loop, a hand-derived backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ._recurrent import (
    HiddenWeights,
    each_direction,
    input_products,
    mask_ended,
    sum_of_biases,
    walk_back,
    walk_forward,
)

__all__ = ["BACKWARD", "FORWARD", "output_slope", "rnn_sequence_bwd", "rnn_sequence_fwd"]

# The arguments of the ops, as `each_direction` has them.
FORWARD = "- units rows rows rows rows - resets units units units heads reverse - -"
BACKWARD = "units units rows units - resets units units heads reverse - -"


def output_slope(out: Tensor, relu: bool) -> Tensor:
    """The nonlinearity's slope, from its output."""
    return (out > 0).to(out.dtype) if relu else torch.ops.aten.tanh_backward(torch.ones_like(out), out)


@each_direction(FORWARD)
def rnn_sequence_fwd(
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
    relu: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.rnn`. Kept for backward, where zoneout hides it in y: the nonlinearity's output [T,B,H]."""
    T, B, _ = x.shape
    y = x.new_empty(T, B, h0.shape[1])
    out = y if zoneout is None else torch.empty_like(y)
    input_products(x, w_ih, sum_of_biases(b_ih, b_hh), out)
    weights = HiddenWeights(w_hh, heads)
    y_t, out_t = y.unbind(0), out.unbind(0)
    kept_t = None if zoneout is None else zoneout.unbind(0)

    def step(t: int, h: Tensor) -> tuple[Tensor]:
        a = weights.add_to(out_t[t], h if recurrent_mask is None else h * recurrent_mask)
        a = a.relu_() if relu else a.tanh_()
        return (a if kept_t is None else torch.lerp(a, h, kept_t[t], out=y_t[t]),)

    (h_n,) = walk_forward(step, (h0,), T, lengths, reset, None if reset_state is None else (reset_state,), reverse)
    mask_ended(lengths, y)
    return y, h_n.clone(), out if training and zoneout is not None else x.new_empty(0)


@each_direction(BACKWARD)
def rnn_sequence_bwd(
    grad_y: Tensor,
    grad_h_n: Tensor,
    w_hh: Tensor,
    out: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | None,
    heads: int,
    reverse: bool,
    relu: bool,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.rnn`. The slope follows from the output; the loop scales it by dh."""
    dg = output_slope(out, relu)
    if zoneout is not None:
        dg.mul_(1 - zoneout)
    weights = HiddenWeights(w_hh, heads)
    dg_t, grad_t = dg.unbind(0), grad_y.unbind(0)
    kept_t = None if zoneout is None else zoneout.unbind(0)

    def step(t: int, dh: Tensor) -> tuple[Tensor]:
        dh = dh + grad_t[t]
        return (weights.back(dg_t[t].mul_(dh), None if kept_t is None else dh * kept_t[t], recurrent_mask),)

    (dh0,), (by_reset,) = walk_back(step, (grad_h_n,), out.shape[0], lengths, reset, need_reset_state, reverse)
    mask_ended(lengths, dg)
    return dg, dh0.clone(), by_reset
