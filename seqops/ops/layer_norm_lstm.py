"""Layer-normalised LSTM: the public functions, the autograd Function and the registration of the sequence ops."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cpu import layer_norm_lstm as cpu
from ._autograd import once_differentiable
from ._checks import are_plain, autocast, check_dtypes, check_shape
from ._layer_norm import check_norms, input_side, kernel_takes, weight_gradient
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
    without_padding,
)
from ._register import register

__all__ = ["layer_norm_lstm", "layer_norm_lstm_cell"]


def layer_norm_lstm_cell(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    gamma_ih: Tensor | None = None,
    gamma_hh: Tensor | None = None,
    gamma_c: Tensor | None = None,
    beta_c: Tensor | None = None,
    *,
    joint: bool = False,
    norm_cell: bool = True,
    eps: float = 1e-5,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Zoneout = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM whose products are layer-normalised, apart, or with `joint` in sum, and its cell too.

    a  = gamma_ih * norm(W_ih x) + b_ih + gamma_hh * norm(W_hh h) + b_hh, or with joint
    a  = gamma_hh * norm(W_ih x + b_ih + W_hh h) + b_hh
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), tanh(a_g), sigmoid(a_o)
    c' = f * c + i * g
    h' = o * tanh(gamma_c * norm(c') + beta_c), or without norm_cell   o * tanh(c')

    where norm(v) = (v - mean(v)) / sqrt(var(v) + eps) over all 4H of a product, or the H of a cell.

    Args:
        x: [B, I], fp16, bf16, fp32 or fp64, as all others.
        state: (h, c), [B, H] each.
        w_ih, w_hh: [4H, I] and [4H, H / heads], the gates in the order i, f, g, o.
        b_ih, b_hh: [4H], or None for zeros. gamma_ih, gamma_hh: [4H], or None for ones; gamma_ih None with joint.
        gamma_c, beta_c: [H], or None for ones and zeros; None without norm_cell.
        heads, recurrent_mask, zoneout: as in `lstm_cell`.

    Returns:
        (h', c'), [B, H] each.

    Raises:
        ValueError: a shape, a device or eps does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative, but where torch's own ops are called, as they may be on the CPU.

    Source: Ba et al. 2016, arXiv:1607.06450, in haste's form.
    """
    h, c = as_pair("layer_norm_lstm_cell", "state", state)
    plain = heads == 1 and recurrent_mask is None and zoneout is None and c is not None and eps > 0
    if (
        plain
        and (not joint or gamma_ih is None)
        and (norm_cell or gamma_c is beta_c is None)
        and fits_torch(4, x, h, c, w_ih, w_hh, b_ih, b_hh)
        and are_plain(x.dtype, w_hh.shape[:1], gamma_ih, gamma_hh)
        and (gamma_c is beta_c is None or are_plain(x.dtype, h.shape[1:], gamma_c, beta_c))
    ):
        gains = (gamma_ih, gamma_hh, gamma_c, beta_c)
        return cpu.layer_norm_lstm_cell(x, h, c, w_ih, w_hh, b_ih, b_hh, *gains, joint, norm_cell, eps)
    check_shape("layer_norm_lstm_cell", "x", x, ("B", "I"))
    names = ("x", "h", "c")
    rest = (
        gamma_ih,
        gamma_hh,
        gamma_c,
        beta_c,
        joint,
        norm_cell,
        eps,
        heads,
        recurrent_mask,
        zoneout,
        None,
        None,
        None,
        False,
        False,
    )
    _, h, c, _ = _layer_norm_lstm("layer_norm_lstm_cell", names, x[None], state, w_ih, w_hh, b_ih, b_hh, *rest)
    return h, c


def layer_norm_lstm(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    gamma_ih: Tensor | None = None,
    gamma_hh: Tensor | None = None,
    gamma_c: Tensor | None = None,
    beta_c: Tensor | None = None,
    *,
    joint: bool = False,
    norm_cell: bool = True,
    eps: float = 1e-5,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Zoneout = None,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: tuple[Tensor, Tensor] | None = None,
    reverse: bool = False,
    return_cells: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """A layer-normalised LSTM over a sequence: `layer_norm_lstm_cell` at t = 0..T-1, or at T-1..0 with `reverse`.

    Args:
        x: [T, B, I], fp16, bf16, fp32 or fp64, as all other floating arguments.
        state: (h0, c0), [B, H] each, before the first step.
        w_ih, w_hh, b_ih, b_hh, gamma_ih, gamma_hh, gamma_c, beta_c, joint, norm_cell, eps, heads, recurrent_mask: as in
            `layer_norm_lstm_cell`.
        zoneout, lengths, reset, reset_state, reverse, return_cells: as in `lstm`.

    Returns:
        y [T, B, H], the state after each step, and (h_n, c_n), [B, H] each, after the last; with return_cells also
        c after each step, [T, B, H].

    Raises:
        ValueError: a shape, a device, a length or eps does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative.

    Source: as `layer_norm_lstm_cell`.
    """
    names = ("x", "h0", "c0")
    rest = (
        gamma_ih,
        gamma_hh,
        gamma_c,
        beta_c,
        joint,
        norm_cell,
        eps,
        heads,
        recurrent_mask,
        zoneout,
        lengths,
        reset,
        reset_state,
        reverse,
        return_cells,
    )
    y, h_n, c_n, cells = _layer_norm_lstm("layer_norm_lstm", names, x, state, w_ih, w_hh, b_ih, b_hh, *rest)
    return (y, (h_n, c_n), cells) if return_cells else (y, (h_n, c_n))


def _layer_norm_lstm(
    op: str,
    names: Sequence[str],
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    gamma_ih: Tensor | None,
    gamma_hh: Tensor | None,
    gamma_c: Tensor | None,
    beta_c: Tensor | None,
    joint: bool,
    norm_cell: bool,
    eps: float,
    heads: int,
    recurrent_mask: Tensor | None,
    zoneout: Zoneout,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
    reset_state: tuple[Tensor, Tensor] | None,
    reverse: bool,
    return_cells: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h0, c0 = as_pair(op, "state", state)
    resets = () if reset_state is None else as_pair(op, "reset_state", reset_state)
    given = dict(zip(names, (x, h0, c0), strict=True)) | {
        "w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "gamma_ih": gamma_ih, "gamma_hh": gamma_hh,
        "gamma_c": gamma_c, "beta_c": beta_c, **dict(zip(("reset_h", "reset_c"), resets, strict=False)),
    }  # fmt: skip
    cast = dict(zip(given, autocast(op, **given), strict=True))
    check_dtypes(op, **cast)
    x, h0, c0, w_ih, w_hh, b_ih, b_hh, gamma_ih, gamma_hh, gamma_c, beta_c, *fresh = cast.values()  # type: ignore[assignment]
    check_shape(op, "x", x, ("T", "B", "I"))
    check_shape(op, names[1], h0, (x.shape[1], "H"))
    H = h0.shape[1]
    check_shape(op, names[2], c0, h0.shape)
    check_weights(op, 4, H, x.shape[2], check_heads(op, heads, H), w_ih, w_hh, b_ih, b_hh)
    norms = {
        "gamma_ih": (gamma_ih, 4 * H),
        "gamma_hh": (gamma_hh, 4 * H),
        "gamma_c": (gamma_c, H),
        "beta_c": (beta_c, H),
    }
    check_norms(op, joint, eps, **norms)
    if not norm_cell and (gamma_c is not None or beta_c is not None):
        raise ValueError(f"{op}: gamma_c and beta_c must be None without norm_cell")
    recurrent_mask = as_mask(op, recurrent_mask, x, H)
    of_h, of_c = zoneout if isinstance(zoneout, (tuple, list)) else (zoneout, None)
    kept_h, kept_c = as_zoneout(op, of_h, x, H), as_zoneout(op, of_c, x, H)
    for name, tensor in zip(("reset_h", "reset_c"), fresh, strict=False):
        check_shape(op, name, tensor, h0.shape)  # type: ignore[arg-type]
    reset_h, reset_c = fresh if fresh else (None, None)
    lengths, reset = check_sequence(op, x, lengths, reset, len(fresh) > 0)
    gx = input_side(x, w_ih, b_ih, gamma_ih, lengths, joint, eps)
    y, h_n, c_n, cells, _ = torch.ops.seqops.layer_norm_lstm_sequence_fwd(
        gx, h0, c0, w_hh, gamma_hh, b_hh, gamma_c, beta_c, lengths, reset, reset_h, reset_c, recurrent_mask, kept_h,
        kept_c, heads, reverse, joint, norm_cell, eps, return_cells, False,
    )  # fmt: skip
    return y, h_n, c_n, cells


class LayerNormLSTMSequence(torch.autograd.Function):
    """Saves its inputs, y, all cells and what was normalised; the gates are found again in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        gx: Tensor,
        h0: Tensor,
        c0: Tensor,
        w_hh: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        gamma_c: Tensor | None,
        beta_c: Tensor | None,
        lengths: Tensor | None,
        reset: Tensor | None,
        reset_h: Tensor | None,
        reset_c: Tensor | None,
        recurrent_mask: Tensor | None,
        zoneout_h: Tensor | None,
        zoneout_c: Tensor | None,
        heads: int,
        reverse: bool,
        joint: bool,
        norm_cell: bool,
        eps: float,
        cells: bool,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        y, h_n, c_n, c_all, products = torch.ops.seqops.layer_norm_lstm_sequence_fwd(
            gx, h0, c0, w_hh, gamma, beta, gamma_c, beta_c, lengths, reset, reset_h, reset_c, recurrent_mask,
            zoneout_h, zoneout_c, heads, reverse, joint, norm_cell, eps, cells, True,
        )  # fmt: skip
        ctx.save_for_backward(
            gx, h0, c0, w_hh, gamma, beta, gamma_c, beta_c, lengths, reset, reset_h, reset_c, recurrent_mask,
            zoneout_h, zoneout_c, y, c_all, products,
        )  # fmt: skip
        ctx.heads, ctx.reverse, ctx.joint, ctx.norm_cell, ctx.eps = heads, reverse, joint, norm_cell, eps
        ctx.mark_non_differentiable(products)
        ctx.set_materialize_grads(False)
        return y, h_n, c_n, c_all, products

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
        gx, h0, c0, w_hh, gamma, beta, gamma_c, beta_c, lengths, reset, reset_h, reset_c, *rest = saved
        recurrent_mask, zoneout_h, zoneout_c, y, cells, products = rest
        needs = ctx.needs_input_grad
        need_reset_state = needs[10] or needs[11]
        grad_y = torch.zeros_like(y) if grad_y is None else grad_y
        grad_h_n = torch.zeros_like(h0) if grad_h_n is None else grad_h_n
        grad_c_n = torch.zeros_like(c0) if grad_c_n is None else grad_c_n
        grad_y, gx, products = without_padding(lengths, grad_y, gx, products)
        if grad_cells is not None:
            (grad_cells,) = without_padding(lengths, grad_cells)
        h_prev = before(y, h0, lengths, reset, reset_h, ctx.reverse)
        c_prev = before(cells, c0, lengths, reset, reset_c, ctx.reverse)
        dgx, d_products, *norms, dh0, dc0, by_reset_h, by_reset_c = torch.ops.seqops.layer_norm_lstm_sequence_bwd(
            grad_y, grad_h_n, grad_c_n, grad_cells, gx, w_hh, gamma, beta, gamma_c, beta_c, lengths, reset,
            recurrent_mask, zoneout_h, zoneout_c, ctx.heads, ctx.reverse, ctx.joint, ctx.norm_cell, ctx.eps, h_prev,
            c_prev, products, need_reset_state,
        )  # fmt: skip
        dw_hh = weight_gradient(d_products, h_prev, w_hh, recurrent_mask, ctx.heads) if needs[3] else None
        found = (d_products if ctx.joint else dgx, dh0, dc0, dw_hh, *norms, None, None, by_reset_h, by_reset_c)
        return *(g if need else None for g, need in zip(found, needs, strict=False)), *[None] * 10


def _fwd_fake(
    gx: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    gamma_c: Tensor | None,
    beta_c: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_h: Tensor | None,
    reset_c: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout_h: Tensor | None,
    zoneout_c: Tensor | None,
    heads: int,
    reverse: bool,
    joint: bool,
    norm_cell: bool,
    eps: float,
    cells: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, B, _ = gx.shape
    H = h0.shape[1]
    return (
        gx.new_empty(T, B, H),
        gx.new_empty(h0.shape),
        gx.new_empty(h0.shape),
        gx.new_empty(T if cells or training else 0, B, H),
        gx.new_empty((T, B, 4 * H) if training else 0),
    )


def _bwd_fake(
    grad_y: Tensor,
    grad_h_n: Tensor,
    grad_c_n: Tensor,
    grad_cells: Tensor | None,
    gx: Tensor,
    w_hh: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    gamma_c: Tensor | None,
    beta_c: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout_h: Tensor | None,
    zoneout_c: Tensor | None,
    heads: int,
    reverse: bool,
    joint: bool,
    norm_cell: bool,
    eps: float,
    h_prev: Tensor,
    c_prev: Tensor,
    products: Tensor,
    need_reset_state: bool,
) -> tuple[Tensor, ...]:
    _, B, H = h_prev.shape
    return (
        gx.new_empty(0 if joint else gx.shape),
        gx.new_empty(gx.shape),
        *(gx.new_empty(0 if p is None else p.shape) for p in (gamma, beta, gamma_c, beta_c)),
        *(gx.new_empty(B, H) for _ in range(2)),
        *(gx.new_empty((B, H) if need_reset_state else 0) for _ in range(2)),
    )


# Beyond, a row's gates do not fit a program's registers.
_kernel_takes = functools.partial(kernel_takes, 2048)

# gx is the input's share of the gates, or with joint of what is normalised, reset is bool [T,B], False beyond an item's
# length. Gives y, h_n, c_n, all cells (none unless asked for or training), and what layer_norm_lstm_sequence_bwd wants
# of it (empty unless training).
register(
    "layer_norm_lstm_sequence_fwd(Tensor gx, Tensor h0, Tensor c0, Tensor w_hh, Tensor? gamma, Tensor? beta, "
    "Tensor? gamma_c, Tensor? beta_c, Tensor? lengths, Tensor? reset, Tensor? reset_h, Tensor? reset_c, "
    "Tensor? recurrent_mask, Tensor? zoneout_h, Tensor? zoneout_c, int heads, bool reverse, bool joint, "
    "bool norm_cell, float eps, bool cells, bool training) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "layer_norm_lstm",
    _fwd_fake,
    _kernel_takes,
    LayerNormLSTMSequence,
)
# The inputs as in layer_norm_lstm_sequence_fwd; gx, products, grad_y and grad_cells are 0 beyond an item's length,
# h_prev and c_prev are the state before each step. Gives the gradients of gx (empty with joint: the second then), of
# what was normalised [T,B,4H], of gamma, beta, gamma_c and beta_c (empty without one), of h0 and c0, and of the reset
# state (empty unless needed).
register(
    "layer_norm_lstm_sequence_bwd(Tensor grad_y, Tensor grad_h_n, Tensor grad_c_n, Tensor? grad_cells, Tensor gx, "
    "Tensor w_hh, Tensor? gamma, Tensor? beta, Tensor? gamma_c, Tensor? beta_c, Tensor? lengths, Tensor? reset, "
    "Tensor? recurrent_mask, Tensor? zoneout_h, Tensor? zoneout_c, int heads, bool reverse, bool joint, "
    "bool norm_cell, float eps, Tensor h_prev, Tensor c_prev, Tensor products, bool need_reset_state) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "layer_norm_lstm",
    _bwd_fake,
    _kernel_takes,
)
