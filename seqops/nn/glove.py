"""GloVe's loss with its tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.glove_loss import glove_loss
from ._embeddings import check_sizes, draw_table

__all__ = ["GloVe"]


class GloVe(nn.Module):
    """Word and context vectors with their biases, and the loss that learns them from co-occurrence counts.

    Args:
        num_embeddings: V.
        embedding_dim: D.
        x_max, alpha, reduction, sparse: as in `seqops.functional.glove_loss`.

    Parameters: weight and context_weight [V, D], drawn from +-1/(2D); bias and context_bias [V], which start at 0.

    Source: Pennington, Socher and Manning 2014, doi:10.3115/v1/D14-1162.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        x_max: float = 100.0,
        alpha: float = 0.75,
        reduction: str = "mean",
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes("GloVe", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.x_max, self.alpha, self.reduction, self.sparse = x_max, alpha, reduction, sparse
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.context_weight = nn.Parameter(torch.empty_like(self.weight))
        self.bias = nn.Parameter(self.weight.new_empty(num_embeddings))
        self.context_bias = nn.Parameter(self.weight.new_empty(num_embeddings))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.weight, self.context_weight):
            draw_table(table, None)
        for bias in (self.bias, self.context_bias):
            nn.init.zeros_(bias)

    def forward(self, i: Tensor, j: Tensor, x: Tensor) -> Tensor:
        """The loss of the counts x [N] of words i [N] beside words j [N]."""
        return glove_loss(
            self.weight,
            self.context_weight,
            self.bias,
            self.context_bias,
            i,
            j,
            x,
            x_max=self.x_max,
            alpha=self.alpha,
            reduction=self.reduction,
            sparse=self.sparse,
        )

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """The sum of a word's two vectors, [V, D], which the paper evaluates."""
        return self.weight + self.context_weight

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, x_max={self.x_max}, alpha={self.alpha}"
