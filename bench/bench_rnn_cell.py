"""One step of the RNN against torch.nn.RNNCell, the composition, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seqops import functional, reference
from seqops.bench.cells import cell_bench


def theirs(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    return torch.rnn_tanh_cell(x, h, w_ih, w_hh, b_ih, b_hh)


BENCH = cell_bench("rnn_cell", 1, functional.rnn_cell, theirs, reference.rnn_cell)


def test_rnn_cell(timed: Callable[[], None]) -> None:
    timed()
