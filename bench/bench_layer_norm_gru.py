"""The layer-normalised GRU in Dreamer's form against its cell in a Python loop, and torch.compile of it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from seqops import functional, reference
from seqops.bench import recurrent
from seqops.bench.harness import Bench, Inputs, Problem, from_function


def inputs(p: Problem) -> Inputs:
    """As of a GRU, without a bias before the normalisation."""
    drawn = recurrent.inputs(p, gates=3)
    del drawn["b_ih"]
    return drawn | {"gamma_hh": torch.ones_like(drawn["b_hh"])}


def cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_hh: Tensor, gamma_hh: Tensor) -> Tensor:
    return reference.layer_norm_gru_cell(x, h, w_ih, w_hh, None, b_hh, None, gamma_hh, joint=True)


BENCH = Bench(
    op="layer_norm_gru",
    family="recurrent",
    cpu=[recurrent.problem(64, 16, 512, quick=True), recurrent.problem(100, 32, 128), recurrent.problem(64, 1, 512)],
    gpu=[
        recurrent.problem(512, 16, 512, dtype, training, quick=dtype == "bfloat16")
        for dtype in ("bfloat16", "float32")
        for training in (False, True)
    ],
    inputs=inputs,
    reference=from_function(recurrent.loop(cell)),
    providers={
        "seqops": from_function(functional.layer_norm_gru, joint=True),
        "eager loop": from_function(recurrent.loop(cell)),
        "compiled cell": recurrent.compiled_cell(cell),
    },
    work=functools.partial(recurrent.work, gates=3, tanh=1, exp=2),
)


def test_layer_norm_gru(timed: Callable[[], None]) -> None:
    timed()
