"""What the recurrent cells share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import RNNCellBase

from ._regularization import changed, check_heads, zoneout, zoneouts

__all__ = ["Cell", "check_cell_input"]


class Cell(RNNCellBase):
    """torch.nn.RNNCellBase's constructor and parameters, with block-diagonal recurrent weights and zoneout."""

    _states = 1

    num_heads = 1
    zoneout: float | tuple[float, float] = 0.0

    def _regularize(self, num_heads: int, zoneout: float | tuple[float, float]) -> None:
        """The constructor's last part."""
        self.num_heads, self.zoneout = check_heads(self._name, num_heads, self.hidden_size), zoneout
        self._zoneouts()
        if num_heads > 1:
            blocks = self.weight_hh.new_empty(self.weight_hh.shape[0], self.hidden_size // num_heads)
            self.weight_hh = torch.nn.Parameter(blocks)
            self.reset_parameters()

    def extra_repr(self) -> str:
        return super().extra_repr() + changed(self, {"num_heads": 1, "zoneout": 0.0})

    def _zoneouts(self) -> tuple[float, ...]:
        return zoneouts(self._name, self.zoneout, self._states)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _weights(self) -> Sequence[Any]:
        # torch.nn.Module is slow to give a parameter as an attribute; one that is computed is no parameter.
        own = self._parameters
        if "weight_ih" in own and "weight_hh" in own and "bias_ih" in own and "bias_hh" in own:
            return own["weight_ih"], own["weight_hh"], own["bias_ih"], own["bias_hh"]
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def _options(self, x: Tensor, recurrent_mask: Tensor | None, generator: torch.Generator | None) -> dict[str, Any]:
        """What the op takes besides the input, the state and the weights."""
        options = {"heads": self.num_heads, "recurrent_mask": recurrent_mask}
        if self.zoneout == 0.0:
            return options
        shape = (x.shape[0], self.hidden_size)
        kept = tuple(zoneout(rate, shape, x, self.training, generator) for rate in self._zoneouts())
        return {**options, "zoneout": kept[0] if self._states == 1 else kept}


def check_cell_input(
    name: str, input: Tensor, hx: tuple[Tensor, ...] | None, w_ih: Tensor, H: int, states: int = 1
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The input as [B, I] and the state as [B, H] each, zeros where there is none; torch's errors."""
    if hx is not None and len(hx) == states and input.dim() == hx[0].dim() == hx[-1].dim() == 2:
        B, I = input.shape
        if w_ih.shape[1] == I and hx[0].shape == (B, H) and hx[-1].shape == (B, H):
            return input, hx
    if input.dim() not in (1, 2):
        raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
    for i, h in enumerate(hx or ()):
        if h.dim() not in (1, 2):
            what = "hidden" if states == 1 else f"hx[{i}]"
            raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {h.dim()}D instead")
    x = input if input.dim() == 2 else input.unsqueeze(0)
    if hx is None:
        state = tuple(x.new_zeros(x.shape[0], H) for _ in range(states))
    else:
        state = hx if input.dim() == 2 else tuple(h.unsqueeze(0) for h in hx)
    if len(state) != states:
        raise RuntimeError("lstm_cell expects two hidden states")
    if x.shape[1] != w_ih.shape[1]:
        raise RuntimeError(f"input has inconsistent input_size: got {x.shape[1]} expected {w_ih.shape[1]}")
    for i, h in enumerate(state):
        if h.shape[0] != x.shape[0]:
            raise RuntimeError(f"Input batch size {x.shape[0]} doesn't match hidden{i} batch size {h.shape[0]}")
        if h.dim() > 1 and h.shape[1] != H:
            raise RuntimeError(f"hidden{i} has inconsistent hidden_size: got {h.shape[1]}, expected {H}")
    return x, state
