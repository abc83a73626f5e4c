"""What the recurrent layers share: input layouts, packed sequences, layers and directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import RNNBase
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..cpu._recurrent import BOTH
from ..ops._checks import check_shape
from ..ops._recurrent import check_sequence
from ..ops._register import takes_torch_path
from ._regularization import changed, check_heads, check_rate, drop, recurrent_mask, zoneout, zoneouts

__all__ = ["Recurrent"]

# A layer's state: one tensor, of an LSTM two.
State = tuple[Tensor, ...]


class _Call(NamedTuple):
    """What a layer takes beside its input, in one direction or in both at once."""

    state: State
    weights: list[Tensor]
    zoneout: list[Any]
    reset: Tensor | None
    reset_state: State | None
    recurrent_mask: Tensor | None
    reverse: int
    heads: int


def _join(forward: _Call, backward: _Call) -> _Call:
    """Both as one call, whose units are those of both, as the ops have it with `reverse` BOTH."""

    f, b = forward, backward
    H = f.state[0].shape[1]

    def units(one: Any, other: Any) -> Any:
        """Tensors [..., H] as [..., 2H]; a number or None, which is that of both, as it is."""
        return torch.cat((one, other), -1) if isinstance(one, Tensor) else one

    def rows(*pair: Tensor) -> Tensor:
        """Tensors [G*H, ...] as [G*2H, ...], both halves in each gate."""
        return torch.stack([w.unflatten(0, (-1, H)) for w in pair], 1).flatten(0, 2)

    return _Call(
        state=tuple(map(units, f.state, b.state)),
        weights=list(map(rows, f.weights, b.weights)),
        zoneout=list(map(units, f.zoneout, b.zoneout)),
        reset=None if f.reset is None or b.reset is None else torch.stack((f.reset, b.reset)),
        reset_state=None
        if f.reset_state is None or b.reset_state is None
        else tuple(map(units, f.reset_state, b.reset_state)),
        recurrent_mask=units(f.recurrent_mask, b.recurrent_mask),
        reverse=BOTH,
        heads=f.heads + b.heads,
    )


class Recurrent(RNNBase):
    """torch.nn.RNNBase's constructor, parameters and checks, with a forward over seqops' ops.

    A subclass says by `_run` what one layer does in one direction, and how many tensors its state has.
    """

    _states = 1

    num_heads = 1
    zoneout: float | tuple[float, float] = 0.0
    recurrent_dropout = 0.0

    def __init__(
        self,
        mode: str,
        *args: Any,
        num_heads: int = 1,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(mode, *args, **kwargs)
        self.num_heads = check_heads(self._name, num_heads, self.hidden_size)
        self.recurrent_dropout = check_rate(self._name, "recurrent_dropout", recurrent_dropout)
        self.zoneout = zoneout
        self._zoneouts()
        if num_heads > 1:
            if self.proj_size:
                raise ValueError(f"{self._name}: num_heads must be 1 with proj_size, got {num_heads}")
            for name, weight in list(self.named_parameters(recurse=False)):
                if name.startswith("weight_hh"):
                    blocks = weight.new_empty(weight.shape[0], self.hidden_size // num_heads)
                    setattr(self, name, torch.nn.Parameter(blocks))
            self.reset_parameters()

    def extra_repr(self) -> str:
        own = {"num_heads": 1, "zoneout": 0.0, "recurrent_dropout": 0.0}
        return super().extra_repr() + changed(self, own)

    def _zoneouts(self) -> tuple[float, ...]:
        return zoneouts(self._name, self.zoneout, self._states)

    def flatten_parameters(self) -> None:
        """Does nothing: the parameters are used where they lie."""

    def _init_flat_weights(self) -> None:
        """torch's list of the weights; computed ones without their graph, with which the module could not be copied."""
        super()._init_flat_weights()
        self._flat_weights = [w if w is None or w.is_leaf else w.detach() for w in self._flat_weights]

    def _run(
        self, x: Tensor, state: State, weights: list[Tensor], zoneout: list[Any], return_cells: bool, **options: Any
    ) -> tuple[Tensor, State, Tensor | None]:
        """y, the last state and, where they are asked for, all cells, of one layer in one direction.

        `zoneout` has what the op takes for each tensor of the state, `options` its lengths, reset, reset_state (of the
        state's form), reverse, heads and recurrent_mask.
        """
        raise NotImplementedError

    def _forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        reset_state: State | None,
        generator: torch.Generator | None,
        return_cells: bool = False,
    ) -> tuple[Any, State, list[Tensor]]:
        """output, the last state of all layers, and the cells of each layer and direction where they are asked for."""
        if isinstance(input, PackedSequence):
            for name, value in (("lengths", lengths), ("reset", reset), ("reset_state", reset_state)):
                if value is not None:
                    raise ValueError(f"{self._name}: {name} must be None with a PackedSequence")
            return self._forward_packed(input, hx, generator, return_cells)
        if input.dim() not in (2, 3):
            got = f"{input.dim()}D tensor" if self._name == "RNN" else f"{input.dim()}D"
            raise ValueError(f"{self._name}: Expected input to be 2D or 3D, got {got} instead")
        batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        if not batched and lengths is not None:
            raise ValueError(f"{self._name}: lengths must be None with an unbatched input")
        if reset is not None:
            check_shape(self._name, "reset", reset, input.shape[:-1])
        self._check_state_dims(hx, batched)
        if not batched:
            input = input.unsqueeze(batch_dim)
            hx = None if hx is None else tuple(h.unsqueeze(1) for h in hx)
            reset = None if reset is None else reset.unsqueeze(batch_dim)
        hx = self._zero_state(input, input.shape[batch_dim]) if hx is None else hx
        self._check_forward(input, hx, None)
        if reset_state is not None:
            self._check_reset_state(reset_state, hx, batched)
            reset_state = reset_state if batched else tuple(h.unsqueeze(1) for h in reset_state)
        if input.shape[1 - batch_dim] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if self.batch_first:
            input, reset = input.transpose(0, 1), None if reset is None else reset.t()
        output, state, cells = self._layers(input, hx, lengths, reset, reset_state, generator, return_cells)
        if self.batch_first:
            output, cells = output.transpose(0, 1), [c.transpose(0, 1) for c in cells]
        if not batched:
            output, state = output.squeeze(batch_dim), tuple(s.squeeze(1) for s in state)
            cells = [c.squeeze(batch_dim) for c in cells]
        return output, state, cells

    @property
    def _name(self) -> str:
        return "RNN" if self.mode.startswith("RNN") else self.mode

    def _check_state_dims(self, hx: State | None, batched: bool) -> None:
        wanted, kind = (3, "batched 3-D") if batched else (2, "unbatched 2-D")
        for h in hx or ():
            if h.dim() != wanted:
                raise RuntimeError(f"For {kind} input, hx should also be {wanted}-D but got {h.dim()}-D tensor")

    def _check_reset_state(self, reset_state: State, hx: State, batched: bool) -> None:
        if not isinstance(reset_state, (tuple, list)) or len(reset_state) != self._states:
            raise TypeError(f"{self._name}: reset_state must be a pair of Tensors")
        for r, h in zip(reset_state, hx, strict=True):
            check_shape(self._name, "reset_state", r, h.shape if batched else (h.shape[0], h.shape[2]))

    def _check_forward(self, input: Tensor, hx: State, batch_sizes: Tensor | None) -> None:
        self.check_forward_args(input, hx if self._states == 2 else hx[0], batch_sizes)  # type: ignore[arg-type]

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """torch's check, which looks at a list of the weights that is stale after torch.func.functional_call."""
        first = self._flat_weights[0]
        if first is None or input.dtype != first.dtype:
            self._update_flat_weights()
        super().check_input(input, batch_sizes)

    def _zero_state(self, input: Tensor, B: int) -> State:
        rows = self.num_layers * (2 if self.bidirectional else 1)
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        return tuple(input.new_zeros(rows, B, size) for size in sizes[: self._states])

    def _forward_packed(
        self, packed: PackedSequence, hx: State | None, generator: torch.Generator | None, return_cells: bool
    ) -> tuple[PackedSequence, State, list[Tensor]]:
        data, batch_sizes, sorted_indices, unsorted_indices = packed
        if hx is None:
            hx = self._zero_state(data, int(batch_sizes[0]))
        elif sorted_indices is not None:
            hx = tuple(h.index_select(1, sorted_indices) for h in hx)
        self._check_forward(data, hx, batch_sizes)
        padded, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        output, state, cells = self._layers(padded, hx, lengths, None, None, generator, return_cells, lengths)
        data = pack_padded_sequence(output, lengths).data
        if unsorted_indices is not None:
            state = tuple(s.index_select(1, unsorted_indices) for s in state)
            cells = [c.index_select(1, unsorted_indices) for c in cells]
        if self.batch_first:
            cells = [c.transpose(0, 1) for c in cells]
        return PackedSequence(data, batch_sizes, sorted_indices, unsorted_indices), state, cells

    def _layers(
        self,
        x: Tensor,
        hx: State,
        lengths: Tensor | Sequence[int] | None,
        reset: Tensor | None,
        reset_state: State | None,
        generator: torch.Generator | None,
        return_cells: bool,
        packed: Tensor | None = None,
    ) -> tuple[Tensor, State, list[Tensor]]:
        """x [T,B,I], hx [layers * directions, B, ...] each -> y [T,B,directions * H], the last state as hx.

        `packed`: of a packed sequence its lengths, in its order.
        """
        # A reset beyond an item's length is no longer one: moved by a step, it would be within.
        lengths, reset = check_sequence(self._name, x, lengths, reset, reset_state is not None)
        backward_reset = None
        if reset is not None and self.bidirectional:
            # An episode that begins at t is left between t and t - 1, on the way back.
            backward_reset = torch.cat((reset[1:], torch.zeros_like(reset[:1])))
        draws = (self.training, generator)
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        rates = list(zip(self._zoneouts(), sizes, strict=False))
        at_once = self._joins() and not takes_torch_path(x, x.dtype != torch.float64)
        last: list[State] = []
        cells: list[Tensor] = []
        for layer in range(self.num_layers):
            calls: list[_Call] = []
            for suffix in ("", "_reverse") if self.bidirectional else ("",):
                row = len(last) + len(calls)
                calls.append(
                    _Call(
                        state=tuple(h[row] for h in hx),
                        weights=self._weights(f"_l{layer}{suffix}"),
                        zoneout=[zoneout(p, (*x.shape[:2], size), x, *draws) for p, size in rates],
                        reset=backward_reset if suffix else reset,
                        reset_state=None if reset_state is None else tuple(h[row] for h in reset_state),
                        recurrent_mask=recurrent_mask(self.recurrent_dropout, (x.shape[1], sizes[0]), x, *draws),
                        reverse=bool(suffix),
                        heads=self.num_heads,
                    )
                )
            outputs = []
            for call in [_join(*calls)] if at_once else calls:
                state, weights, zoneout_, *rest = call
                options = dict(zip(_Call._fields[3:], rest, strict=True))
                y, state, c = self._run(x, state, weights, zoneout_, return_cells, lengths=lengths, **options)
                outputs.append(y)
                parts = 2 if at_once else 1
                last += zip(*(s.chunk(parts, -1) for s in state), strict=True)
                cells += [] if c is None else c.chunk(parts, -1)
            x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
            if layer < self.num_layers - 1:
                x = self._drop(x, packed, generator)
        return x, tuple(torch.stack(s) for s in zip(*last, strict=True)), cells

    def _joins(self) -> bool:
        """Whether the kernels walk both directions at once."""
        return self.bidirectional and not self.proj_size

    def _weights(self, which: str) -> list[Tensor]:
        """Of one layer in one direction, in the order in which `_run` takes them."""
        names = [n for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if self.bias or n[0] == "w"]
        names += ["weight_hr"] if self.proj_size else []
        return [getattr(self, name + which) for name in names]

    def _drop(self, x: Tensor, packed: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Dropout with torch's draws, which for a packed sequence are for the steps that it has."""
        if packed is None or not self.training or not self.dropout:
            return drop(x, self.dropout, self.training, generator)
        data, batch_sizes, *_ = pack_padded_sequence(x, packed)
        data = drop(data, self.dropout, True, generator)
        return pad_packed_sequence(PackedSequence(data, batch_sizes))[0]
