"""Hierarchical softmax with its tables and its tree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..embeddings.huffman import HuffmanTree
from ..ops.hierarchical_softmax_loss import hierarchical_softmax_loss
from ._embeddings import check_sizes, draw_table

__all__ = ["HierarchicalSoftmax"]


class HierarchicalSoftmax(nn.Module):
    """The hierarchical softmax loss of skip-gram and CBOW over a Huffman tree, with its two tables.

    loss = -log p(target | h), h = in_weight[center], or the mean or sum of a bag of centres

    Args:
        counts: [V], how often each class occurs: the more, the shorter its path.
        embedding_dim: D.
        num_embeddings: U, the ids of centres; V where None.
        padding_idx: an id that stands for none, in centres and targets; its row of in_weight is 0.
        mode, reduction, sparse: as in `seqops.functional.hierarchical_softmax_loss`.

    Parameters: in_weight [U, D], drawn from +-1/(2D), and node_weight [V - 1, D], which starts at 0.

    Source: Morin and Bengio 2005; Mikolov et al. 2013, arXiv:1301.3781.
    """

    def __init__(
        self,
        counts: Tensor | np.ndarray | Sequence[float],
        embedding_dim: int,
        *,
        num_embeddings: int | None = None,
        padding_idx: int | None = None,
        mode: str = "mean",
        reduction: str = "mean",
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.tree = HuffmanTree(counts, device=device)
        classes = self.tree.num_classes
        self.num_embeddings = classes if num_embeddings is None else num_embeddings
        check_sizes("HierarchicalSoftmax", embedding_dim=embedding_dim, num_embeddings=self.num_embeddings)
        if padding_idx is not None and not 0 <= padding_idx < self.num_embeddings:
            raise ValueError(
                f"HierarchicalSoftmax: padding_idx must lie in 0..{self.num_embeddings - 1}, got {padding_idx}"
            )
        self.embedding_dim, self.padding_idx = embedding_dim, padding_idx
        self.mode, self.reduction, self.sparse = mode, reduction, sparse
        self.in_weight = nn.Parameter(torch.empty(self.num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.node_weight = nn.Parameter(torch.empty(classes - 1, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts anew: in_weight is drawn, node_weight is 0."""
        draw_table(self.in_weight, self.padding_idx)
        nn.init.zeros_(self.node_weight)

    def forward(self, center: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """The loss of pairs: center [B], or bags [B, W], and target [B]."""
        return hierarchical_softmax_loss(
            self.in_weight,
            self.node_weight,
            center,
            target,
            self.tree,
            padding_idx=self.padding_idx,
            mode=self.mode,
            weight=weight,
            reduction=self.reduction,
            sparse=self.sparse,
        )

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"
