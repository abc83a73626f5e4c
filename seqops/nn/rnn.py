"""torch.nn.RNN and torch.nn.RNNCell, on seqops' ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..ops._recurrent import fits_torch
from ..ops.rnn import TORCH_CELLS, rnn, rnn_cell
from ._cells import Cell, check_cell_input
from ._recurrent import Recurrent, State

__all__ = ["RNN", "RNNCell"]


class RNN(Recurrent):
    """`torch.nn.RNN`: the same constructor, forward, parameters, initialisation and errors, `lengths=` and `reset=`.

    Subclasses torch.nn.RNNBase, not torch.nn.RNN, which torch.compile does not trace whole.

    `num_heads`: weight_hh_l* are [H, H / num_heads], the blocks of a block-diagonal matrix. `zoneout`, and
    `recurrent_dropout`, the same mask at all steps of a layer and direction: see `seqops.functional.rnn`.

    Shapes: input [T, B, I], or [B, T, I] with batch_first, or [T, I] unbatched, or a PackedSequence;
    hx [num_layers * num_directions, B, H]; output [T, B, num_directions * H] in the input's layout; h_n as hx.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if len(args) > 3:
            self.nonlinearity, args = args[3], (*args[:3], *args[4:])
        else:
            self.nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{self.nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(f"RNN_{self.nonlinearity.upper()}", *args, **kwargs)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        reset_state: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Tensor]:
        """Runs all layers and directions.

        Args:
            input, hx: as in torch.nn.RNN.
            lengths: int [B] in 0..T, in any order, for a padded batch: what a PackedSequence says, without packing.
            reset: bool [T, B] ([B, T] with batch_first): where True a new episode begins, whose first state is
                `reset_state`, or zero; in neither direction does the state pass from one to another.
            reset_state: as hx.
            generator: draws zoneout, recurrent dropout and, where it is given, dropout; None: torch's own.

        Returns:
            (output, h_n); output is packed where the input is, and 0 beyond an item's length.
        """
        output, (h_n,), _ = self._forward(
            input,
            None if hx is None else (hx,),
            lengths,
            reset,
            None if reset_state is None else (reset_state,),
            generator,
        )
        return output, h_n

    def _run(
        self, x: Tensor, state: State, weights: list[Tensor], zoneout: list[Any], return_cells: bool, **options: Any
    ) -> tuple[Tensor, State, None]:
        fresh = options.pop("reset_state")
        y, h = rnn(
            x,
            *state,
            *weights,
            nonlinearity="tanh" if self.mode == "RNN_TANH" else "relu",
            zoneout=zoneout[0],
            reset_state=None if fresh is None else fresh[0],
            **options,
        )
        return y, (h,), None


class RNNCell(Cell):
    """`torch.nn.RNNCell`: the same constructor, forward, parameters, initialisation and errors.

    `num_heads`: weight_hh is [H, H / num_heads], the blocks of a block-diagonal matrix. `zoneout`: see
    `seqops.functional.rnn_cell`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_heads: int = 1,
        zoneout: float = 0.0,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity
        self._regularize(num_heads, zoneout)

    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        recurrent_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """input [B, I] or [I], hx [B, H] or [H] (zeros where None) -> h' as hx.

        recurrent_mask [B, H]: see `seqops.functional.rnn_cell`; one for all steps is variational dropout.
        """
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        weights = self._weights()
        plain = self.num_heads == 1 and self.zoneout == 0.0 and recurrent_mask is None
        if plain and hx is not None and fits_torch(1, input, hx, None, *weights):
            return TORCH_CELLS[self.nonlinearity](input, hx, *weights)
        x, (h,) = check_cell_input("RNNCell", input, None if hx is None else (hx,), weights[0], self.hidden_size)
        h = rnn_cell(x, h, *weights, nonlinearity=self.nonlinearity, **self._options(x, recurrent_mask, generator))
        return h if input.dim() == 2 else h.squeeze(0)
