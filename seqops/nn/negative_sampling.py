"""Negative sampling with its tables and its sampler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..embeddings.sampler import NegativeSampler
from ..ops.negative_sampling_loss import negative_sampling_loss
from ._embeddings import check_sizes, draw_table

__all__ = ["NegativeSampling"]


class NegativeSampling(nn.Module):
    """The negative sampling loss of skip-gram and CBOW, with its two tables; the negatives are drawn inside.

    loss = softplus(-h . out_weight[target]) + sum over the negatives n of softplus(h . out_weight[n])
    where h is in_weight[center], or the mean or sum of a bag of centres.

    Args:
        num_embeddings: V, the ids of centres, targets and negatives.
        embedding_dim: D.
        counts: [V], how often each id occurs; all alike where None. Negatives have p ~ counts^power.
        num_negatives: K, drawn for each pair.
        power: 0.75 as in word2vec.
        padding_idx: an id that stands for none: its rows are 0 and get no gradient, and it is never drawn.
        tied: out_weight is in_weight.
        mode, positive_weight, collision, reduction, sparse: as in `seqops.functional.negative_sampling_loss`.

    Parameters: in_weight [V, D], drawn from +-1/(2D), and out_weight [V, D], which starts at 0 unless tied.

    Source: Mikolov et al. 2013, arXiv:1310.4546.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        counts: Tensor | np.ndarray | Sequence[float] | None = None,
        *,
        num_negatives: int = 5,
        power: float = 0.75,
        padding_idx: int | None = None,
        tied: bool = False,
        mode: str = "mean",
        positive_weight: float = 1.0,
        collision: str = "skip",
        reduction: str = "mean",
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes("NegativeSampling", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None and not 0 <= padding_idx < num_embeddings:
            raise ValueError(f"NegativeSampling: padding_idx must lie in 0..{num_embeddings - 1}, got {padding_idx}")
        if counts is None:
            counts = np.ones(num_embeddings)
        elif len(counts) != num_embeddings:
            raise ValueError(f"NegativeSampling: counts must have shape [{num_embeddings}], got [{len(counts)}]")
        if padding_idx is not None:
            values = counts.detach().cpu().numpy() if isinstance(counts, Tensor) else counts
            counts = np.array(values, dtype=np.float64)
            counts[padding_idx] = 0
        self.num_embeddings, self.embedding_dim, self.num_negatives = num_embeddings, embedding_dim, num_negatives
        self.padding_idx, self.mode, self.positive_weight = padding_idx, mode, positive_weight
        self.collision, self.reduction, self.sparse = collision, reduction, sparse
        self.sampler = NegativeSampler(counts, power, device=device)
        self.in_weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.out_weight = self.in_weight if tied else nn.Parameter(torch.empty_like(self.in_weight))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts anew: in_weight is drawn, out_weight is 0 unless it is the same."""
        if self.out_weight is not self.in_weight:
            nn.init.zeros_(self.out_weight)
        draw_table(self.in_weight, self.padding_idx)

    def forward(
        self,
        center: Tensor,
        target: Tensor,
        negatives: Tensor | None = None,
        *,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of pairs: center [B], or bags [B, W], and target [B]; negatives [B, K] instead of those drawn."""
        given = negatives is not None  # and is not drawn again
        return negative_sampling_loss(
            self.in_weight,
            self.out_weight,
            center,
            target,
            self.sampler if negatives is None else negatives,
            num_negatives=None if given else self.num_negatives,
            padding_idx=self.padding_idx,
            mode=self.mode,
            weight=weight,
            positive_weight=self.positive_weight,
            collision="skip" if given and self.collision == "redraw" else self.collision,
            reduction=self.reduction,
            sparse=self.sparse,
            generator=generator,
        )

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, num_negatives={self.num_negatives}"
