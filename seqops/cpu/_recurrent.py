"""The walk over time that the recurrent ops share on the torch path."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "BOTH",
    "HiddenWeights",
    "active_steps",
    "each_direction",
    "half_of",
    "input_products",
    "mask_ended",
    "shares",
    "sigmoid_slope",
    "sum_of_biases",
    "tanh_slope",
    "walk_back",
    "walk_forward",
]

# As a sequence op's `reverse`: both directions in one call. The first half of the units, of whole heads, walks forward,
# the second back; a tensor with gates has both halves side by side in each, and reset is [2,T,B], one a direction.
BOTH = 2

tanh_slope = torch.ops.aten.tanh_backward.grad_input
sigmoid_slope = torch.ops.aten.sigmoid_backward.grad_input

State = tuple[Tensor, ...]
# From t and a state to another; it writes what it keeps of step t.
Step = Callable[..., State]


def active_steps(lengths: Tensor, T: int) -> Tensor:
    """bool [T,B,1]: which steps lie within their item."""
    return (torch.arange(T, device=lengths.device)[:, None] < lengths)[:, :, None]


def _steps_with(mask: Tensor | None, T: int) -> list[bool]:
    """In which steps mask [T,B,1] is True somewhere; on a GPU in all, a look would make the host wait."""
    if mask is None:
        return [False] * T
    return mask.flatten(1).any(1).tolist() if mask.device.type == "cpu" else [True] * T


def half_of(value: Any, word: str, units: int, i: int) -> Any:
    """Of an argument, what direction i with these units has, of units a view; `word` as in `each_direction`."""
    if word == "heads":
        return value // 2
    if word == "reverse":
        return bool(i)
    if word == "-" or value is None or value.shape == (0,):
        return value
    if word == "resets":
        return value[i]
    if word == "rows":
        return value.unflatten(0, (-1, 2, units))[:, i].flatten(0, 1)
    parts = value.unflatten(-1, (-1, 2, units))[..., i, :]
    return parts.flatten(-2) if parts.shape[-2] > 1 else parts.squeeze(-2)


def each_direction(layout: str, at_once: Callable[..., bool] = lambda *_: False) -> Callable[[Any], Any]:
    """Decorates an op that walks in one direction: with `reverse` BOTH it is called for each, unless `at_once(*args)`.

    `layout` has a word an argument: "units" in the last dimension or "rows" in the first, of any number of gates,
    "resets", "heads", "reverse", or "-" for what both directions have. The second argument and all results have units.
    """
    words = layout.split()

    def decorate(op: Any) -> Any:
        @functools.wraps(op)
        def run(*args: Any) -> Any:
            if args[words.index("reverse")] != BOTH or at_once(*args):
                return op(*args)
            units = args[1].shape[-1] // 2
            halves = (op(*(half_of(a, w, units, i) for a, w in zip(args, words, strict=True))) for i in range(2))
            return tuple(
                a if a.shape == (0,) else torch.stack([t.unflatten(-1, (-1, units)) for t in (a, b)], -2).flatten(-3)
                for a, b in zip(*halves, strict=True)
            )

        return run

    return decorate


def _order(T: int, reverse: bool) -> range:
    return range(T - 1, -1, -1) if reverse else range(T)


def sum_of_biases(b_ih: Tensor | None, b_hh: Tensor | None) -> Tensor | None:
    """Of those that there are: where h's share of the pre-activations is only added, one bias does for both."""
    return b_hh if b_ih is None else b_ih if b_hh is None else b_ih + b_hh


def input_products(x: Tensor, w_ih: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out [T,B,G] = x [T,B,I] W_ih^T + bias; out may be a part of wider rows."""
    if out.numel() == 0:
        return
    rows, flat = x.flatten(0, 1), out.flatten(0, 1)
    if bias is None:
        torch.mm(rows, w_ih.t(), out=flat)
    else:
        torch.addmm(bias, rows, w_ih.t(), out=flat)


def shares(z: Tensor, zoneout: Tensor | None) -> tuple[Tensor, Tensor]:
    """What of the old state a GRU's step passes on, and what of n: each is found by itself, and keeps its digits."""
    if zoneout is None:
        return z, 1 - z
    rest = 1 - zoneout
    return torch.addcmul(zoneout, rest, z), (1 - z).mul_(rest)


def mask_ended(lengths: Tensor | None, *tensors: Tensor) -> None:
    """Zeroes tensors [T,B,...] beyond each item's length, NaN too."""
    if lengths is not None:
        for tensor in tensors:
            tensor.masked_fill_(~active_steps(lengths, tensor.shape[0]), 0)


class HiddenWeights:
    """W_hh [G*H,P], or with several heads its diagonal blocks [G*H,H/heads], and the products with it."""

    def __init__(self, w_hh: Tensor, heads: int) -> None:
        self.w, self.w_t = w_hh, w_hh.t()
        self.heads = heads if w_hh.numel() else 1
        if self.heads > 1:
            D = w_hh.shape[1]
            # [heads, D, G*D], the blocks of a head side by side
            self.blocks = w_hh.reshape(-1, heads, D, D).permute(1, 3, 0, 2).reshape(heads, D, -1)

    def _split(self, d: Tensor) -> Tensor:
        """[N,G*H] -> [heads,N,G*D]"""
        heads, D, _ = self.blocks.shape
        N, width = d.shape
        return d.reshape(N, width // (heads * D), heads, D).permute(2, 0, 1, 3).reshape(heads, N, width // heads)

    def add_to(self, a: Tensor, h: Tensor) -> Tensor:
        """a [B,G*H] += W h, in place."""
        if self.heads == 1:
            return a.addmm_(h, self.w_t)
        heads, D, width = self.blocks.shape
        B, gates = h.shape[0], width // D
        product = torch.bmm(self._split(h), self.blocks).view(heads, B, gates, D)
        a.view(B, gates, heads, D).add_(product.permute(1, 2, 0, 3))
        return a

    def product(self, h: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
        """out [B,G*H] = W h + bias."""
        if self.heads > 1:
            out.zero_() if bias is None else out.copy_(bias)
            return self.add_to(out, h)
        return torch.mm(h, self.w_t, out=out) if bias is None else torch.addmm(bias, h, self.w_t, out=out)

    def back(self, d: Tensor, direct: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """mask * (W^T d) + direct: from the gradients of the pre-activations [B,G*H] to that of the state [B,P]."""
        if self.heads == 1:
            if mask is None and direct is not None:
                return torch.addmm(direct, d, self.w)
            dh = torch.mm(d, self.w)
        else:
            dh = torch.bmm(self._split(d), self.blocks.transpose(1, 2)).transpose(0, 1).flatten(1).contiguous()
        if mask is not None:
            return dh.mul_(mask) if direct is None else torch.addcmul(direct, dh, mask)
        return dh if direct is None else dh.add_(direct)

    def gradient(self, d: Tensor, h: Tensor) -> Tensor:
        """Of W, from the gradients of the pre-activations [N,G*H] and the states [N,P] that they met."""
        if self.heads == 1:
            return d.t() @ h
        heads, D, width = self.blocks.shape
        blocks = torch.bmm(self._split(d).transpose(1, 2), self._split(h))
        return blocks.view(heads, width // D, D, D).transpose(0, 1).reshape(self.w.shape)


def walk_forward(
    step: Step,
    state: State,
    T: int,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: State | None,
    reverse: bool,
) -> State:
    """The state after the last step: `step(t, *state)` in order; ended items keep theirs, reset ones start anew."""
    active = None if lengths is None else active_steps(lengths, T)
    reset = None if reset is None else reset[:, :, None]
    ends, resets = _steps_with(None if active is None else ~active, T), _steps_with(reset, T)
    for t in _order(T, reverse):
        if resets[t]:
            assert reset is not None
            fresh = tuple(s.new_zeros(()) for s in state) if reset_state is None else reset_state
            state = tuple(torch.where(reset[t], f, s) for f, s in zip(fresh, state, strict=True))
        new = step(t, *state)
        if ends[t]:
            assert active is not None
            new = tuple(torch.where(active[t], n, s) for n, s in zip(new, state, strict=True))
        state = new
    return state


def walk_back(
    step: Step,
    grads: State,
    T: int,
    lengths: Tensor | None,
    reset: Tensor | None,
    need_reset_state: bool,
    reverse: bool,
) -> tuple[State, State]:
    """The gradients of the first state and of the state that resets put in place (empty unless needed).

    `step(t, *grads)`: from the gradients of the state after step t to those of the state before it.
    """
    active = None if lengths is None else active_steps(lengths, T)
    reset = None if reset is None else reset[:, :, None]
    ends, resets = _steps_with(None if active is None else ~active, T), _steps_with(reset, T)
    by_reset = tuple(torch.zeros_like(g) if need_reset_state else g.new_empty(0) for g in grads)
    for t in reversed(_order(T, reverse)):
        new = step(t, *grads)
        if ends[t]:
            assert active is not None
            new = tuple(torch.where(active[t], n, g) for n, g in zip(new, grads, strict=True))
        if resets[t]:
            assert reset is not None
            if need_reset_state:
                by_reset = tuple(b + torch.where(reset[t], n, 0) for b, n in zip(by_reset, new, strict=True))
            new = tuple(n.masked_fill(reset[t], 0) for n in new)
        grads = new
    return grads, by_reset
