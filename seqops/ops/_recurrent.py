"""What the recurrent ops' public functions and autograd Functions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cpu._recurrent import BOTH, HiddenWeights, active_steps, half_of
from ._checks import FLOATING, PLAIN, check_device, check_lengths, check_shape
from ._register import autocast_is_on, torch_has_its_own

__all__ = [
    "Zoneout",
    "as_mask",
    "as_pair",
    "as_zoneout",
    "before",
    "check_heads",
    "check_sequence",
    "check_weights",
    "fits_torch",
    "input_gradients",
    "rows_of",
    "without_padding",
]

# An LSTM's: of h, or of h and of c.
Zoneout = Tensor | float | tuple[Tensor | float | None, Tensor | float | None] | None


def fits_torch(
    gates: int,
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> bool:
    """Whether a cell's arguments can go to torch's own ops as they are: nothing to cast, nothing to find fault with.

    Written out: a small cell's work takes no longer than a loop over them.
    """
    if type(x) not in PLAIN or type(h) not in PLAIN or type(w_ih) not in PLAIN or type(w_hh) not in PLAIN:
        return False
    dtype, given, state = x.dtype, x.shape, h.shape
    if not (len(given) == len(state) == 2 and given[0] == state[0] and dtype in FLOATING):
        return False
    (_, I), (_, H) = given, state
    G = gates * H
    return (
        w_ih.shape == (G, I)
        and w_hh.shape == (G, H)
        and h.dtype is dtype
        and w_ih.dtype is dtype
        and w_hh.dtype is dtype
        and h.is_cpu
        and w_ih.is_cpu
        and w_hh.is_cpu
        and (c is None or (type(c) in PLAIN and c.dtype is dtype and c.shape == state and c.is_cpu))
        and (b_ih is None or (type(b_ih) in PLAIN and b_ih.dtype is dtype and b_ih.shape == (G,) and b_ih.is_cpu))
        and (b_hh is None or (type(b_hh) in PLAIN and b_hh.dtype is dtype and b_hh.shape == (G,) and b_hh.is_cpu))
        and torch_has_its_own(x)
        and not autocast_is_on()
    )


def check_weights(
    op: str, gates: int, H: int, I: int, P: int, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None
) -> None:
    check_shape(op, "w_ih", w_ih, (gates * H, I))
    check_shape(op, "w_hh", w_hh, (gates * H, P))
    for name, bias in (("b_ih", b_ih), ("b_hh", b_hh)):
        if bias is not None:
            check_shape(op, name, bias, (gates * H,))


def check_sequence(
    op: str,
    x: Tensor,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
    has_reset_state: bool,
    reverse: int = False,
) -> tuple[Tensor | None, Tensor | None]:
    """lengths as int32 [B], and reset as bool [T,B], of both directions [2,T,B], False beyond each item's length."""
    T, B, _ = x.shape
    lengths = check_lengths(op, lengths, B, T, x.device)
    if reset is None:
        if has_reset_state:
            raise ValueError(f"{op}: reset_state must be None where reset is None")
        return lengths, None
    check_shape(op, "reset", reset, (2, T, B) if reverse == BOTH else (T, B))
    if reset.dtype != torch.bool:
        raise TypeError(f"{op}: reset must be bool, got {reset.dtype}")
    check_device(op, "reset", reset, "x", x)
    if lengths is not None:
        reset = reset & active_steps(lengths, T)[:, :, 0]
    return lengths, reset


def as_pair(op: str, name: str, state: Any) -> tuple[Tensor, Tensor]:
    """The two tensors of an LSTM's state."""
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        got = f"{len(state)} items" if isinstance(state, (tuple, list)) else type(state).__name__
        raise TypeError(f"{op}: {name} must be a pair of Tensors, got {got}")
    return state[0], state[1]


def check_heads(op: str, heads: int, H: int) -> int:
    """The width of a head."""
    if heads < 1 or H % heads:
        raise ValueError(f"{op}: heads must divide the hidden size {H}, got {heads}")
    return H // heads


def _constant(op: str, name: str, tensor: Tensor, x: Tensor, shape: Sequence[int]) -> Tensor:
    """An argument without a gradient, bool or floating, in x's dtype."""
    check_shape(op, name, tensor, shape)
    check_device(op, name, tensor, "x", x)
    if tensor.requires_grad:
        raise ValueError(f"{op}: {name} must not require grad, it is not differentiated")
    if tensor.dtype == torch.bool or (x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)):
        return tensor.to(x.dtype)
    if tensor.dtype != x.dtype:
        raise TypeError(f"{op}: {name} must be bool or have the dtype of x, {x.dtype}, got {tensor.dtype}")
    return tensor


def as_mask(op: str, mask: Tensor | None, x: Tensor, P: int) -> Tensor | None:
    """recurrent_mask [B,P] in x's dtype."""
    return None if mask is None else _constant(op, "recurrent_mask", mask, x, (x.shape[1], P))


def as_zoneout(op: str, zoneout: Tensor | float | None, x: Tensor, H: int) -> Tensor | None:
    """The share of the old state that each step keeps, [T,B,H] in x's dtype; None where that is nothing."""
    T, B, _ = x.shape
    if zoneout is None:
        return None
    if isinstance(zoneout, (int, float)):
        if not 0 <= zoneout <= 1:
            raise ValueError(f"{op}: zoneout must lie in 0..1, got {zoneout}")
        return x.new_full((), zoneout).expand(T, B, H) if zoneout else None
    if op.endswith("_cell"):
        return _constant(op, "zoneout", zoneout, x, (B, H))[None]
    return _constant(op, "zoneout", zoneout, x, (T, B, H))


def before(
    states: Tensor,
    first: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    reverse: int,
) -> Tensor:
    """The state before each step, [T,B,H], from those after each step and the first."""
    if reverse == BOTH:
        U = first.shape[1] // 2
        words = ("units", "units", "-", "resets", "units", "reverse")
        given = (states, first, lengths, reset, reset_state, reverse)
        halves = [before(*(half_of(v, w, U, i) for v, w in zip(given, words, strict=True))) for i in range(2)]
        return torch.cat(halves, -1)
    T = states.shape[0]
    shifted = torch.cat((states[1:], first[None]) if reverse else (first[None], states[:-1]))[:T]
    if reverse and lengths is not None:
        starts = torch.arange(T, device=lengths.device)[:, None] == lengths - 1
        shifted = torch.where(starts[:, :, None], first, shifted)
    if reset is not None:
        shifted = torch.where(reset[:, :, None], 0 if reset_state is None else reset_state, shifted)
    return shifted


def without_padding(lengths: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors [T,B,...], 0 beyond each item's length: a product with a zero gradient would not remove NaN there."""
    if lengths is None:
        return tensors
    ended = ~active_steps(lengths, tensors[0].shape[0])
    return tuple(t.masked_fill(ended, 0) for t in tensors)


def rows_of(t: Tensor) -> Tensor:
    """[T,B,...] -> [T*B,...]; not by flatten, for which torch.autograd.grad with is_grads_batched has no rule."""
    return t.reshape(t.shape[0] * t.shape[1], *t.shape[2:])


def input_gradients(
    needs: Sequence[bool],
    dgx: Tensor,
    dgh: Tensor,
    x: Tensor,
    h_prev: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    heads: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Of x, w_ih, w_hh, b_ih, b_hh, where needed, from those of the pre-activations' two parts."""
    need_x, need_w_ih, need_w_hh, need_b_ih, need_b_hh = needs
    db_ih = dgx.sum((0, 1)) if need_b_ih else None
    return (
        dgx @ w_ih if need_x else None,
        rows_of(dgx).t() @ rows_of(x) if need_w_ih else None,
        HiddenWeights(w_hh, heads).gradient(rows_of(dgh), rows_of(h_prev)) if need_w_hh else None,
        db_ih,
        (db_ih if dgh is dgx and db_ih is not None else dgh.sum((0, 1))) if need_b_hh else None,
    )
