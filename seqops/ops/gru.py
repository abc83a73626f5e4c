"""GRU: the public functions, the autograd Function and the registration of the sequence ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cpu._recurrent import HiddenWeights
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
    rows_of,
    without_padding,
)
from ._register import register, takes_torch_path, torch_has_its_own

__all__ = ["gru", "gru_cell"]


def gru_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    reset_after: bool = True,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
) -> Tensor:
    """One step of a gated recurrent unit.

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n  = tanh(W_in x + b_in + r * (W_hn h + b_hn)), or with reset_after=False
    n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)
    h' = (1 - z) * n + z * h

    Args:
        x: [B, I], fp16, bf16, fp32 or fp64, as all others.
        h: [B, H].
        w_ih, w_hh: [3H, I] and [3H, H / heads], the gates in the order r, z, n.
        b_ih, b_hh: [3H] or None.
        reset_after: the reset gate acts after the product with W_hn, as in torch, or before it, as in Cho et al.
        heads: W_hh is block-diagonal: unit i of a head meets only the H / heads units of that head.
        recurrent_mask: [B, H] or None; multiplies h where it meets W_hh: variational dropout, Gal and Ghahramani 2016,
            arXiv:1512.05287, with the same mask at all steps. It has no gradient.
        zoneout: [B, H], what share of h is kept beside the new state, a bool too, or a number: Krueger et al. 2017,
            arXiv:1606.01305. It has no gradient.

    Returns:
        h' [B, H].

    Raises:
        ValueError: a shape or a device does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative, but where torch's own cell is called: on the CPU.

    Source: torch.nn.GRUCell; Cho et al. 2014, arXiv:1406.1078, whose z is 1 - z here.
    """
    plain = reset_after and heads == 1 and recurrent_mask is None and zoneout is None
    if plain and fits_torch(3, x, h, None, w_ih, w_hh, b_ih, b_hh):
        return torch.gru_cell(x, h, w_ih, w_hh, b_ih, b_hh)
    check_shape("gru_cell", "x", x, ("B", "I"))
    rest = (reset_after, heads, recurrent_mask, zoneout, None, None, None, False)
    y, _ = _gru("gru_cell", x[None], h, w_ih, w_hh, b_ih, b_hh, *rest)
    return y[0]


def gru(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    reset_after: bool = True,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """A gated recurrent unit over a sequence: `gru_cell` at t = 0..T-1, or at T-1..0 with `reverse`.

    Args:
        x: [T, B, I], fp16, bf16, fp32 or fp64, as all other floating arguments.
        h0: [B, H], the state before the first step.
        w_ih, w_hh, b_ih, b_hh, reset_after, heads, recurrent_mask: as in `gru_cell`.
        zoneout: as in `gru_cell`, but [T, B, H] or a number.
        lengths: int [B] or a list, in 0..T: item b has the steps t < lengths[b]; at the others its state is passed on
            and y is 0, whatever x holds there. None: all have T. Values on a GPU are clamped to 0..T, not checked.
        reset: bool [T, B]: where True the state is replaced before step t, and what it was, NaN too, has no effect
            from there on. Ignored beyond an item's length.
        reset_state: [B, H], what takes its place; None: zero.
        reverse: walk from each item's last step to its first; what is before a step is so in the walk's order.

    Returns:
        y [T, B, H], the state after each step, and h_n [B, H], the state after the last.

    Raises:
        ValueError: a shape, a device or a length does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative.

    Source: torch.nn.GRU; Cho et al. 2014, arXiv:1406.1078.
    """
    rest = (reset_after, heads, recurrent_mask, zoneout, lengths, reset, reset_state, reverse)
    return _gru("gru", x, h0, w_ih, w_hh, b_ih, b_hh, *rest)


def _gru(
    op: str,
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    reset_after: bool,
    heads: int,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | float | None,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    reverse: int,
) -> tuple[Tensor, Tensor]:
    state = "h" if op == "gru_cell" else "h0"
    given = {"x": x, state: h0, "w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "reset_state": reset_state}
    x, h0, w_ih, w_hh, b_ih, b_hh, reset_state = autocast(op, **given)  # type: ignore[assignment]
    check_dtypes(op, **dict(zip(given, (x, h0, w_ih, w_hh, b_ih, b_hh, reset_state), strict=True)))
    check_shape(op, "x", x, ("T", "B", "I"))
    check_shape(op, state, h0, (x.shape[1], "H"))
    H = h0.shape[1]
    check_weights(op, 3, H, x.shape[2], check_heads(op, heads, H), w_ih, w_hh, b_ih, b_hh)
    recurrent_mask, kept = as_mask(op, recurrent_mask, x, H), as_zoneout(op, zoneout, x, H)
    if reset_state is not None:
        check_shape(op, "reset_state", reset_state, h0.shape)
    lengths, reset = check_sequence(op, x, lengths, reset, reset_state is not None, reverse)
    plain = recurrent_mask is None and kept is None and heads == 1
    if op == "gru_cell" and plain and reset_after and torch_has_its_own(x):
        h = torch.gru_cell(x[0], h0, w_ih, w_hh, b_ih, b_hh)
        return h[None], h
    y, h_n, _ = torch.ops.seqops.gru_sequence_fwd(
        x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reset, reset_state, recurrent_mask, kept, heads, reverse, reset_after,
        False,
    )  # fmt: skip
    return y, h_n


class GRUSequence(torch.autograd.Function):
    """Saves its inputs, y and, on the torch path, the gates; the kernels' backward rebuilds them."""

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
        reset_after: bool,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, h_n, gates = torch.ops.seqops.gru_sequence_fwd(
            x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reset, reset_state, recurrent_mask, zoneout, heads, reverse,
            reset_after, True,
        )  # fmt: skip
        ctx.save_for_backward(
            x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reset, reset_state, recurrent_mask, zoneout, y, gates
        )
        ctx.heads, ctx.reverse, ctx.reset_after = heads, reverse, reset_after
        ctx.mark_non_differentiable(gates)
        ctx.set_materialize_grads(False)
        return y, h_n, gates

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, saved: Sequence[Tensor], grad_y: Tensor | None, grad_h_n: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reset, reset_state, recurrent_mask, zoneout, y, gates = saved
        need_x, need_h0, need_w_ih, need_w_hh, need_b_ih, need_b_hh, _, _, need_reset_state, *_ = ctx.needs_input_grad
        grad_y = torch.zeros_like(y) if grad_y is None else grad_y
        grad_h_n = torch.zeros_like(h0) if grad_h_n is None else grad_h_n
        grad_y, x = without_padding(lengths, grad_y, x)
        h_prev = before(y, h0, lengths, reset, reset_state, ctx.reverse)
        dgx, dgh, dh0, by_reset, rh = torch.ops.seqops.gru_sequence_bwd(
            grad_y, grad_h_n, x, w_ih, w_hh, b_ih, b_hh, lengths, reset, recurrent_mask, zoneout, ctx.heads,
            ctx.reverse, ctx.reset_after, h_prev, gates, need_reset_state,
        )  # fmt: skip
        needs = (need_x, need_w_ih, need_w_hh, need_b_ih, need_b_hh)
        if recurrent_mask is not None:
            h_prev = h_prev * recurrent_mask
        if not ctx.reset_after:
            dgh = dgx
        dx, dw_ih, dw_hh, db_ih, db_hh = input_gradients(needs, dgx, dgh, x, h_prev, w_ih, w_hh, ctx.heads)
        if dw_hh is not None and not ctx.reset_after:
            # n's weights met r * h in the place of h.
            own = slice(2 * h0.shape[1], None)
            dw_hh[own] = HiddenWeights(w_hh[own], ctx.heads).gradient(rows_of(dgx[..., own]), rows_of(rh))
        dh0, by_reset = dh0 if need_h0 else None, by_reset if need_reset_state else None
        return dx, dh0, dw_ih, dw_hh, db_ih, db_hh, None, None, by_reset, *[None] * 6


def _fwd_fake(
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
    reset_after: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    (T, B, _), H = x.shape, h0.shape[1]
    kernel_takes = _kernel_takes(x, *[None] * 8, recurrent_mask, zoneout, heads, reverse, reset_after)
    kept = training and takes_torch_path(x, kernel_takes)
    gates = x.new_empty((T, B, (4 if reset_after else 3) * H) if kept else 0)
    return x.new_empty(T, B, H), h0.new_empty(h0.shape), gates


def _bwd_fake(
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
    reverse: int,
    reset_after: bool,
    h_prev: Tensor,
    gates: Tensor,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, B, H = h_prev.shape
    return (
        x.new_empty(T, B, 3 * H),
        x.new_empty((T, B, 3 * H) if reset_after else 0),
        x.new_empty(B, H),
        x.new_empty((B, H) if need_reset_state else 0),
        x.new_empty(0 if reset_after else (T, B, H)),
    )


def _kernel_takes(first: Tensor, *rest: Any) -> bool:
    recurrent_mask, zoneout, heads, _, reset_after, *_ = rest[8:]
    plain = recurrent_mask is None and zoneout is None and heads == 1
    return first.dtype != torch.float64 and (plain or reset_after)


# reset is bool [T,B], False beyond an item's length. The third result, empty unless training on the torch path, is for
# gru_sequence_bwd.
register(
    "gru_sequence_fwd(Tensor x, Tensor h0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? lengths, "
    "Tensor? reset, Tensor? reset_state, Tensor? recurrent_mask, Tensor? zoneout, int heads, int reverse, "
    "bool reset_after, bool training) -> (Tensor, Tensor, Tensor)",
    "gru",
    _fwd_fake,
    _kernel_takes,
    GRUSequence,
)
# The inputs as in gru_sequence_fwd; x and grad_y are 0 beyond an item's length, h_prev [T,B,H] is the state before each
# step. Gives the gradients of the input's and the hidden state's part of the pre-activations [T,B,3H] (without
# reset_after they are one, and the second is empty), of h0, of reset_state (empty unless needed), and r * h_prev (empty
# with reset_after).
register(
    "gru_sequence_bwd(Tensor grad_y, Tensor grad_h_n, Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? lengths, Tensor? reset, Tensor? recurrent_mask, Tensor? zoneout, int heads, int reverse, "
    "bool reset_after, Tensor h_prev, Tensor gates, "
    "bool need_reset_state) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "gru",
    _bwd_fake,
    _kernel_takes,
)
