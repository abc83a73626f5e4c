"""What the tests of the recurrent modules share: each class beside torch's, states, and all results of a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import helpers
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqops import nn

__all__ = [
    "CELLS",
    "LAYERS",
    "H",
    "I",
    "Kind",
    "assert_same",
    "close",
    "cpu_path",
    "every_cell",
    "every_kind",
    "every_layer",
    "flat",
    "leaf",
    "randn",
    "results",
    "state_of",
    "weighted_sum",
]

I, H = 3, 5


@dataclass(frozen=True)
class Kind:
    """A class of torch.nn, of the same name here, with keyword arguments of its own."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def ours(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        return getattr(nn, self.name)(I, H, *args, **self.options, **kwargs)

    def theirs(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        return getattr(torch.nn, self.name)(I, H, *args, **self.options, **kwargs)

    def pair(self, *args: Any, **kwargs: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Ours and torch's with the same parameters."""
        torch.manual_seed(0)
        theirs, ours = self.theirs(*args, **kwargs), self.ours(*args, **kwargs)
        ours.load_state_dict(theirs.state_dict())
        return ours, theirs


LAYERS = {
    "RNN": Kind("RNN"),
    "RNN relu": Kind("RNN", {"nonlinearity": "relu"}),
    "GRU": Kind("GRU"),
    "LSTM": Kind("LSTM"),
    "LSTM projected": Kind("LSTM", {"proj_size": 2}),
}
CELLS = {
    "RNNCell": Kind("RNNCell"),
    "RNNCell relu": Kind("RNNCell", {"nonlinearity": "relu"}),
    "GRUCell": Kind("GRUCell"),
    "LSTMCell": Kind("LSTMCell"),
}
every_layer = pytest.mark.parametrize("kind", LAYERS.values(), ids=LAYERS)
every_cell = pytest.mark.parametrize("kind", CELLS.values(), ids=CELLS)
every_kind = pytest.mark.parametrize("kind", (LAYERS | CELLS).values(), ids=LAYERS | CELLS)
cpu_path = pytest.mark.usefixtures("cpu_path")


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return helpers.randn(*shape, seed=seed).to(dtype)


def state_of(module: torch.nn.Module, *B: int, seed: int = 2, dtype: torch.dtype = torch.float32) -> Any:
    """A random hx; without B one for an unbatched input."""
    if isinstance(module, torch.nn.RNNCellBase):
        shapes: list[tuple[int, ...]] = [(*B, H)] * (1 + isinstance(module, (nn.LSTMCell, torch.nn.LSTMCell)))
    else:
        rows = module.num_layers * (1 + module.bidirectional)
        shapes = [(rows, *B, module.proj_size or H), (rows, *B, H)][: 1 + (module.mode == "LSTM")]
    states = tuple(randn(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes))
    return states if len(states) == 2 else states[0]


def flat(value: Any) -> list[Tensor]:
    """The tensors of an output or a state, in order."""
    if value is None:
        return []
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, Tensor) else [t for v in value for t in flat(v)]


def leaf(value: Any) -> Any:
    """The same values, whose gradients are found apart from any other."""
    if value is None:
        return None
    if isinstance(value, PackedSequence):
        return PackedSequence(leaf(value.data), *value[1:])
    return value.detach().clone().requires_grad_() if isinstance(value, Tensor) else tuple(leaf(v) for v in value)


def weighted_sum(*tensors: Tensor) -> Tensor:
    """A functional that tells the elements of its arguments apart."""
    return torch.stack([(t * torch.arange(t.numel()).cos().view_as(t)).sum() for t in tensors]).sum()


def results(
    module: torch.nn.Module,
    input: Any,
    hx: Any = None,
    reset_state: Any = None,
    call: Callable[..., Any] | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """All outputs, and all gradients of one functional of them; `call` stands for the module's own forward."""
    module.zero_grad()
    input, hx, reset_state = leaf(input), leaf(hx), leaf(reset_state)
    if reset_state is not None:
        options["reset_state"] = reset_state
    outputs = flat((module if call is None else call)(input, hx, **options))
    weighted_sum(*outputs).backward()
    leaves = {"input": input, "hx": hx, "reset_state": reset_state, **dict(module.named_parameters())}
    found = {f"output {i}": o.detach() for i, o in enumerate(outputs)}
    for name, value in leaves.items():
        for i, t in enumerate(flat(value)):
            found[f"gradient of {name} {i}"] = torch.zeros_like(t) if t.grad is None else t.grad.clone()
    return found


def close(ours: Tensor, theirs: Tensor, name: str = "") -> None:
    tight = theirs.dtype == torch.float64
    rtol, atol = (1e-9, 1e-10) if tight else (1e-4, 2e-6)
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}")


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        close(ours[name], expected, name)
