"""A linear layer and its cross entropy in one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.linear_cross_entropy import linear_cross_entropy

__all__ = ["LinearCrossEntropyLoss"]


class LinearCrossEntropyLoss(nn.Module):
    """The cross entropy of a linear layer's outputs, whose logits are never all held; torch 2.13's, without `options`.

    Args:
        in_features: D.
        num_classes: V.
        bias: whether the layer has one.
        reduction, weight, ignore_index, label_smoothing: as in `seqops.functional.linear_cross_entropy`.

    Parameters: those of `linear`, an nn.Linear. Buffer: weight.

    Source: torch.nn.LinearCrossEntropyLoss of torch 2.13, but for `out_features`.
    """

    weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes, bias=bias, device=device, dtype=dtype)
        self.register_buffer("weight", weight)
        self.num_classes, self.reduction = num_classes, reduction
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """input [..., D] and target [...]."""
        return linear_cross_entropy(
            input,
            self.linear.weight,
            target,
            self.linear.bias,
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}, label_smoothing={self.label_smoothing}"
