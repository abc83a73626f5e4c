"""What the modules of embedding losses share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["check_sizes", "draw_table"]


def check_sizes(module: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise TypeError(f"{module}: {name} must be an int, got {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{module}: {name} must be above 0, got {size}")


@torch.no_grad()
def draw_table(table: Tensor, padding_idx: int | None) -> None:
    """Draws from +-1/(2D), as word2vec does; the padding's row is 0."""
    bound = 0.5 / table.shape[1]
    nn.init.uniform_(table, -bound, bound)
    if padding_idx is not None:
        table[padding_idx] = 0
