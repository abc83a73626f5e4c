"""Additive attention with its projections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops.additive_attention import additive_attention

__all__ = ["AdditiveAttention"]


class AdditiveAttention(nn.Module):
    """Additive (Bahdanau) attention: a query is compared with each key by a small network.

    weights = softmax over t of v . tanh(query_proj(query) + key_proj(keys)[t]);  context = weights @ values

    Args:
        embed_dim: D, the size of the comparison.
        query_dim, key_dim: sizes of the queries and the keys, embed_dim where None.
        bias: whether query_proj has one; a second one, in key_proj, would add nothing.

    Shapes: query [B, Q, query_dim], keys [B, T, key_dim], values [B, T, E]; context [B, Q, E], weights [B, Q, T].

    Source: Bahdanau et al. 2015, arXiv:1409.0473.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        query_dim: int | None = None,
        key_dim: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.query_dim = embed_dim if query_dim is None else query_dim
        self.key_dim = embed_dim if key_dim is None else key_dim
        for name in ("embed_dim", "query_dim", "key_dim"):
            size = getattr(self, name)
            if not isinstance(size, int):
                raise TypeError(f"AdditiveAttention: {name} must be an int, got {type(size).__name__}")
            if size <= 0:
                raise ValueError(f"AdditiveAttention: {name} must be above 0, got {size}")
        self.query_proj = nn.Linear(self.query_dim, embed_dim, bias, device=device, dtype=dtype)
        self.key_proj = nn.Linear(self.key_dim, embed_dim, bias=False, device=device, dtype=dtype)
        self.v = nn.Parameter(torch.empty(embed_dim, device=device, dtype=dtype))
        self._reset_v()

    def reset_parameters(self) -> None:
        """Draws all parameters anew: the projections as torch.nn.Linear does, v from +-1/sqrt(embed_dim)."""
        self.query_proj.reset_parameters()
        self.key_proj.reset_parameters()
        self._reset_v()

    def _reset_v(self) -> None:
        bound = self.embed_dim**-0.5
        nn.init.uniform_(self.v, -bound, bound)

    def project_keys(self, keys: Tensor) -> Tensor:
        """keys [B, T, key_dim] -> [B, T, embed_dim], the `projected_keys` that all steps of a decoder share."""
        return self.key_proj(keys)

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor | None = None,
        *,
        projected_keys: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends.

        Args:
            query, keys: [B, Q, query_dim] and [B, T, key_dim].
            values: [B, T, E]; the keys where None.
            projected_keys: `project_keys(keys)`; found here where None.
            lengths, mask, need_weights: as in `seqops.functional.additive_attention`.

        Returns:
            (context, weights); weights is None unless `need_weights`.
        """
        values = keys if values is None else values
        projected_keys = self.project_keys(keys) if projected_keys is None else projected_keys
        projected_query = self.query_proj(query)
        return additive_attention(
            projected_query, projected_keys, values, self.v, lengths=lengths, mask=mask, need_weights=need_weights
        )

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, query_dim={self.query_dim}, key_dim={self.key_dim}"
