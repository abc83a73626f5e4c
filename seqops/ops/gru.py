"""GRU: the public functions, the autograd Function and the registration of the sequence ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._autograd import once_differentiable
from ._checks import autocast, check_dtypes, check_lengths, check_shape
from ._register import register

__all__ = ["gru", "gru_cell"]


def gru_cell(
    x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """One step of a gated recurrent unit.

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    h' = (1 - z) * n + z * h

    Args:
        x: [B, I], fp16, bf16, fp32 or fp64, as all others.
        h: [B, H].
        w_ih, w_hh: [3H, I] and [3H, H], the gates in the order r, z, n.
        b_ih, b_hh: [3H] or None.

    Returns:
        h' [B, H].

    Raises:
        ValueError: a shape or a device does not fit. TypeError: a dtype does not fit.

    Source: torch.nn.GRUCell.
    """
    check_shape("gru_cell", "x", x, ("B", "I"))
    y, _ = _gru("gru_cell", x[None], h, w_ih, w_hh, b_ih, b_hh, None, False)
    return y[0]


def gru(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """A gated recurrent unit over a sequence: `gru_cell` at t = 0..T-1, or at T-1..0 with `reverse`.

    Args:
        x: [T, B, I], fp16, bf16, fp32 or fp64, as all other floating arguments.
        h0: [B, H], the state before the first step.
        w_ih, w_hh, b_ih, b_hh: as in `gru_cell`.
        lengths: int [B] or a list, in 0..T: item b has the steps t < lengths[b]; at the others its state is passed on
            and y is 0, whatever x holds there. None: all have T. Values on a GPU are clamped to 0..T, not checked.
        reverse: walk from each item's last step to its first.

    Returns:
        y [T, B, H], the state after each step, and h_n [B, H], the state after the last.

    Raises:
        ValueError: a shape, a device or a length does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative.

    Source: torch.nn.GRU; Cho et al. 2014, arXiv:1406.1078, with the reset gate after the product as cuDNN has it.
    """
    return _gru("gru", x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reverse)


def _gru(
    op: str,
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    lengths: Tensor | Sequence[int] | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    state = "h" if op == "gru_cell" else "h0"
    x, h0, w_ih, w_hh, b_ih, b_hh = autocast(  # type: ignore[assignment]
        op, x=x, **{state: h0}, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh
    )
    check_dtypes(op, x=x, **{state: h0}, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    check_shape(op, "x", x, ("T", "B", "I"))
    check_shape(op, state, h0, (x.shape[1], "H"))
    (T, B, I), H = x.shape, h0.shape[1]
    check_shape(op, "w_ih", w_ih, (3 * H, I))
    check_shape(op, "w_hh", w_hh, (3 * H, H))
    for name, bias in (("b_ih", b_ih), ("b_hh", b_hh)):
        if bias is not None:
            check_shape(op, name, bias, (3 * H,))
    lengths = check_lengths(op, lengths, B, T, x.device)
    y, h_n = torch.ops.seqops.gru_sequence_fwd(x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reverse)
    return y, h_n


class GRUSequence(torch.autograd.Function):
    """Saves its inputs and y: backward rebuilds the gates from them."""

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
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        y, h_n = torch.ops.seqops.gru_sequence_fwd(x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reverse)
        ctx.save_for_backward(x, h0, w_ih, w_hh, b_ih, b_hh, lengths, y)
        ctx.reverse = reverse
        return y, h_n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_h_n: Tensor) -> tuple[Tensor | None, ...]:
        x, h0, w_ih, w_hh, b_ih, b_hh, lengths, y = ctx.saved_tensors
        reverse = ctx.reverse
        T = x.shape[0]
        # The state before each step.
        h_prev = torch.cat((y[1:], h0[None]) if reverse else (h0[None], y[:-1]))[:T]
        if lengths is not None:
            t = torch.arange(T, device=x.device)[:, None]
            if reverse:
                h_prev = torch.where((t == lengths - 1)[:, :, None], h0, h_prev)
            # Padding may hold anything, NaN too: a product with a zero gradient would not remove it.
            ended = (t >= lengths)[:, :, None]
            x = x.masked_fill(ended, 0)
            grad_y = grad_y.masked_fill(ended, 0)
        dgx, dgh, dh0 = torch.ops.seqops.gru_sequence_bwd(
            grad_y, grad_h_n, x, w_ih, w_hh, b_ih, b_hh, lengths, reverse, h_prev
        )
        need_x, need_h0, need_w_ih, need_w_hh, need_b_ih, need_b_hh, *_ = ctx.needs_input_grad
        dx = dgx @ w_ih if need_x else None
        dw_ih = dgx.flatten(0, 1).t() @ x.flatten(0, 1) if need_w_ih else None
        dw_hh = dgh.flatten(0, 1).t() @ h_prev.flatten(0, 1) if need_w_hh else None
        db_ih = dgx.sum((0, 1)) if need_b_ih else None
        db_hh = dgh.sum((0, 1)) if need_b_hh else None
        return dx, dh0 if need_h0 else None, dw_ih, dw_hh, db_ih, db_hh, None, None


def _fwd_fake(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], *h0.shape), h0.new_empty(h0.shape)


def _bwd_fake(
    grad_y: Tensor,
    grad_h_n: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    h_prev: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    T, B, H = h_prev.shape
    return x.new_empty(T, B, 3 * H), x.new_empty(T, B, 3 * H), x.new_empty(B, H)


def _kernel_takes(first: Tensor, *_: Any) -> bool:
    return first.dtype != torch.float64


register(
    "gru_sequence_fwd(Tensor x, Tensor h0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? lengths, "
    "bool reverse) -> (Tensor, Tensor)",
    "gru",
    _fwd_fake,
    _kernel_takes,
    GRUSequence,
)
# The inputs as in gru_sequence_fwd; x and grad_y are 0 beyond an item's length, h_prev [T,B,H] is the state before each
# step. Gives the gradients of the input's and the hidden state's pre-activations, [T,B,3H] each, and of h0.
register(
    "gru_sequence_bwd(Tensor grad_y, Tensor grad_h_n, Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? lengths, bool reverse, Tensor h_prev) -> (Tensor, Tensor, Tensor)",
    "gru",
    _bwd_fake,
    _kernel_takes,
)
