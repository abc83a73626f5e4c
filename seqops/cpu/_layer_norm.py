"""Layer normalisation inside a recurrence on the torch path, and its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LayerNorm"]


class LayerNorm:
    """gamma * (a - mean(a)) / sqrt(var(a) + eps) + beta over the last dimension; each of gamma and beta may be None."""

    def __init__(self, gamma: Tensor | None, beta: Tensor | None, eps: float) -> None:
        self.gamma, self.beta, self.eps = gamma, beta, eps

    def __call__(self, a: Tensor) -> Tensor:
        return torch.native_layer_norm(a, a.shape[-1:], self.gamma, self.beta, self.eps)[0]

    def with_moments(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Also the mean and 1 / sqrt(var + eps), [..., 1] each."""
        return torch.native_layer_norm(a, a.shape[-1:], self.gamma, self.beta, self.eps)

    def back(self, d: Tensor, a: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        """The gradient of a from that of the result."""
        if a.numel() == 0:
            return torch.zeros_like(a)
        return torch.ops.aten.native_layer_norm_backward(
            d, a, a.shape[-1:], mean, rstd, self.gamma, self.beta, [True, False, False]
        )[0]

    def gradients(self, d: Tensor, a: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
        """Of gamma and of beta, summed over all rows; empty where there is none."""
        given = [p is not None for p in (self.gamma, self.beta)]
        if a.numel():
            found = torch.ops.aten.native_layer_norm_backward(
                d, a, a.shape[-1:], mean, rstd, self.gamma, self.beta, [False, *given]
            )[1:]
        else:
            found = tuple(a.new_zeros(a.shape[-1:]) for _ in given)
        dgamma, dbeta = (t if g else a.new_empty(0) for t, g in zip(found, given, strict=True))
        return dgamma, dbeta
