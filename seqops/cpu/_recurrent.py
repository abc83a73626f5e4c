"""The walk over time that the recurrent ops share on the torch path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "active_steps",
    "input_products",
    "mask_ended",
    "sigmoid_slope",
    "sum_of_biases",
    "tanh_slope",
    "walk_back",
    "walk_forward",
]

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


def mask_ended(lengths: Tensor | None, *tensors: Tensor) -> None:
    """Zeroes tensors [T,B,...] beyond each item's length, NaN too."""
    if lengths is not None:
        for tensor in tensors:
            tensor.masked_fill_(~active_steps(lengths, tensor.shape[0]), 0)


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
