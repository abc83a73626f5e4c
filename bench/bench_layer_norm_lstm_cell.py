"""One step of the layer-normalised LSTM against the composition, and torch.compile of it."""

from __future__ import annotations

from collections.abc import Callable

from seqops import functional, reference
from seqops.bench.bench_lstm_cell import flat
from seqops.bench.cells import cell_bench

BENCH = cell_bench(
    "layer_norm_lstm_cell",
    4,
    flat(functional.layer_norm_lstm_cell),
    None,
    flat(reference.layer_norm_lstm_cell),
    ("h", "c"),
    gains=("gamma_ih", "gamma_hh"),
)


def test_layer_norm_lstm_cell(timed: Callable[[], None]) -> None:
    timed()
