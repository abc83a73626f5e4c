"""The RNN over a sequence, forward and backward: launchers of the shared walk."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..cpu._recurrent import each_direction, mask_ended, sum_of_biases
from ..cpu.rnn import BACKWARD, FORWARD, output_slope
from .recurrent import at_once, walk_back, walk_forward

__all__ = ["rnn_sequence_bwd", "rnn_sequence_fwd"]


def _fwd_at_once(x: Tensor, h0: Tensor, *rest: Any) -> bool:
    mask, zoneout, heads, *_ = rest[7:]
    return at_once("tanh", False, x, h0.shape[1], heads, mask, zoneout)


def _bwd_at_once(grad_y: Tensor, grad_h_n: Tensor, *rest: Any) -> bool:
    mask, zoneout, heads, *_ = rest[4:]
    return at_once("tanh", True, grad_y, grad_y.shape[2], heads, mask, zoneout)


@each_direction(FORWARD, _fwd_at_once)
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
    """See `seqops.ops.rnn`. One GEMM for the inputs of all steps, then the walk."""
    gx = F.linear(x, w_ih, sum_of_biases(b_ih, b_hh))
    fresh = None if reset_state is None else (reset_state,)
    keep = training and zoneout is not None
    y, (h_n,), out = walk_forward(
        "relu" if relu else "tanh", gx, (h0,), w_hh, None, lengths, reset, fresh, recurrent_mask, zoneout, None, heads,
        reverse, keep,
    )  # fmt: skip
    return y, h_n, out if keep else x.new_empty(0)


@each_direction(BACKWARD, _bwd_at_once)
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
    """See `seqops.ops.rnn`. The slope follows from the output, then the walk."""
    dg = output_slope(out, relu)
    if zoneout is not None:
        dg.mul_(1 - zoneout)
    mask_ended(lengths, dg)
    (dh0,), (by_reset,) = walk_back(
        "tanh", dg, None, grad_y, None, (grad_h_n,), w_hh, lengths, reset, recurrent_mask, zoneout, None, heads,
        need_reset_state, reverse,
    )  # fmt: skip
    return dg, dh0, by_reset
