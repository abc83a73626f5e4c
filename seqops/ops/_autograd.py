"""What the autograd Functions share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import function

__all__ = ["once_differentiable"]


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A second derivative through `backward` raises RuntimeError, always.

    torch's own decorator lets it pass as a silent zero where no incoming gradient requires grad, as in the penalty
    `torch.autograd.grad(y.sum(), x, create_graph=True)`. Here, under create_graph, one always does.
    """
    inner = function.once_differentiable(backward)

    @functools.wraps(backward)
    def wrapper(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            grads = tuple(g.detach().requires_grad_() if isinstance(g, Tensor) else g for g in grads)
        return inner(ctx, *grads)

    return wrapper
