"""What the autograd Functions share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["once_differentiable"]


class _SecondDerivative(torch.autograd.Function):
    """Passes `count` gradients on, as if they could be differentiated in `inputs`; whoever tries gets an error."""

    @staticmethod
    def forward(ctx: Any, count: int, *gradients_and_inputs: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(g if g is None else g.view_as(g) for g in gradients_and_inputs[:count])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("seqops: a second derivative was asked for, but the op is once_differentiable")


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Computes the gradients of an autograd Function without a graph; a second derivative through them raises.

    `backward(ctx, saved, *grads)` is given the saved tensors: they can be unpacked only once under checkpointing.

    torch's own decorator raises only where an incoming gradient requires grad. The penalty
    `torch.autograd.grad(y.sum(), x, create_graph=True)[0].square().sum()` would be a constant to it, silently.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *grads: Tensor) -> Any:
        saved = ctx.saved_tensors
        with torch.no_grad():
            gradients = backward(ctx, saved, *grads)
        # Compiled code has a check of its own.
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return gradients
        return _SecondDerivative.apply(len(gradients), *gradients, *saved, *grads)

    return wrapper
