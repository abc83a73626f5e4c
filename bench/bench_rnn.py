"""The RNN over a sequence against torch.nn (cuDNN on a GPU), a Python loop, and torch.compile of it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from seqops import functional, reference
from seqops.bench import recurrent
from seqops.bench.harness import Bench, from_function

BENCH = Bench(
    op="rnn",
    family="recurrent",
    cpu=recurrent.CPU,
    gpu=recurrent.GPU,
    inputs=functools.partial(recurrent.inputs, gates=1),
    reference=from_function(reference.rnn),
    providers={
        "seqops": from_function(functional.rnn),
        "torch.nn": recurrent.torch_nn(torch.nn.RNN),
        "eager loop": from_function(recurrent.loop(reference.rnn_cell)),
        "compiled cell": recurrent.compiled_cell(reference.rnn_cell),
    },
    work=functools.partial(recurrent.work, gates=1, tanh=1, exp=0),
)


def test_rnn(timed: Callable[[], None]) -> None:
    timed()
