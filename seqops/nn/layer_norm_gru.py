"""Layer-normalised GRU layers and cells, with torch.nn's interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.layer_norm_gru import layer_norm_gru, layer_norm_gru_cell
from ._cells import check_cell_input
from ._layer_norm import NormedCell, NormedLayer
from ._recurrent import State
from .gru import GRU

__all__ = ["LayerNormGRU", "LayerNormGRUCell"]


class LayerNormGRU(NormedLayer, GRU):
    """A GRU with layer normalisation inside the recurrence; constructor, forward and layouts as `seqops.nn.GRU`.

    Its two products are normalised apart: haste's form, after Ba et al. 2016, arXiv:1607.06450. With `joint` their sum
    is: Dreamer's form, Hafner et al. 2020, arXiv:2010.02193. The formulas, and how Dreamer's weights go here: see
    `seqops.functional.layer_norm_gru_cell`.

    Parameters: weight_ih_l*, weight_hh_l*, bias_hh_l* and gamma_hh_l*; without `joint` also bias_ih_l* and gamma_ih_l*.
    Gains start at 1, biases at 0, but with `joint` that of z at 1, by which most of the old state passes.
    """

    def __init__(self, *args: Any, joint: bool = False, eps: float = 1e-5, **kwargs: Any) -> None:
        if "reset_after" in kwargs:
            raise TypeError("LayerNormGRU: reset_after is no argument; the reset gate acts after the product")
        super().__init__(*args, **kwargs)
        self._add_norms(joint, False, eps)

    def _run(
        self, x: Tensor, state: State, weights: list[Any], zoneout: list[Any], return_cells: bool, **options: Any
    ) -> tuple[Tensor, State, None]:
        fresh = options.pop("reset_state")
        y, h = layer_norm_gru(
            x,
            *state,
            *weights,
            zoneout=zoneout[0],
            reset_state=None if fresh is None else fresh[0],
            **options | self._norm_options(),
        )
        return y, (h,), None


class LayerNormGRUCell(NormedCell):
    """One step of a `LayerNormGRU`; constructor and forward as `seqops.nn.GRUCell`, `joint` and `eps` as there."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        joint: bool = False,
        eps: float = 1e-5,
        num_heads: int = 1,
        zoneout: float = 0.0,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)
        self._add_norms(joint, False, eps, num_heads, zoneout)

    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        recurrent_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """input [B, I] or [I], hx [B, H] or [H] (zeros where None) -> h' as hx.

        recurrent_mask [B, H]: see `seqops.functional.gru_cell`; one for all steps is variational dropout.
        """
        x, (h,) = check_cell_input(self._name, input, None if hx is None else (hx,), self.weight_ih, self.hidden_size)
        options = self._norm_options() | self._options(x, recurrent_mask, generator)
        h = layer_norm_gru_cell(x, h, *self._weights(), **options)
        return h if input.dim() == 2 else h.squeeze(0)
