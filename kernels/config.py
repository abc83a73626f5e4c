"""Launch configurations: one table an op, rows for what was tuned, a default that is safe everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["GRU_BWD", "GRU_FWD", "RecurrentConfig", "recurrent"]


@dataclass(frozen=True)
class RecurrentConfig:
    """A recurrent sequence kernel's tile: block_b batch rows x block_h hidden units, products in steps of block_k.

    `resident`: the program keeps its slice of the weights on the chip through all time steps.
    """

    block_b: int
    block_h: int
    block_k: int
    num_warps: int
    resident: bool = True


@dataclass(frozen=True)
class RecurrentRow:
    """Serves hidden sizes up to max_h at this many bytes an element."""

    itemsize: int
    max_h: int
    config: RecurrentConfig


# Chosen from the compile matrix (no spills; shared memory below the sm_90 limit), not yet from measurements.
GRU_FWD = (
    RecurrentRow(2, 256, RecurrentConfig(16, 16, 64, 4)),
    RecurrentRow(2, 768, RecurrentConfig(16, 16, 128, 4)),
    RecurrentRow(2, 1024, RecurrentConfig(32, 16, 128, 4)),
    RecurrentRow(2, 2048, RecurrentConfig(32, 16, 128, 8)),
    RecurrentRow(4, 256, RecurrentConfig(16, 8, 32, 4)),
    RecurrentRow(4, 1024, RecurrentConfig(32, 8, 64, 4)),
)
GRU_BWD = GRU_FWD

# No weights are kept: any hidden size fits.
STREAMING = RecurrentConfig(16, 16, 32, 4, resident=False)


def recurrent(table: tuple[RecurrentRow, ...], dtype: torch.dtype, hidden_size: int) -> RecurrentConfig:
    """The first row that is large enough, else the streaming default."""
    for row in table:
        if row.itemsize == dtype.itemsize and hidden_size <= row.max_h:
            return row.config
    return STREAMING
