"""The LSTM over a sequence against torch.nn (cuDNN on a GPU), a Python loop, and torch.compile of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqops import functional, reference
from seqops.bench import recurrent
from seqops.bench.harness import Bench, from_function


def flat(fn: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    def call(x: Tensor, h0: Tensor, c0: Tensor, **weights: Tensor) -> tuple[Tensor, ...]:
        y, (h_n, c_n) = fn(x, (h0, c0), **weights)
        return y, h_n, c_n

    return call


BENCH = Bench(
    op="lstm",
    family="recurrent",
    cpu=recurrent.CPU,
    gpu=recurrent.GPU,
    inputs=functools.partial(recurrent.inputs, gates=4, states=("h0", "c0")),
    reference=from_function(flat(reference.lstm)),
    providers={
        "seqops": from_function(flat(functional.lstm)),
        "torch.nn": recurrent.torch_nn(torch.nn.LSTM, 2),
        "eager loop": from_function(recurrent.loop(reference.lstm_cell, 2)),
        "compiled cell": recurrent.compiled_cell(reference.lstm_cell, 2),
    },
    work=functools.partial(recurrent.work, gates=4, tanh=2, exp=3),
)


def test_lstm(timed: Callable[[], None]) -> None:
    timed()
