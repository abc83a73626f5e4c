"""torch.nn.GRU and torch.nn.GRUCell, on seqops' ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import RNNBase, RNNCellBase
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..ops.gru import gru, gru_cell

__all__ = ["GRU", "GRUCell"]


class GRU(RNNBase):
    """`torch.nn.GRU`: the same constructor, forward, parameters, initialisation and errors, and `lengths=`.

    Subclasses torch.nn.RNNBase, not torch.nn.GRU, which torch.compile does not trace whole.

    Shapes: input [T, B, I], or [B, T, I] with batch_first, or [T, I] unbatched, or a PackedSequence;
    hx [num_layers * num_directions, B, H]; output [T, B, num_directions * H] in the input's layout; h_n as hx.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__("GRU", *args, **kwargs)

    def flatten_parameters(self) -> None:
        """Does nothing: the parameters are used where they lie."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, Tensor]:
        """Runs all layers and directions.

        Args:
            input, hx: as in torch.nn.GRU.
            lengths: int [B] in 0..T, in any order, for a padded batch: what a PackedSequence says, without packing.

        Returns:
            (output, h_n); output is packed where the input is, and 0 beyond an item's length.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("GRU: lengths must be None with a PackedSequence, which holds them")
            return self._forward_packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(f"GRU: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        if not batched:
            if lengths is not None:
                raise ValueError("GRU: lengths must be None with an unbatched input")
            if hx is not None and hx.dim() != 2:
                raise RuntimeError(f"For unbatched 2-D input, hx should also be 2-D but got {hx.dim()}-D tensor")
            input = input.unsqueeze(batch_dim)
            hx = None if hx is None else hx.unsqueeze(1)
        elif hx is not None and hx.dim() != 3:
            raise RuntimeError(f"For batched 3-D input, hx should also be 3-D but got {hx.dim()}-D tensor")
        if hx is None:
            hx = self._zero_state(input, input.shape[batch_dim])
        self.check_forward_args(input, hx, None)
        if input.shape[1 - batch_dim] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        output, h_n = self._layers(input.transpose(0, 1) if self.batch_first else input, hx, lengths)
        if self.batch_first:
            output = output.transpose(0, 1)
        if not batched:
            return output.squeeze(batch_dim), h_n.squeeze(1)
        return output, h_n

    def _zero_state(self, input: Tensor, B: int) -> Tensor:
        directions = 2 if self.bidirectional else 1
        return input.new_zeros(self.num_layers * directions, B, self.hidden_size)

    def _forward_packed(self, packed: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        data, batch_sizes, sorted_indices, unsorted_indices = packed
        hx = self._zero_state(data, int(batch_sizes[0])) if hx is None else self.permute_hidden(hx, sorted_indices)
        self.check_forward_args(data, hx, batch_sizes)
        padded, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        output, h_n = self._layers(padded, hx, lengths)
        data = pack_padded_sequence(output, lengths).data
        h_n = self.permute_hidden(h_n, unsorted_indices)
        return PackedSequence(data, batch_sizes, sorted_indices, unsorted_indices), h_n

    def _layers(self, x: Tensor, hx: Tensor, lengths: Tensor | Sequence[int] | None) -> tuple[Tensor, Tensor]:
        """x [T,B,I], hx [layers * directions, B, H] -> y [T,B,directions * H], h_n as hx."""
        h_n: list[Tensor] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in ("", "_reverse") if self.bidirectional else ("",):
                weights = [getattr(self, f"{name}_l{layer}{suffix}") for name in ("weight_ih", "weight_hh")]
                if self.bias:
                    weights += [getattr(self, f"{name}_l{layer}{suffix}") for name in ("bias_ih", "bias_hh")]
                y, h = gru(x, hx[len(h_n)], *weights, lengths=lengths, reverse=bool(suffix))
                outputs.append(y)
                h_n.append(h)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
            if layer < self.num_layers - 1:
                x = torch.nn.functional.dropout(x, self.dropout, self.training)
        return x, torch.stack(h_n)


class GRUCell(RNNCellBase):
    """`torch.nn.GRUCell`: the same constructor, forward, parameters, initialisation and errors."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """input [B, I] or [I], hx [B, H] or [H] (zeros where None) -> h' as hx."""
        if input.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if hx is None:
            hx = x.new_zeros(x.shape[0], self.hidden_size)
        elif not batched:
            hx = hx.unsqueeze(0)
        h = gru_cell(x, hx, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return h if batched else h.squeeze(0)
