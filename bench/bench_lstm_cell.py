"""One step of the LSTM against torch.nn.LSTMCell, the composition, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqops import functional, reference
from seqops.bench.cells import cell_bench


def flat(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, h, c, *args, **weights: fn(x, (h, c), *args, **weights)


def theirs(
    x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.lstm_cell(x, (h, c), w_ih, w_hh, b_ih, b_hh)


BENCH = cell_bench("lstm_cell", 4, flat(functional.lstm_cell), theirs, flat(reference.lstm_cell), ("h", "c"))


def test_lstm_cell(timed: Callable[[], None]) -> None:
    timed()
