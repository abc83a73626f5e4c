"""LSTM: the public functions, the autograd Function and the registration of the sequence ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._autograd import once_differentiable
from ._checks import autocast, check_dtypes, check_shape
from ._recurrent import (
    Zoneout,
    as_mask,
    as_pair,
    as_zoneout,
    before,
    check_heads,
    check_sequence,
    check_weights,
    fits_torch,
    input_gradients,
    without_padding,
)
from ._register import register, takes_torch_path, torch_has_its_own

__all__ = ["lstm", "lstm_cell"]


def lstm_cell(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    w_hr: Tensor | None = None,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Zoneout = None,
) -> tuple[Tensor, Tensor]:
    """One step of a long short-term memory.

    i  = sigmoid(W_ii x + b_ii + W_hi h + b_hi)
    f  = sigmoid(W_if x + b_if + W_hf h + b_hf)
    g  = tanh(W_ig x + b_ig + W_hg h + b_hg)
    o  = sigmoid(W_io x + b_io + W_ho h + b_ho)
    c' = f * c + i * g
    h' = o * tanh(c'), or with a projection W_hr (o * tanh(c'))

    Args:
        x: [B, I], fp16, bf16, fp32 or fp64, as all others.
        state: (h, c), [B, P] and [B, H]; P is H without a projection.
        w_ih, w_hh: [4H, I] and [4H, P / heads], the gates in the order i, f, g, o.
        b_ih, b_hh: [4H] or None.
        w_hr: [P, H] or None.
        heads: W_hh is block-diagonal: unit i of a head meets only the H / heads units of that head.
            1 with a projection.
        recurrent_mask: [B, P] or None; multiplies h where it meets W_hh: variational dropout, Gal and Ghahramani 2016,
            arXiv:1512.05287, with the same mask at all steps. It has no gradient.
        zoneout: [B, P], what share of h is kept beside the new state, a bool too, or a number: Krueger et al. 2017,
            arXiv:1606.01305; or a pair of such, for h and for c [B, H]. o * tanh(c') has the new c'. No gradient.

    Returns:
        (h', c'), as state.

    Raises:
        ValueError: a shape or a device does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative, but where torch's own op is called, as it may be on the CPU.

    Source: torch.nn.LSTMCell; Hochreiter and Schmidhuber 1997; the projection: Sak et al. 2014, arXiv:1402.1128.
    """
    h, c = as_pair("lstm_cell", "state", state)
    plain = w_hr is None and heads == 1 and recurrent_mask is None and zoneout is None and c is not None
    if plain and fits_torch(4, x, h, c, w_ih, w_hh, b_ih, b_hh):
        return torch.lstm_cell(x, (h, c), w_ih, w_hh, b_ih, b_hh)
    check_shape("lstm_cell", "x", x, ("B", "I"))
    names = ("x", "h", "c", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr")
    rest = (w_hr, heads, recurrent_mask, zoneout, None, None, None, False, False)
    _, h, c, _ = _lstm("lstm_cell", names, x[None], state, w_ih, w_hh, b_ih, b_hh, *rest)
    return h, c


def lstm(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    w_hr: Tensor | None = None,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Zoneout = None,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: tuple[Tensor, Tensor] | None = None,
    reverse: bool = False,
    return_cells: bool = False,
) -> tuple[Any, ...]:
    """A long short-term memory over a sequence: `lstm_cell` at t = 0..T-1, or at T-1..0 with `reverse`.

    Args:
        x: [T, B, I], fp16, bf16, fp32 or fp64, as all other floating arguments.
        state: (h0, c0), [B, P] and [B, H], the state before the first step; P is H without a projection.
        w_ih, w_hh, b_ih, b_hh, w_hr, heads, recurrent_mask: as in `lstm_cell`.
        zoneout: as in `lstm_cell`, but [T, B, P] and [T, B, H], or numbers.
        lengths: int [B] or a list, in 0..T: item b has the steps t < lengths[b]; at the others its state is passed on
            and y is 0, whatever x holds there. None: all have T. Values on a GPU are clamped to 0..T, not checked.
        reset: bool [T, B]: where True the state is replaced before step t, and what it was, NaN too, has no effect
            from there on. Ignored beyond an item's length.
        reset_state: (h, c) as state, what takes its place; None: zero.
        reverse: walk from each item's last step to its first; what is before a step is so in the walk's order.
        return_cells: also give the cell after each step.

    Returns:
        y [T, B, P], the hidden state after each step, and (h_n, c_n), the state after the last; with `return_cells`
        also cells [T, B, H], 0 beyond an item's length.

    Raises:
        ValueError: a shape, a device or a length does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative, but where torch's own op is called, as it may be on the CPU.

    Source: torch.nn.LSTM; Hochreiter and Schmidhuber 1997; the projection: Sak et al. 2014, arXiv:1402.1128.
    """
    names = ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr", "reset_h", "reset_c")
    rest = (w_hr, heads, recurrent_mask, zoneout, lengths, reset, reset_state, reverse, return_cells)
    y, h_n, c_n, cells = _lstm("lstm", names, x, state, w_ih, w_hh, b_ih, b_hh, *rest)
    return (y, (h_n, c_n), cells) if return_cells else (y, (h_n, c_n))


def _lstm(
    op: str,
    names: Sequence[str],
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    heads: int,
    recurrent_mask: Tensor | None,
    zoneout: Zoneout,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
    reset_state: tuple[Tensor, Tensor] | None,
    reverse: int,
    return_cells: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h0, c0 = as_pair(op, "state", state)
    resets = () if reset_state is None else as_pair(op, "reset_state", reset_state)
    given = dict(zip(names, (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, *resets), strict=False))
    cast = dict(zip(given, autocast(op, **given), strict=True))
    check_dtypes(op, **cast)
    x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, *fresh = cast.values()  # type: ignore[assignment]
    reset_h, reset_c = fresh if fresh else (None, None)
    check_shape(op, "x", x, ("T", "B", "I"))
    check_shape(op, names[2], c0, (x.shape[1], "H"))
    H = c0.shape[1]
    check_shape(op, names[1], h0, (x.shape[1], H if w_hr is None else "P"))
    P = h0.shape[1]
    if w_hr is not None:
        check_shape(op, "w_hr", w_hr, (P, H))
    if w_hr is not None and heads != 1:
        raise ValueError(f"{op}: heads must be 1 with w_hr, got {heads}")
    check_weights(op, 4, H, x.shape[2], check_heads(op, heads, P), w_ih, w_hh, b_ih, b_hh)
    recurrent_mask = as_mask(op, recurrent_mask, x, P)
    of_h, of_c = zoneout if isinstance(zoneout, (tuple, list)) else (zoneout, None)
    kept_h, kept_c = as_zoneout(op, of_h, x, P), as_zoneout(op, of_c, x, H)
    for name, given_reset, like in (("reset_h", reset_h, h0), ("reset_c", reset_c, c0)):
        if fresh:
            check_shape(op, name, given_reset, like.shape)  # type: ignore[arg-type]
    lengths, reset = check_sequence(op, x, lengths, reset, len(fresh) > 0, reverse)
    plain = recurrent_mask is None and kept_h is None and kept_c is None and heads == 1 and w_hr is None
    if torch_has_its_own(x) and plain and lengths is None and reset is None and not return_cells:
        if op == "lstm_cell":
            h, c = torch.lstm_cell(x[0], (h0, c0), w_ih, w_hh, b_ih, b_hh)
            return h[None], h, c, c
        if _is_fused_by_torch(x, H, b_ih, b_hh):
            weights = [w for w in (w_ih, w_hh, b_ih, b_hh) if w is not None]
            x = x.flip(0) if reverse else x
            y, h, c = torch.lstm(x, (h0[None], c0[None]), weights, b_ih is not None, 1, 0.0, True, False, False)
            return y.flip(0) if reverse else y, h[0], c[0], c
    y, h_n, c_n, cells, _ = torch.ops.seqops.lstm_sequence_fwd(
        x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reset_h, reset_c, recurrent_mask, kept_h, kept_c,
        heads, reverse, return_cells, False,
    )  # fmt: skip
    return y, h_n, c_n, cells


def _is_fused_by_torch(x: Tensor, H: int, b_ih: Tensor | None, b_hh: Tensor | None) -> bool:
    """Whether torch.lstm takes oneDNN's layer, faster than any walk from outside; torch.compile refuses it."""
    return (
        not torch.compiler.is_compiling()
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and (b_ih is None) == (b_hh is None)
        and x.numel() * H > 0
    )


class LSTMSequence(torch.autograd.Function):
    """Saves its inputs, y, all cells and, on the torch path, the gates; the kernels' backward rebuilds them."""

    @staticmethod
    def forward(
        ctx: Any,
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
        reverse: int,
        cells: bool,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        y, h_n, c_n, c_all, gates = torch.ops.seqops.lstm_sequence_fwd(
            x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reset_h, reset_c, recurrent_mask, zoneout_h,
            zoneout_c, heads, reverse, cells, True,
        )  # fmt: skip
        ctx.save_for_backward(
            x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reset_h, reset_c, recurrent_mask, zoneout_h,
            zoneout_c, y, c_all, gates,
        )  # fmt: skip
        ctx.heads, ctx.reverse = heads, reverse
        ctx.mark_non_differentiable(gates)
        ctx.set_materialize_grads(False)
        return y, h_n, c_n, c_all, gates

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        saved: Sequence[Tensor],
        grad_y: Tensor | None,
        grad_h_n: Tensor | None,
        grad_c_n: Tensor | None,
        grad_cells: Tensor | None,
        _: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reset_h, reset_c, *regular, y, cells, gates = saved
        recurrent_mask, zoneout_h, zoneout_c = regular
        need_x, need_h0, need_c0, need_w_ih, need_w_hh, need_b_ih, need_b_hh, need_w_hr = ctx.needs_input_grad[:8]
        need_reset_h, need_reset_c = ctx.needs_input_grad[10:12]
        grad_y = torch.zeros_like(y) if grad_y is None else grad_y
        grad_h_n = torch.zeros_like(h0) if grad_h_n is None else grad_h_n
        grad_c_n = torch.zeros_like(c0) if grad_c_n is None else grad_c_n
        grad_y, x = without_padding(lengths, grad_y, x)
        if grad_cells is not None:
            (grad_cells,) = without_padding(lengths, grad_cells)
        h_prev = before(y, h0, lengths, reset, reset_h, ctx.reverse)
        c_prev = before(cells, c0, lengths, reset, reset_c, ctx.reverse)
        dg, dh0, dc0, by_reset_h, by_reset_c, dw_hr = torch.ops.seqops.lstm_sequence_bwd(
            grad_y, grad_h_n, grad_c_n, grad_cells, x, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset,
            recurrent_mask, zoneout_h, zoneout_c, ctx.heads, ctx.reverse, h_prev, c_prev, cells, gates,
            need_reset_h or need_reset_c,
        )  # fmt: skip
        if recurrent_mask is not None:
            h_prev = h_prev * recurrent_mask
        needs = (need_x, need_w_ih, need_w_hh, need_b_ih, need_b_hh)
        dx, dw_ih, dw_hh, db_ih, db_hh = input_gradients(needs, dg, dg, x, h_prev, w_ih, w_hh, ctx.heads)
        return (
            dx, dh0 if need_h0 else None, dc0 if need_c0 else None, dw_ih, dw_hh, db_ih, db_hh,
            dw_hr if need_w_hr else None, None, None,
            by_reset_h if need_reset_h else None, by_reset_c if need_reset_c else None, *[None] * 7,
        )  # fmt: skip


def _fwd_fake(
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
    reverse: int,
    cells: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (T, B, _), H = x.shape, c0.shape[1]
    kept = training and takes_torch_path(x, _kernel_takes(x, w_hr, recurrent_mask, zoneout_h, zoneout_c))
    return (
        x.new_empty(T, *h0.shape),
        x.new_empty(h0.shape),
        x.new_empty(c0.shape),
        x.new_empty(T if cells or training else 0, B, H),
        x.new_empty((T, B, 4 * H) if kept else 0),
    )


def _bwd_fake(
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
    reverse: int,
    h_prev: Tensor,
    c_prev: Tensor,
    cells: Tensor,
    gates: Tensor,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, B, H = cells.shape
    return (
        x.new_empty(T, B, 4 * H),
        x.new_empty(grad_h_n.shape),
        x.new_empty(B, H),
        x.new_empty(grad_h_n.shape if need_reset_state else 0),
        x.new_empty((B, H) if need_reset_state else 0),
        x.new_empty(0 if w_hr is None else w_hr.shape),
    )


def _kernel_takes(first: Tensor, w_hr: Tensor | None, *regular: Tensor | None) -> bool:
    return first.dtype != torch.float64 and (w_hr is None or all(r is None for r in regular))


def _fwd_kernel_takes(x: Tensor, *rest: Any) -> bool:
    return _kernel_takes(x, rest[6], *rest[11:14])


def _bwd_kernel_takes(grad_y: Tensor, *rest: Any) -> bool:
    return _kernel_takes(grad_y, rest[8], *rest[11:14])


# reset is bool [T,B], False beyond an item's length. Gives y, h_n, c_n, all cells (none unless asked for or training),
# and what lstm_sequence_bwd wants of it (empty unless training on the torch path).
register(
    "lstm_sequence_fwd(Tensor x, Tensor h0, Tensor c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? w_hr, Tensor? lengths, Tensor? reset, Tensor? reset_h, Tensor? reset_c, Tensor? recurrent_mask, "
    "Tensor? zoneout_h, Tensor? zoneout_c, int heads, int reverse, bool cells, bool training) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "lstm",
    _fwd_fake,
    _fwd_kernel_takes,
    LSTMSequence,
)
# The inputs as in lstm_sequence_fwd; x, grad_y and grad_cells are 0 beyond an item's length, h_prev and c_prev are the
# state before each step. Gives the gradients of the pre-activations [T,B,4H], of h0 and c0, of the reset state (empty
# unless needed) and of w_hr (empty without one).
register(
    "lstm_sequence_bwd(Tensor grad_y, Tensor grad_h_n, Tensor grad_c_n, Tensor? grad_cells, Tensor x, Tensor w_ih, "
    "Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr, Tensor? lengths, Tensor? reset, "
    "Tensor? recurrent_mask, Tensor? zoneout_h, Tensor? zoneout_c, int heads, int reverse, Tensor h_prev, "
    "Tensor c_prev, Tensor cells, Tensor gates, bool need_reset_state) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "lstm",
    _bwd_fake,
    _bwd_kernel_takes,
)
