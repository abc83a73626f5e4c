"""What the recurrent cells share."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_cell_input"]


def check_cell_input(
    name: str, input: Tensor, hx: tuple[Tensor, ...] | None, sizes: tuple[int, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The input as [B, I] and the state as [B, size] each, zeros where there is none; torch's errors."""
    if input.dim() not in (1, 2):
        raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
    for i, h in enumerate(hx or ()):
        if h.dim() not in (1, 2):
            what = "hidden" if len(sizes) == 1 else f"hx[{i}]"
            raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {h.dim()}D instead")
    x = input if input.dim() == 2 else input.unsqueeze(0)
    if hx is None:
        return x, tuple(x.new_zeros(x.shape[0], size) for size in sizes)
    return x, hx if input.dim() == 2 else tuple(h.unsqueeze(0) for h in hx)
