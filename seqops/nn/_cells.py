"""What the recurrent cells share."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_cell_input"]


def check_cell_input(
    name: str, input: Tensor, hx: tuple[Tensor, ...] | None, w_ih: Tensor, w_hh: Tensor, states: int = 1
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The input as [B, I] and the state as [B, H] each, zeros where there is none; torch's errors."""
    if input.dim() not in (1, 2):
        raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
    for i, h in enumerate(hx or ()):
        if h.dim() not in (1, 2):
            what = "hidden" if states == 1 else f"hx[{i}]"
            raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {h.dim()}D instead")
    x = input if input.dim() == 2 else input.unsqueeze(0)
    if hx is None:
        state = tuple(x.new_zeros(x.shape[0], w_hh.shape[1]) for _ in range(states))
    else:
        state = hx if input.dim() == 2 else tuple(h.unsqueeze(0) for h in hx)
    if len(state) != states:
        raise RuntimeError("lstm_cell expects two hidden states")
    if x.shape[1] != w_ih.shape[1]:
        raise RuntimeError(f"input has inconsistent input_size: got {x.shape[1]} expected {w_ih.shape[1]}")
    for i, h in enumerate(state):
        if h.shape[0] != x.shape[0]:
            raise RuntimeError(f"Input batch size {x.shape[0]} doesn't match hidden{i} batch size {h.shape[0]}")
        if h.dim() > 1 and h.shape[1] != w_hh.shape[1]:
            raise RuntimeError(f"hidden{i} has inconsistent hidden_size: got {h.shape[1]}, expected {w_hh.shape[1]}")
    return x, state
