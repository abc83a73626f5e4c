"""The layer-normalised LSTM in haste's form against its cell in a Python loop, and torch.compile of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from seqops import functional, reference
from seqops.bench import recurrent
from seqops.bench.bench_lstm import flat
from seqops.bench.harness import Bench, Inputs, Problem, from_function

CELL: Any = reference.layer_norm_lstm_cell


def inputs(p: Problem) -> Inputs:
    """Gains of 1 would let 100 steps magnify a rounding beyond what can be compared."""
    drawn = recurrent.inputs(p, gates=4, states=("h0", "c0"))
    return drawn | {name: torch.full_like(drawn["b_hh"], 0.5) for name in ("gamma_ih", "gamma_hh")}


BENCH = Bench(
    op="layer_norm_lstm",
    family="recurrent",
    cpu=[recurrent.problem(64, 16, 512, quick=True), recurrent.problem(100, 32, 128), recurrent.problem(64, 1, 512)],
    gpu=[
        recurrent.problem(512, 16, 512, dtype, training, quick=dtype == "bfloat16")
        for dtype in ("bfloat16", "float32")
        for training in (False, True)
    ],
    inputs=inputs,
    reference=from_function(flat(reference.layer_norm_lstm)),
    providers={
        "seqops": from_function(flat(functional.layer_norm_lstm)),
        "eager loop": from_function(recurrent.loop(CELL, 2)),
        "compiled cell": recurrent.compiled_cell(CELL, 2),
    },
    work=functools.partial(recurrent.work, gates=4, tanh=3, exp=3, vectors=4),
)


def test_layer_norm_lstm(timed: Callable[[], None]) -> None:
    timed()
