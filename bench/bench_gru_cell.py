"""One step of the GRU against torch.nn.GRUCell, the composition, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seqops import functional, reference
from seqops.bench.cells import cell_bench


def theirs(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    return torch.gru_cell(x, h, w_ih, w_hh, b_ih, b_hh)


BENCH = cell_bench("gru_cell", 3, functional.gru_cell, theirs, reference.gru_cell)


def test_gru_cell(timed: Callable[[], None]) -> None:
    timed()
