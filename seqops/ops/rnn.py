"""The Elman RNN: the public functions, the autograd Function and the registration of the sequence ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._autograd import once_differentiable
from ._checks import autocast, check_dtypes, check_shape
from ._recurrent import (
    as_mask,
    as_zoneout,
    before,
    check_heads,
    check_sequence,
    check_weights,
    fits_torch,
    input_gradients,
    without_padding,
)
from ._register import register, torch_has_its_own

__all__ = ["rnn", "rnn_cell"]

TORCH_CELLS = {"tanh": torch.rnn_tanh_cell, "relu": torch.rnn_relu_cell}


def rnn_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
) -> Tensor:
    """One step of an Elman recurrent network.

    h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu in its place

    Args:
        x: [B, I], fp16, bf16, fp32 or fp64, as all others.
        h: [B, H].
        w_ih, w_hh: [H, I] and [H, H / heads].
        b_ih, b_hh: [H] or None.
        nonlinearity: "tanh" or "relu".
        heads: W_hh is block-diagonal: unit i of a head meets only the H / heads units of that head.
        recurrent_mask: [B, H] or None; multiplies h where it meets W_hh: variational dropout, Gal and Ghahramani 2016,
            arXiv:1512.05287, with the same mask at all steps. It has no gradient.
        zoneout: [B, H], what share of h is kept beside the new state, a bool too, or a number: Krueger et al. 2017,
            arXiv:1606.01305. It has no gradient.

    Returns:
        h' [B, H].

    Raises:
        ValueError: a shape, a device or the nonlinearity does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative, but where torch's own cell is called: on the CPU.

    Source: torch.nn.RNNCell; Elman 1990.
    """
    plain = heads == 1 and recurrent_mask is None and zoneout is None and nonlinearity in TORCH_CELLS
    if plain and fits_torch(1, x, h, None, w_ih, w_hh, b_ih, b_hh):
        return TORCH_CELLS[nonlinearity](x, h, w_ih, w_hh, b_ih, b_hh)
    check_shape("rnn_cell", "x", x, ("B", "I"))
    rest = (nonlinearity, heads, recurrent_mask, zoneout, None, None, None, False)
    y, _ = _rnn("rnn_cell", x[None], h, w_ih, w_hh, b_ih, b_hh, *rest)
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
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """An Elman recurrent network over a sequence: `rnn_cell` at t = 0..T-1, or at T-1..0 with `reverse`.

    Args:
        x: [T, B, I], fp16, bf16, fp32 or fp64, as all other floating arguments.
        h0: [B, H], the state before the first step.
        w_ih, w_hh, b_ih, b_hh, nonlinearity, heads, recurrent_mask: as in `rnn_cell`.
        zoneout: as in `rnn_cell`, but [T, B, H] or a number.
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
    rest = (nonlinearity, heads, recurrent_mask, zoneout, lengths, reset, reset_state, reverse)
    return _rnn("rnn", x, h0, w_ih, w_hh, b_ih, b_hh, *rest)


def _rnn(
    op: str,
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    nonlinearity: str,
    heads: int,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | float | None,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    reverse: int,
) -> tuple[Tensor, Tensor]:
    state = "h" if op == "rnn_cell" else "h0"
    given = {"x": x, state: h0, "w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "reset_state": reset_state}
    x, h0, w_ih, w_hh, b_ih, b_hh, reset_state = autocast(op, **given)  # type: ignore[assignment]
    check_dtypes(op, **dict(zip(given, (x, h0, w_ih, w_hh, b_ih, b_hh, reset_state), strict=True)))
    check_shape(op, "x", x, ("T", "B", "I"))
    check_shape(op, state, h0, (x.shape[1], "H"))
    H = h0.shape[1]
    check_weights(op, 1, H, x.shape[2], check_heads(op, heads, H), w_ih, w_hh, b_ih, b_hh)
    recurrent_mask, kept = as_mask(op, recurrent_mask, x, H), as_zoneout(op, zoneout, x, H)
    if reset_state is not None:
        check_shape(op, "reset_state", reset_state, h0.shape)
    if nonlinearity not in TORCH_CELLS:
        raise ValueError(f"{op}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    lengths, reset = check_sequence(op, x, lengths, reset, reset_state is not None, reverse)
    relu = nonlinearity == "relu"
    plain = recurrent_mask is None and kept is None and heads == 1
    if op == "rnn_cell" and plain and torch_has_its_own(x):
        h = TORCH_CELLS[nonlinearity](x[0], h0, w_ih, w_hh, b_ih, b_hh)
        return h[None], h
    y, h_n, _ = torch.ops.seqops.rnn_sequence_fwd(
        x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reset, reset_state, recurrent_mask, kept, heads, reverse, relu, False
    )
    return y, h_n


class RNNSequence(torch.autograd.Function):
    """Saves its inputs, y and, with zoneout, the nonlinearity's output, else y: from it the slope follows."""

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
        recurrent_mask: Tensor | None,
        zoneout: Tensor | None,
        heads: int,
        reverse: int,
        relu: bool,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, h_n, out = torch.ops.seqops.rnn_sequence_fwd(
            x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reset, reset_state, recurrent_mask, zoneout, heads, reverse, relu,
            True,
        )  # fmt: skip
        ctx.save_for_backward(x, h0, w_ih, w_hh, lengths, reset, reset_state, recurrent_mask, zoneout, y, out)
        ctx.heads, ctx.reverse, ctx.relu = heads, reverse, relu
        ctx.mark_non_differentiable(out)
        ctx.set_materialize_grads(False)
        return y, h_n, out

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, saved: Sequence[Tensor], grad_y: Tensor | None, grad_h_n: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, h0, w_ih, w_hh, lengths, reset, reset_state, recurrent_mask, zoneout, y, out = saved
        need_x, need_h0, need_w_ih, need_w_hh, need_b_ih, need_b_hh, _, _, need_reset_state, *_ = ctx.needs_input_grad
        grad_y = torch.zeros_like(y) if grad_y is None else grad_y
        grad_h_n = torch.zeros_like(h0) if grad_h_n is None else grad_h_n
        grad_y, x = without_padding(lengths, grad_y, x)
        dg, dh0, by_reset = torch.ops.seqops.rnn_sequence_bwd(
            grad_y, grad_h_n, w_hh, y if zoneout is None else out, lengths, reset, recurrent_mask, zoneout, ctx.heads,
            ctx.reverse, ctx.relu, need_reset_state,
        )  # fmt: skip
        h_prev = before(y, h0, lengths, reset, reset_state, ctx.reverse) if need_w_hh else y
        if recurrent_mask is not None:
            h_prev = h_prev * recurrent_mask
        needs = (need_x, need_w_ih, need_w_hh, need_b_ih, need_b_hh)
        dx, dw_ih, dw_hh, db_ih, db_hh = input_gradients(needs, dg, dg, x, h_prev, w_ih, w_hh, ctx.heads)
        dh0, by_reset = dh0 if need_h0 else None, by_reset if need_reset_state else None
        return dx, dh0, dw_ih, dw_hh, db_ih, db_hh, None, None, by_reset, *[None] * 6


def _fwd_fake(x: Tensor, h0: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    zoneout, training = rest[8], rest[-1]
    y = x.new_empty(x.shape[0], *h0.shape)
    return y, h0.new_empty(h0.shape), x.new_empty(y.shape if training and zoneout is not None else 0)


def _bwd_fake(
    grad_y: Tensor,
    grad_h_n: Tensor,
    w_hh: Tensor,
    out: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | None,
    heads: int,
    reverse: int,
    relu: bool,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    state = out.shape[1:]
    return out.new_empty(out.shape), out.new_empty(state), out.new_empty(state if need_reset_state else 0)


def _kernel_takes(first: Tensor, *_: Any) -> bool:
    return first.dtype != torch.float64


# reset is bool [T,B], False beyond an item's length; zoneout is [T,B,H]. The third result, empty unless training with
# zoneout, is the nonlinearity's output.
register(
    "rnn_sequence_fwd(Tensor x, Tensor h0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? lengths, "
    "Tensor? reset, Tensor? reset_state, Tensor? recurrent_mask, Tensor? zoneout, int heads, int reverse, bool relu, "
    "bool training) -> (Tensor, Tensor, Tensor)",
    "rnn",
    _fwd_fake,
    _kernel_takes,
    RNNSequence,
)
# grad_y is 0 beyond an item's length; out is the nonlinearity's output, which without zoneout is y. Gives the gradients
# of the pre-activations [T,B,H], of h0, and of reset_state (empty unless needed).
register(
    "rnn_sequence_bwd(Tensor grad_y, Tensor grad_h_n, Tensor w_hh, Tensor out, Tensor? lengths, Tensor? reset, "
    "Tensor? recurrent_mask, Tensor? zoneout, int heads, int reverse, bool relu, "
    "bool need_reset_state) -> (Tensor, Tensor, Tensor)",
    "rnn",
    _bwd_fake,
    _kernel_takes,
)
