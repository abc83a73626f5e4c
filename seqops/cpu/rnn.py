"""The RNN over a sequence in plain torch: products for all steps outside the time loop, a hand-derived backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ._recurrent import input_products, mask_ended, sum_of_biases, walk_back, walk_forward

__all__ = ["output_slope", "rnn_sequence_bwd", "rnn_sequence_fwd"]


def output_slope(y: Tensor, relu: bool) -> Tensor:
    """The nonlinearity's slope, from its output."""
    return (y > 0).to(y.dtype) if relu else torch.ops.aten.tanh_backward(torch.ones_like(y), y)


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
    reverse: bool,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """See `seqops.ops.rnn`."""
    T, B, _ = x.shape
    y = x.new_empty(T, B, h0.shape[1])
    input_products(x, w_ih, sum_of_biases(b_ih, b_hh), y)
    y_t, w = y.unbind(0), w_hh.t()

    def step(t: int, h: Tensor) -> tuple[Tensor]:
        a = y_t[t].addmm_(h, w)
        return (a.relu_() if relu else a.tanh_(),)

    (h_n,) = walk_forward(step, (h0,), T, lengths, reset, None if reset_state is None else (reset_state,), reverse)
    mask_ended(lengths, y)
    return y, h_n.clone()


def rnn_sequence_bwd(
    grad_y: Tensor,
    grad_h_n: Tensor,
    w_hh: Tensor,
    y: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    relu: bool,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.rnn`. The slope follows from the output; the loop scales it by dh."""
    dg = output_slope(y, relu)
    dg_t, grad_t = dg.unbind(0), grad_y.unbind(0)

    def step(t: int, dh: Tensor) -> tuple[Tensor]:
        return (torch.mm(dg_t[t].mul_(dh + grad_t[t]), w_hh),)

    (dh0,), (by_reset,) = walk_back(step, (grad_h_n,), y.shape[0], lengths, reset, need_reset_state, reverse)
    mask_ended(lengths, dg)
    return dg, dh0.clone(), by_reset
