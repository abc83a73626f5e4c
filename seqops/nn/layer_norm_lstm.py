"""Layer-normalised LSTM layers and cells, with torch.nn's interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.layer_norm_lstm import layer_norm_lstm, layer_norm_lstm_cell
from ._cells import check_cell_input
from ._layer_norm import NormedCell, NormedLayer
from ._recurrent import State
from .lstm import LSTM

__all__ = ["LayerNormLSTM", "LayerNormLSTMCell"]


class LayerNormLSTM(NormedLayer, LSTM):
    """An LSTM with layer normalisation inside the recurrence; constructor, forward and layouts as `seqops.nn.LSTM`.

    Its two products are normalised apart, and with `norm_cell` the cell before its tanh: haste's form, after Ba et al.
    2016, arXiv:1607.06450. With `joint` the products' sum is normalised. The formulas: see
    `seqops.functional.layer_norm_lstm_cell`. There is no projection.

    Parameters: weight_ih_l*, weight_hh_l*, bias_hh_l* and gamma_hh_l*; without `joint` also bias_ih_l* and gamma_ih_l*,
    and with `norm_cell` gamma_c_l* and beta_c_l*. Gains start at 1, biases at 0, but that of the forget gate at 1.
    """

    norm_cell = True

    def __init__(
        self, *args: Any, joint: bool = False, norm_cell: bool = True, eps: float = 1e-5, **kwargs: Any
    ) -> None:
        if kwargs.get("proj_size"):
            raise ValueError(f"LayerNormLSTM: proj_size must be 0, got {kwargs['proj_size']}")
        super().__init__(*args, **kwargs)
        self._add_norms(joint, norm_cell, eps)

    def _run(
        self, x: Tensor, state: State, weights: list[Any], zoneout: list[Any], return_cells: bool, **options: Any
    ) -> tuple[Tensor, State, Tensor | None]:
        y, last, *cells = layer_norm_lstm(
            x,
            state,  # type: ignore[arg-type]
            *weights,
            zoneout=tuple(zoneout),
            return_cells=return_cells,
            **options | self._norm_options(),
        )
        return y, last, cells[0] if cells else None


class LayerNormLSTMCell(NormedCell):
    """One step of `LayerNormLSTM`: constructor and forward of `seqops.nn.LSTMCell`, and `joint`, `norm_cell`, `eps`."""

    norm_cell = True
    _states = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        joint: bool = False,
        norm_cell: bool = True,
        eps: float = 1e-5,
        num_heads: int = 1,
        zoneout: float | tuple[float, float] = 0.0,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)
        self._add_norms(joint, norm_cell, eps, num_heads, zoneout)

    def forward(
        self,
        input: Tensor,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        recurrent_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """input [B, I] or [I], hx = (h, c), [B, H] or [H] each (zeros where None) -> (h', c') as hx.

        recurrent_mask [B, H]: see `seqops.functional.lstm_cell`; one for all steps is variational dropout.
        """
        x, state = check_cell_input(self._name, input, hx, self.weight_ih, self.hidden_size, states=2)
        options = self._norm_options() | self._options(x, recurrent_mask, generator)
        h, c = layer_norm_lstm_cell(x, state, *self._weights(), **options)  # type: ignore[arg-type]
        return (h, c) if input.dim() == 2 else (h.squeeze(0), c.squeeze(0))
