"""Additive attention with its projections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops._checks import check_shape
from ..ops.additive_attention import additive_attention

__all__ = ["AdditiveAttention"]


class AdditiveAttention(nn.Module):
    """Additive (Bahdanau) attention: a query is compared with each key by a small network.

    weights = softmax over t of v . tanh(query_proj(query) + key_proj(keys)[t]);  context = weights @ values

    With location_channels, as speech recognition uses it, a step also sees where the steps before it have looked:
    location_proj(location_conv(previous_weights))[t] is added to the key of t.

    Args:
        embed_dim: D, the size of the comparison.
        query_dim, key_dim: sizes of the queries and the keys, embed_dim where None.
        bias: whether query_proj has one; a second one, in key_proj, would add nothing.
        location_channels, location_kernel: filters of location_conv, and the odd number of positions that each covers;
            neither: there is none.

    Shapes: query [B, Q, query_dim], keys [B, T, key_dim], values [B, T, E]; context [B, Q, E], weights [B, Q, T].

    Source: Bahdanau et al. 2015, arXiv:1409.0473; Chorowski et al. 2015, arXiv:1506.07503.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        query_dim: int | None = None,
        key_dim: int | None = None,
        bias: bool = True,
        location_channels: int | None = None,
        location_kernel: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.query_dim = embed_dim if query_dim is None else query_dim
        self.key_dim = embed_dim if key_dim is None else key_dim
        if (location_channels is None) != (location_kernel is None):
            raise ValueError(
                "AdditiveAttention: location_channels and location_kernel must be given both or neither, "
                f"got {location_channels} and {location_kernel}"
            )
        self.location_channels, self.location_kernel = location_channels, location_kernel
        for name in ("embed_dim", "query_dim", "key_dim", "location_channels", "location_kernel"):
            size = getattr(self, name)
            if size is None:
                continue
            if not isinstance(size, int):
                raise TypeError(f"AdditiveAttention: {name} must be an int, got {type(size).__name__}")
            if size <= 0:
                raise ValueError(f"AdditiveAttention: {name} must be above 0, got {size}")
        if location_kernel is not None and location_kernel % 2 == 0:
            raise ValueError(f"AdditiveAttention: location_kernel must be odd, got {location_kernel}")
        self.query_proj = nn.Linear(self.query_dim, embed_dim, bias, device=device, dtype=dtype)
        self.key_proj = nn.Linear(self.key_dim, embed_dim, bias=False, device=device, dtype=dtype)
        self.v = nn.Parameter(torch.empty(embed_dim, device=device, dtype=dtype))
        self._reset_v()
        self.location_conv: nn.Conv1d | None = None
        self.location_proj: nn.Linear | None = None
        if location_channels is not None and location_kernel is not None:
            self.location_conv = nn.Conv1d(
                1,
                location_channels,
                location_kernel,
                padding=location_kernel // 2,
                bias=False,
                device=device,
                dtype=dtype,
            )
            self.location_proj = nn.Linear(location_channels, embed_dim, bias=False, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draws all parameters anew: projections and convolution as torch's modules do, v from +-1/sqrt(embed_dim)."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]
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
        previous_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends.

        Args:
            query, keys: [B, Q, query_dim] and [B, T, key_dim].
            values: [B, T, E]; the keys where None.
            projected_keys: `project_keys(keys)`; found here where None.
            lengths, mask, need_weights: as in `seqops.functional.additive_attention`.
            previous_weights: [B, 1, T], of the step before, or the sum of all before, with location_channels and Q = 1;
                None: zeros. Beams that have each looked elsewhere are items of their own.

        Returns:
            (context, weights); weights is None unless `need_weights`.
        """
        values = keys if values is None else values
        projected_keys = self.project_keys(keys) if projected_keys is None else projected_keys
        if previous_weights is not None:
            projected_keys = projected_keys + self._location(query, keys, previous_weights)
        projected_query = self.query_proj(query)
        return additive_attention(
            projected_query, projected_keys, values, self.v, lengths=lengths, mask=mask, need_weights=need_weights
        )

    def _location(self, query: Tensor, keys: Tensor, previous_weights: Tensor) -> Tensor:
        """What [B,T,D] is added to the keys."""
        if self.location_conv is None or self.location_proj is None:
            raise ValueError("AdditiveAttention: previous_weights needs location_channels")
        if query.dim() != 3 or query.shape[1] != 1:
            shape = f"[B, 1, query_dim] with previous_weights, got {list(query.shape)}"
            raise ValueError(f"AdditiveAttention: query must have shape {shape}")
        check_shape("AdditiveAttention", "previous_weights", previous_weights, (len(query), 1, keys.shape[1]))
        features: Tensor = self.location_proj(self.location_conv(previous_weights).transpose(1, 2))
        return features

    def extra_repr(self) -> str:
        text = f"{self.embed_dim}, query_dim={self.query_dim}, key_dim={self.key_dim}"
        if self.location_channels is not None:
            text += f", location_channels={self.location_channels}, location_kernel={self.location_kernel}"
        return text
