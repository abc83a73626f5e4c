"""torch.nn.LSTM and torch.nn.LSTMCell, on seqops' ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..ops._recurrent import fits_torch
from ..ops.lstm import lstm, lstm_cell
from ._cells import Cell, check_cell_input
from ._recurrent import Recurrent, State

__all__ = ["LSTM", "LSTMCell"]


class LSTM(Recurrent):
    """`torch.nn.LSTM`: the same constructor, forward, parameters, initialisation and errors, `lengths=` and `reset=`.

    Subclasses torch.nn.RNNBase, not torch.nn.LSTM, which torch.compile does not trace whole.

    `num_heads`: weight_hh_l* are [4H, H / num_heads], the blocks of a block-diagonal matrix. `zoneout`, of h or a pair
    of h's and c's, and `recurrent_dropout`, the same mask at all steps of a layer and direction: see
    `seqops.functional.lstm`.

    Shapes: input [T, B, I], or [B, T, I] with batch_first, or [T, I] unbatched, or a PackedSequence;
    hx = (h_0, c_0), [num_layers * num_directions, B, P] and [.., H], where P is proj_size, or H if that is 0;
    output [T, B, num_directions * P] in the input's layout; (h_n, c_n) as hx.
    """

    _states = 2

    get_expected_cell_size = torch.nn.LSTM.get_expected_cell_size
    check_forward_args = torch.nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = torch.nn.LSTM.permute_hidden  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        reset_state: tuple[Tensor, Tensor] | None = None,
        return_cells: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, ...]:
        """Runs all layers and directions.

        Args:
            input, hx: as in torch.nn.LSTM.
            lengths: int [B] in 0..T, in any order, for a padded batch: what a PackedSequence says, without packing.
            reset: bool [T, B] ([B, T] with batch_first): where True a new episode begins, whose first state is
                `reset_state`, or zero; in neither direction does the state pass from one to another.
            reset_state: as hx.
            return_cells: also give the cells after each step: [num_layers * num_directions, T, B, H], or
                [.., B, T, H] with batch_first, or [.., T, H] unbatched.
            generator: draws zoneout, recurrent dropout and, where it is given, dropout; None: torch's own.

        Returns:
            (output, (h_n, c_n)), or (output, (h_n, c_n), cells). output is packed where the input is; it and the cells
            are 0 beyond an item's length.
        """
        output, (h_n, c_n), cells = self._forward(input, hx, lengths, reset, reset_state, generator, return_cells)
        if return_cells:
            return output, (h_n, c_n), torch.stack(cells)
        return output, (h_n, c_n)

    def _run(
        self, x: Tensor, state: State, weights: list[Tensor], zoneout: list[Any], return_cells: bool, **options: Any
    ) -> tuple[Tensor, State, Tensor | None]:
        w_hr = weights.pop() if self.proj_size else None
        y, last, *cells = lstm(
            x,
            state,  # type: ignore[arg-type]
            *weights,
            w_hr=w_hr,
            zoneout=tuple(zoneout),
            return_cells=return_cells,
            **options,
        )
        return y, last, cells[0] if cells else None

    def _check_state_dims(self, hx: State | None, batched: bool) -> None:
        if hx is None:
            return
        wanted, kind = (3, "batched 3-D") if batched else (2, "unbatched 2-D")
        if hx[0].dim() != wanted or hx[1].dim() != wanted:
            dims = f"({hx[0].dim()}-D, {hx[1].dim()}-D)"
            raise RuntimeError(f"For {kind} input, hx and cx should also be {wanted}-D but got {dims} tensors")


class LSTMCell(Cell):
    """`torch.nn.LSTMCell`: the same constructor, forward, parameters, initialisation and errors.

    `num_heads`: weight_hh is [4H, H / num_heads], the blocks of a block-diagonal matrix. `zoneout`, of h or a pair of
    h's and c's: see `seqops.functional.lstm_cell`.
    """

    _states = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_heads: int = 1,
        zoneout: float | tuple[float, float] = 0.0,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)
        self._regularize(num_heads, zoneout)

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
        weights = self._weights()
        plain = self.num_heads == 1 and self.zoneout == 0.0 and recurrent_mask is None
        if plain and type(hx) is tuple and len(hx) == 2 and fits_torch(4, input, *hx, *weights):
            return torch.lstm_cell(input, hx, *weights)
        x, state = check_cell_input("LSTMCell", input, hx, weights[0], self.hidden_size, states=2)
        h, c = lstm_cell(x, state, *weights, **self._options(x, recurrent_mask, generator))  # type: ignore[arg-type]
        return (h, c) if input.dim() == 2 else (h.squeeze(0), c.squeeze(0))
