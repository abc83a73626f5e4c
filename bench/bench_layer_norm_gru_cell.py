"""One step of the layer-normalised GRU against the composition, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

from seqops import functional, reference
from seqops.bench.cells import cell_bench

BENCH = cell_bench(
    "layer_norm_gru_cell",
    3,
    functional.layer_norm_gru_cell,
    None,
    reference.layer_norm_gru_cell,
    gains=("gamma_ih", "gamma_hh"),
)


def test_layer_norm_gru_cell(timed: Callable[[], None]) -> None:
    timed()
