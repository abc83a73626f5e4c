"""In which dtype the torch path computes."""

from __future__ import annotations

import torch

__all__ = ["compute_dtype"]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of scores, sums and losses: float32, or float64 where the tables are."""
    return torch.promote_types(dtype, torch.float32)
