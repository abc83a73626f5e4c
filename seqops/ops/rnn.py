"""The Elman RNN: the public functions, the autograd Function and the registration of the sequence ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._autograd import once_differentiable
from ._checks import autocast, check_dtypes, check_shape
from ._recurrent import before, check_sequence, check_weights, input_gradients, without_padding
from ._register import register, torch_has_its_own

__all__ = ["rnn", "rnn_cell"]


def rnn_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
) -> Tensor:
    """One step of an Elman recurrent network.

    h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu in its place

    Args:
        x: [B, I], fp16, bf16, fp32 or fp64, as all others.
        h: [B, H].
        w_ih, w_hh: [H, I] and [H, H].
        b_ih, b_hh: [H] or None.
        nonlinearity: "tanh" or "relu".

    Returns:
        h' [B, H].

    Raises:
        ValueError: a shape, a device or the nonlinearity does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative, but where torch's own cell is called: on the CPU.

    Source: torch.nn.RNNCell; Elman 1990.
    """
    check_shape("rnn_cell", "x", x, ("B", "I"))
    y, _ = _rnn("rnn_cell", x[None], h, w_ih, w_hh, b_ih, b_hh, nonlinearity, None, None, None, False)
    return y[0]


def rnn(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """An Elman recurrent network over a sequence: `rnn_cell` at t = 0..T-1, or at T-1..0 with `reverse`.

    Args:
        x: [T, B, I], fp16, bf16, fp32 or fp64, as all other floating arguments.
        h0: [B, H], the state before the first step.
        w_ih, w_hh, b_ih, b_hh, nonlinearity: as in `rnn_cell`.
        lengths: int [B] or a list, in 0..T: item b has the steps t < lengths[b]; at the others its state is passed on
            and y is 0, whatever x holds there. None: all have T. Values on a GPU are clamped to 0..T, not checked.
        reset: bool [T, B]: where True the state is replaced before step t, and what it was, NaN too, has no effect
            from there on. Ignored beyond an item's length.
        reset_state: [B, H], what takes its place; None: zero.
        reverse: walk from each item's last step to its first; what is before a step is so in the walk's order.

    Returns:
        y [T, B, H], the state after each step, and h_n [B, H], the state after the last.

    Raises:
        ValueError: a shape, a device, a length or the nonlinearity does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative.

    Source: torch.nn.RNN; Elman 1990.
    """
    return _rnn("rnn", x, h0, w_ih, w_hh, b_ih, b_hh, nonlinearity, lengths, reset, reset_state, reverse)


def _rnn(
    op: str,
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    nonlinearity: str,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    state = "h" if op == "rnn_cell" else "h0"
    given = {"x": x, state: h0, "w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "reset_state": reset_state}
    x, h0, w_ih, w_hh, b_ih, b_hh, reset_state = autocast(op, **given)  # type: ignore[assignment]
    check_dtypes(op, **dict(zip(given, (x, h0, w_ih, w_hh, b_ih, b_hh, reset_state), strict=True)))
    check_shape(op, "x", x, ("T", "B", "I"))
    check_shape(op, state, h0, (x.shape[1], "H"))
    check_weights(op, 1, h0.shape[1], x.shape[2], h0.shape[1], w_ih, w_hh, b_ih, b_hh)
    if reset_state is not None:
        check_shape(op, "reset_state", reset_state, h0.shape)
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{op}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    lengths, reset = check_sequence(op, x, lengths, reset, reset_state is not None)
    relu = nonlinearity == "relu"
    if op == "rnn_cell" and torch_has_its_own(x):
        h = (torch.rnn_relu_cell if relu else torch.rnn_tanh_cell)(x[0], h0, w_ih, w_hh, b_ih, b_hh)
        return h[None], h
    y, h_n = torch.ops.seqops.rnn_sequence_fwd(
        x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reset, reset_state, reverse, relu
    )
    return y, h_n


class RNNSequence(torch.autograd.Function):
    """Saves its inputs and y, from which the slope follows."""

    @staticmethod
    def forward(
        ctx: Any,
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
        y, h_n = torch.ops.seqops.rnn_sequence_fwd(
            x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reset, reset_state, reverse, relu
        )
        ctx.save_for_backward(x, h0, w_ih, w_hh, lengths, reset, reset_state, y)
        ctx.reverse, ctx.relu = reverse, relu
        return y, h_n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, saved: Sequence[Tensor], grad_y: Tensor, grad_h_n: Tensor) -> tuple[Tensor | None, ...]:
        x, h0, w_ih, w_hh, lengths, reset, reset_state, y = saved
        need_x, need_h0, need_w_ih, need_w_hh, need_b_ih, need_b_hh, _, _, need_reset_state, *_ = ctx.needs_input_grad
        grad_y, x = without_padding(lengths, grad_y, x)
        dg, dh0, by_reset = torch.ops.seqops.rnn_sequence_bwd(
            grad_y, grad_h_n, w_hh, y, lengths, reset, ctx.reverse, ctx.relu, need_reset_state
        )
        h_prev = before(y, h0, lengths, reset, reset_state, ctx.reverse) if need_w_hh else y
        needs = (need_x, need_w_ih, need_w_hh, need_b_ih, need_b_hh)
        dx, dw_ih, dw_hh, db_ih, db_hh = input_gradients(needs, dg, dg, x, h_prev, w_ih)
        dh0, by_reset = dh0 if need_h0 else None, by_reset if need_reset_state else None
        return dx, dh0, dw_ih, dw_hh, db_ih, db_hh, None, None, by_reset, None, None


def _fwd_fake(x: Tensor, h0: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], *h0.shape), h0.new_empty(h0.shape)


def _bwd_fake(
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
    state = y.shape[1:]
    return y.new_empty(y.shape), y.new_empty(state), y.new_empty(state if need_reset_state else 0)


def _kernel_takes(first: Tensor, *_: Any) -> bool:
    return first.dtype != torch.float64


# reset is bool [T,B], False beyond an item's length.
register(
    "rnn_sequence_fwd(Tensor x, Tensor h0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? lengths, "
    "Tensor? reset, Tensor? reset_state, bool reverse, bool relu) -> (Tensor, Tensor)",
    "rnn",
    _fwd_fake,
    _kernel_takes,
    RNNSequence,
)
# grad_y is 0 beyond an item's length, y as rnn_sequence_fwd gave it. Gives the gradients of the pre-activations
# [T,B,H], of h0, and of reset_state (empty unless needed).
register(
    "rnn_sequence_bwd(Tensor grad_y, Tensor grad_h_n, Tensor w_hh, Tensor y, Tensor? lengths, Tensor? reset, "
    "bool reverse, bool relu, bool need_reset_state) -> (Tensor, Tensor, Tensor)",
    "rnn",
    _bwd_fake,
    _kernel_takes,
)
