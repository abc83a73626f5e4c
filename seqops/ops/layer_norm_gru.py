"""Layer-normalised GRU: the public functions, the autograd Function and the registration of the sequence ops."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cpu import layer_norm_gru as cpu
from ._autograd import once_differentiable
from ._checks import are_plain, autocast, check_dtypes, check_shape
from ._layer_norm import check_norms, input_side, kernel_takes, weight_gradient
from ._recurrent import (
    as_mask,
    as_zoneout,
    before,
    check_heads,
    check_sequence,
    check_weights,
    fits_torch,
    without_padding,
)
from ._register import register

__all__ = ["layer_norm_gru", "layer_norm_gru_cell"]


def layer_norm_gru_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    gamma_ih: Tensor | None = None,
    gamma_hh: Tensor | None = None,
    *,
    joint: bool = False,
    eps: float = 1e-5,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
) -> Tensor:
    """One step of a GRU whose products are layer-normalised, apart, or with `joint` in sum.

    gx = gamma_ih * norm(W_ih x) + b_ih,   gh = gamma_hh * norm(W_hh h) + b_hh
    r  = sigmoid(gx_r + gh_r)
    z  = sigmoid(gx_z + gh_z)
    n  = tanh(gx_n + r * gh_n)
    h' = (1 - z) * n + z * h

    and with joint   gx = 0,   gh = gamma_hh * norm(W_ih x + b_ih + W_hh h) + b_hh

    where norm(a) = (a - mean(a)) / sqrt(var(a) + eps) over all 3H of them.

    Args:
        x: [B, I], fp16, bf16, fp32 or fp64, as all others.
        h: [B, H].
        w_ih, w_hh: [3H, I] and [3H, H / heads], the gates in the order r, z, n.
        b_ih, b_hh: [3H], or None for zeros. gamma_ih, gamma_hh: [3H], or None for ones; gamma_ih None with joint.
        heads, recurrent_mask, zoneout: as in `gru_cell`.

    Returns:
        h' [B, H].

    Raises:
        ValueError: a shape, a device or eps does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative, but where torch's own ops are called, as they may be on the CPU.

    Source: apart: Ba et al. 2016, arXiv:1607.06450, in haste's form. joint: Hafner et al. 2020, arXiv:2010.02193, whose
        update gate is 1 - z here: with its gamma and beta of the other sign, and "update bias" -1, gamma_z and b_z are
        -gamma_u and 1 - beta_u.
    """
    plain = heads == 1 and recurrent_mask is None and zoneout is None and eps > 0 and (not joint or gamma_ih is None)
    if (
        plain
        and fits_torch(3, x, h, None, w_ih, w_hh, b_ih, b_hh)
        and are_plain(x.dtype, w_hh.shape[:1], gamma_ih, gamma_hh)
    ):
        return cpu.layer_norm_gru_cell(x, h, w_ih, w_hh, b_ih, b_hh, gamma_ih, gamma_hh, joint, eps)
    check_shape("layer_norm_gru_cell", "x", x, ("B", "I"))
    rest = (joint, eps, heads, recurrent_mask, zoneout, None, None, None, False)
    y, _ = _layer_norm_gru("layer_norm_gru_cell", x[None], h, w_ih, w_hh, b_ih, b_hh, gamma_ih, gamma_hh, *rest)
    return y[0]


def layer_norm_gru(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    gamma_ih: Tensor | None = None,
    gamma_hh: Tensor | None = None,
    *,
    joint: bool = False,
    eps: float = 1e-5,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """A layer-normalised GRU over a sequence: `layer_norm_gru_cell` at t = 0..T-1, or at T-1..0 with `reverse`.

    Args:
        x: [T, B, I], fp16, bf16, fp32 or fp64, as all other floating arguments.
        h0: [B, H], the state before the first step.
        w_ih, w_hh, b_ih, b_hh, gamma_ih, gamma_hh, joint, eps, heads, recurrent_mask: as in `layer_norm_gru_cell`.
        zoneout, lengths, reset, reset_state, reverse: as in `gru`.

    Returns:
        y [T, B, H], the state after each step, and h_n [B, H], the state after the last.

    Raises:
        ValueError: a shape, a device, a length or eps does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative.

    Source: as `layer_norm_gru_cell`.
    """
    rest = (joint, eps, heads, recurrent_mask, zoneout, lengths, reset, reset_state, reverse)
    return _layer_norm_gru("layer_norm_gru", x, h0, w_ih, w_hh, b_ih, b_hh, gamma_ih, gamma_hh, *rest)


def _layer_norm_gru(
    op: str,
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    gamma_ih: Tensor | None,
    gamma_hh: Tensor | None,
    joint: bool,
    eps: float,
    heads: int,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | float | None,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    state = "h" if op.endswith("_cell") else "h0"
    given = {
        "x": x, state: h0, "w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "gamma_ih": gamma_ih,
        "gamma_hh": gamma_hh, "reset_state": reset_state,
    }  # fmt: skip
    cast = dict(zip(given, autocast(op, **given), strict=True))
    check_dtypes(op, **cast)
    x, h0, w_ih, w_hh, b_ih, b_hh, gamma_ih, gamma_hh, reset_state = cast.values()  # type: ignore[assignment]
    check_shape(op, "x", x, ("T", "B", "I"))
    check_shape(op, state, h0, (x.shape[1], "H"))
    H = h0.shape[1]
    check_weights(op, 3, H, x.shape[2], check_heads(op, heads, H), w_ih, w_hh, b_ih, b_hh)
    check_norms(op, joint, eps, gamma_ih=(gamma_ih, 3 * H), gamma_hh=(gamma_hh, 3 * H))
    recurrent_mask, kept = as_mask(op, recurrent_mask, x, H), as_zoneout(op, zoneout, x, H)
    if reset_state is not None:
        check_shape(op, "reset_state", reset_state, h0.shape)
    lengths, reset = check_sequence(op, x, lengths, reset, reset_state is not None)
    gx = input_side(x, w_ih, b_ih, gamma_ih, lengths, joint, eps)
    y, h_n, _ = torch.ops.seqops.layer_norm_gru_sequence_fwd(
        gx, h0, w_hh, gamma_hh, b_hh, lengths, reset, reset_state, recurrent_mask, kept, heads, reverse, joint, eps,
        False,
    )  # fmt: skip
    return y, h_n


class LayerNormGRUSequence(torch.autograd.Function):
    """Saves its inputs, y and what was normalised; the gates are found again in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        gx: Tensor,
        h0: Tensor,
        w_hh: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        lengths: Tensor | None,
        reset: Tensor | None,
        reset_state: Tensor | None,
        recurrent_mask: Tensor | None,
        zoneout: Tensor | None,
        heads: int,
        reverse: bool,
        joint: bool,
        eps: float,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, h_n, products = torch.ops.seqops.layer_norm_gru_sequence_fwd(
            gx, h0, w_hh, gamma, beta, lengths, reset, reset_state, recurrent_mask, zoneout, heads, reverse, joint,
            eps, True,
        )  # fmt: skip
        ctx.save_for_backward(
            gx, h0, w_hh, gamma, beta, lengths, reset, reset_state, recurrent_mask, zoneout, y, products
        )
        ctx.heads, ctx.reverse, ctx.joint, ctx.eps = heads, reverse, joint, eps
        ctx.mark_non_differentiable(products)
        ctx.set_materialize_grads(False)
        return y, h_n, products

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, saved: Sequence[Tensor], grad_y: Tensor | None, grad_h_n: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gx, h0, w_hh, gamma, beta, lengths, reset, reset_state, recurrent_mask, zoneout, y, products = saved
        need_gx, need_h0, need_w_hh, need_gamma, need_beta, _, _, need_reset_state, *_ = ctx.needs_input_grad
        grad_y = torch.zeros_like(y) if grad_y is None else grad_y
        grad_h_n = torch.zeros_like(h0) if grad_h_n is None else grad_h_n
        grad_y, gx, products = without_padding(lengths, grad_y, gx, products)
        h_prev = before(y, h0, lengths, reset, reset_state, ctx.reverse)
        dgx, d_products, dgamma, dbeta, dh0, by_reset = torch.ops.seqops.layer_norm_gru_sequence_bwd(
            grad_y, grad_h_n, gx, w_hh, gamma, beta, lengths, reset, recurrent_mask, zoneout, ctx.heads, ctx.reverse,
            ctx.joint, ctx.eps, h_prev, products, need_reset_state,
        )  # fmt: skip
        return (
            (d_products if ctx.joint else dgx) if need_gx else None,
            dh0 if need_h0 else None,
            weight_gradient(d_products, h_prev, w_hh, recurrent_mask, ctx.heads) if need_w_hh else None,
            dgamma if need_gamma else None,
            dbeta if need_beta else None,
            None,
            None,
            by_reset if need_reset_state else None,
            *[None] * 7,
        )


def _fwd_fake(
    gx: Tensor,
    h0: Tensor,
    w_hh: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | None,
    heads: int,
    reverse: bool,
    joint: bool,
    eps: float,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    T, B, _ = gx.shape
    H = h0.shape[1]
    return gx.new_empty(T, B, H), gx.new_empty(h0.shape), gx.new_empty((T, B, 3 * H) if training else 0)


def _bwd_fake(
    grad_y: Tensor,
    grad_h_n: Tensor,
    gx: Tensor,
    w_hh: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    recurrent_mask: Tensor | None,
    zoneout: Tensor | None,
    heads: int,
    reverse: bool,
    joint: bool,
    eps: float,
    h_prev: Tensor,
    products: Tensor,
    need_reset_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    _, B, H = h_prev.shape
    return (
        gx.new_empty(0 if joint else gx.shape),
        gx.new_empty(gx.shape),
        gx.new_empty(0 if gamma is None else gamma.shape),
        gx.new_empty(0 if beta is None else beta.shape),
        gx.new_empty(B, H),
        gx.new_empty((B, H) if need_reset_state else 0),
    )


# Beyond, a row's gates do not fit a program's registers.
_kernel_takes = functools.partial(kernel_takes, 4096)

# gx is the input's share of the gates, or with joint of what is normalised, reset is bool [T,B], False beyond an item's
# length. The third result, empty unless training, is for layer_norm_gru_sequence_bwd.
register(
    "layer_norm_gru_sequence_fwd(Tensor gx, Tensor h0, Tensor w_hh, Tensor? gamma, Tensor? beta, Tensor? lengths, "
    "Tensor? reset, Tensor? reset_state, Tensor? recurrent_mask, Tensor? zoneout, int heads, bool reverse, bool joint, "
    "float eps, bool training) -> (Tensor, Tensor, Tensor)",
    "layer_norm_gru",
    _fwd_fake,
    _kernel_takes,
    LayerNormGRUSequence,
)
# The inputs as in layer_norm_gru_sequence_fwd; gx, products and grad_y are 0 beyond an item's length, h_prev [T,B,H] is
# the state before each step. Gives the gradients of gx (empty with joint: the second then), of what was normalised
# [T,B,3H], of gamma and beta (empty without one), of h0 and of reset_state (empty unless needed).
register(
    "layer_norm_gru_sequence_bwd(Tensor grad_y, Tensor grad_h_n, Tensor gx, Tensor w_hh, Tensor? gamma, Tensor? beta, "
    "Tensor? lengths, Tensor? reset, Tensor? recurrent_mask, Tensor? zoneout, int heads, bool reverse, bool joint, "
    "float eps, Tensor h_prev, Tensor products, bool need_reset_state) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "layer_norm_gru",
    _bwd_fake,
    _kernel_takes,
)
