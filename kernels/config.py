"""Launch configurations: one table an op, rows for what was tuned, a default that is safe everywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

__all__ = [
    "ADDITIVE_ATTENTION_BWD",
    "ADDITIVE_ATTENTION_FWD",
    "ADDITIVE_ATTENTION_SOFTMAX",
    "ALIAS_DRAW",
    "BEAM_TOPK",
    "CHO_BWD",
    "CHO_FWD",
    "FORMS",
    "GRU_BWD",
    "GRU_FACTORS",
    "GRU_FWD",
    "LARGE",
    "LAYER_NORM",
    "LINEAR_CROSS_ENTROPY",
    "LSTM_BWD",
    "LSTM_FACTORS",
    "LSTM_FWD",
    "PROJECTED_BWD",
    "PROJECTED_FWD",
    "REGULAR",
    "RNN_BWD",
    "RNN_FWD",
    "ROWS",
    "ROW_SCATTER",
    "ROW_UPDATE",
    "AttentionConfig",
    "BeamTopKConfig",
    "DrawConfig",
    "ElementwiseConfig",
    "FormLimits",
    "LinearCrossEntropyConfig",
    "RecurrentConfig",
    "RowUpdateConfig",
    "attention",
    "form",
    "layer_norm",
    "recurrent",
    "rows",
]


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

    def alone(self, units: int) -> bool:
        """Whether one program has all units, as one chunk of its products, and exchanges nothing with others."""
        return self.resident and units <= self.block_h == self.block_k


@dataclass(frozen=True)
class RecurrentRow:
    """Serves hidden sizes up to max_h at this many bytes an element."""

    itemsize: int
    max_h: int
    config: RecurrentConfig


@dataclass(frozen=True)
class ElementwiseConfig:
    """An elementwise kernel's tile: block_n rows x block_h columns at most."""

    block_n: int
    block_h: int
    num_warps: int


# Chosen from the compile matrix (no spills, shared memory), not yet from measurements. Where one program can keep all
# weights, it walks alone: block_h == block_k.
GRU_FWD = (
    RecurrentRow(2, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(2, 64, RecurrentConfig(16, 64, 64, 4)),
    RecurrentRow(2, 128, RecurrentConfig(16, 128, 128, 8)),
    RecurrentRow(2, 256, RecurrentConfig(16, 16, 64, 4)),
    RecurrentRow(2, 768, RecurrentConfig(16, 16, 128, 4)),
    RecurrentRow(2, 1024, RecurrentConfig(32, 16, 64, 4)),
    RecurrentRow(2, 2048, RecurrentConfig(16, 16, 64, 8)),
    RecurrentRow(4, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(4, 64, RecurrentConfig(16, 64, 64, 8)),
    RecurrentRow(4, 256, RecurrentConfig(16, 8, 32, 4)),
    RecurrentRow(4, 1024, RecurrentConfig(32, 8, 64, 8)),
)
GRU_BWD = (
    RecurrentRow(2, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(2, 64, RecurrentConfig(16, 64, 64, 4)),
    RecurrentRow(2, 128, RecurrentConfig(16, 128, 128, 8)),
    RecurrentRow(2, 256, RecurrentConfig(32, 16, 64, 4)),
    RecurrentRow(2, 768, RecurrentConfig(32, 16, 64, 4)),
    RecurrentRow(2, 2048, RecurrentConfig(32, 16, 64, 8)),
    RecurrentRow(4, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(4, 64, RecurrentConfig(16, 64, 64, 4)),
    RecurrentRow(4, 256, RecurrentConfig(16, 16, 32, 4)),
    RecurrentRow(4, 1024, RecurrentConfig(16, 8, 64, 4)),
)
CHO_FWD = (
    RecurrentRow(2, 256, RecurrentConfig(16, 16, 64, 4)),
    RecurrentRow(2, 1024, RecurrentConfig(32, 16, 128, 4)),
    RecurrentRow(2, 2048, RecurrentConfig(16, 16, 64, 8)),
    RecurrentRow(4, 1024, RecurrentConfig(16, 8, 64, 4)),
)
CHO_BWD = (
    RecurrentRow(2, 256, RecurrentConfig(16, 16, 64, 4)),
    RecurrentRow(2, 1024, RecurrentConfig(32, 16, 128, 4)),
    RecurrentRow(2, 2048, RecurrentConfig(32, 16, 64, 8)),
    RecurrentRow(4, 256, RecurrentConfig(16, 8, 64, 4)),
    RecurrentRow(4, 1024, RecurrentConfig(16, 8, 64, 8)),
)
LSTM_FWD = (
    RecurrentRow(2, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(2, 64, RecurrentConfig(16, 64, 64, 4)),
    RecurrentRow(2, 128, RecurrentConfig(16, 128, 128, 8)),
    RecurrentRow(2, 768, RecurrentConfig(16, 16, 64, 8)),
    RecurrentRow(2, 1024, RecurrentConfig(16, 16, 128, 4)),
    RecurrentRow(4, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(4, 64, RecurrentConfig(16, 64, 64, 8)),
    RecurrentRow(4, 256, RecurrentConfig(16, 8, 32, 4)),
    RecurrentRow(4, 1024, RecurrentConfig(16, 8, 64, 4)),
)
LSTM_BWD = (
    RecurrentRow(2, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(2, 64, RecurrentConfig(16, 64, 64, 8)),
    RecurrentRow(2, 128, RecurrentConfig(16, 128, 128, 8)),
    RecurrentRow(2, 256, RecurrentConfig(16, 16, 64, 4)),
    RecurrentRow(2, 768, RecurrentConfig(16, 16, 128, 4)),
    RecurrentRow(2, 1024, RecurrentConfig(32, 16, 128, 8)),
    RecurrentRow(4, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(4, 64, RecurrentConfig(16, 64, 64, 8)),
    RecurrentRow(4, 256, RecurrentConfig(16, 8, 64, 4)),
    RecurrentRow(4, 1024, RecurrentConfig(32, 8, 64, 8)),
)
# In fp32 no tile of the backward keeps its weights and spills nothing.
PROJECTED_FWD = (
    RecurrentRow(2, 1024, RecurrentConfig(16, 16, 64, 4)),
    RecurrentRow(4, 256, RecurrentConfig(16, 8, 64, 4)),
    RecurrentRow(4, 1024, RecurrentConfig(32, 8, 32, 4)),
)
PROJECTED_BWD = (
    RecurrentRow(2, 256, RecurrentConfig(16, 16, 64, 4)),
    RecurrentRow(2, 1024, RecurrentConfig(32, 16, 128, 4)),
)
RNN_FWD = (
    RecurrentRow(2, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(2, 64, RecurrentConfig(16, 64, 64, 4)),
    RecurrentRow(2, 128, RecurrentConfig(16, 128, 128, 8)),
    RecurrentRow(2, 256, RecurrentConfig(16, 256, 256, 16)),
    RecurrentRow(2, 768, RecurrentConfig(16, 32, 64, 4)),
    RecurrentRow(2, 2048, RecurrentConfig(32, 16, 128, 4)),
    RecurrentRow(4, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(4, 64, RecurrentConfig(16, 64, 64, 8)),
    RecurrentRow(4, 256, RecurrentConfig(16, 16, 32, 4)),
    RecurrentRow(4, 2048, RecurrentConfig(16, 16, 64, 4)),
)
RNN_BWD = (
    RecurrentRow(2, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(2, 64, RecurrentConfig(16, 64, 64, 4)),
    RecurrentRow(2, 128, RecurrentConfig(16, 128, 128, 8)),
    RecurrentRow(2, 256, RecurrentConfig(16, 256, 256, 8)),
    RecurrentRow(2, 768, RecurrentConfig(16, 32, 64, 4)),
    RecurrentRow(2, 2048, RecurrentConfig(32, 16, 128, 4)),
    RecurrentRow(4, 32, RecurrentConfig(16, 32, 32, 4)),
    RecurrentRow(4, 64, RecurrentConfig(16, 64, 64, 8)),
    RecurrentRow(4, 128, RecurrentConfig(16, 128, 128, 8)),
    RecurrentRow(4, 256, RecurrentConfig(16, 16, 32, 4)),
    RecurrentRow(4, 2048, RecurrentConfig(16, 16, 64, 4)),
)
# The rows of T*B and the hidden units that a program turns into factors for the backward.
GRU_FACTORS = ElementwiseConfig(4, 128, 4)
LSTM_FACTORS = ElementwiseConfig(4, 128, 4)
# The batch rows and hidden units of a program of a step beside a library's product.
LARGE = ElementwiseConfig(4, 128, 4)
# The units of batch rows, all of which a program of a layer-normalised step holds: at least block_n * block_h of them.
LAYER_NORM = ElementwiseConfig(4, 256, 4)
# Reads the weights anew in each launch: any hidden size, any chip.
STREAMING = {
    2: RecurrentConfig(32, 16, 32, 4, resident=False),
    4: RecurrentConfig(16, 16, 16, 4, resident=False),
}
# With a recurrent mask or zoneout: with weights kept too, registers do not suffice for programs that wait for others.
REGULAR = {
    2: RecurrentConfig(16, 32, 32, 4, resident=False),
    4: RecurrentConfig(16, 16, 16, 4, resident=False),
}


def recurrent(
    table: tuple[RecurrentRow, ...],
    dtype: torch.dtype,
    hidden_size: int,
    depths: tuple[int, ...],
    memory: int,
    multiprocessors: int,
    heads: int = 1,
) -> RecurrentConfig:
    """The first row that is large enough and whose weights fit in `memory` bytes on chip, else STREAMING.

    `hidden_size`: of each head. A program's weights are block_h columns of each of these depths, one a gate.
    The programs that share a batch row wait for one another: all must run at once, one a multiprocessor. Those of its
    heads do not, but a launch is whole rows.
    """
    for row in table:
        cfg = row.config
        # Beside the weights a tile of the hidden state passes through shared memory.
        columns = cfg.block_h * sum(-(-depth // cfg.block_k) for depth in depths) + 2 * cfg.block_b
        if row.itemsize == dtype.itemsize and hidden_size <= row.max_h:
            fits = columns * cfg.block_k * row.itemsize <= memory
            if fits and (cfg.alone(hidden_size) or heads * -(-hidden_size // cfg.block_h) <= multiprocessors):
                return cfg
    return STREAMING[dtype.itemsize]


def layer_norm(hidden_size: int) -> ElementwiseConfig:
    """All units, with more rows where they are few, and more warps where they are many."""
    block_h = max(16, 1 << (hidden_size - 1).bit_length())
    cells = LAYER_NORM.block_n * LAYER_NORM.block_h
    block_n = max(1, cells // block_h)
    return ElementwiseConfig(block_n, block_h, min(16, LAYER_NORM.num_warps * max(1, block_h // cells)))


@dataclass(frozen=True)
class FormLimits:
    """The most operations of a step for a form: `resident` keeps its weights on the chip, `streaming` reads them anew.

    A step's product has 2 * batch * gates * heads * hidden_size^2, of each head. What is above is `large`.
    """

    resident: int
    streaming: int


# By the bytes of an element. Not yet from measurements: from what a library's product takes, some 600 Tflop/s in 16
# bits and 60 in fp32 on an H100, where its launch and the one of the elementwise kernel beside it cost a few
# microseconds a step. Above `resident` the product itself is longer than that, and the rows are too many for the chip
# to hold at once, so that a persistent walk would be several, one after the other. Above `streaming` it is a tenth of
# that: a tile of our own, which fetches the weights for 16 or 32 rows, would take longer than both launches.
FORMS = {
    2: FormLimits(resident=5_000_000_000, streaming=500_000_000),
    4: FormLimits(resident=500_000_000, streaming=50_000_000),
}


def form(tile: RecurrentConfig, dtype: torch.dtype, gates: int, hidden_size: int, batch: int, heads: int = 1) -> str:
    """Which form walks a sequence for which `recurrent` has this tile: "alone", "resident", "streaming" or "large".

    `hidden_size`: of each head. A program alone has no limit: it waits for none, and more rows are more programs.
    """
    if tile.alone(hidden_size):
        return "alone"
    limits = FORMS[dtype.itemsize]
    own, limit = ("resident", limits.resident) if tile.resident else ("streaming", limits.streaming)
    return "large" if 2 * batch * gates * heads * hidden_size**2 > limit else own


@dataclass(frozen=True)
class AttentionConfig:
    """An additive attention kernel's tile: block_q queries x block_t positions x block_d features."""

    block_q: int
    block_t: int
    block_d: int
    num_warps: int


# Chosen from the compile matrix, not yet from measurements.
ADDITIVE_ATTENTION_FWD = AttentionConfig(4, 16, 32, 4)
ADDITIVE_ATTENTION_BWD = AttentionConfig(4, 8, 32, 4)
# Has no features: rows of scores.
ADDITIVE_ATTENTION_SOFTMAX = AttentionConfig(4, 256, 1, 4)


def attention(default: AttentionConfig, queries: int, features: int) -> AttentionConfig:
    """The default, cut to the queries and features that there are; positions take the place of missing queries."""
    block_q, block_t, block_d = default.block_q, default.block_t, default.block_d
    while block_q // 2 >= max(1, queries):
        block_q, block_t = block_q // 2, block_t * 2
    while block_d // 2 >= max(1, features):
        block_d //= 2
    return replace(default, block_q=block_q, block_t=block_t, block_d=block_d)


@dataclass(frozen=True)
class BeamTopKConfig:
    """A program of the first kernel reads `chunks` chunks of `chunk` logits at once, one of backward block_v.

    The selecting kernel ranks 2^log_candidates at once, in registers.
    """

    chunk: int
    chunks: int
    num_warps: int
    select_warps: int
    log_candidates: int
    block_v: int


# Chosen from the compile matrix, not yet from measurements.
BEAM_TOPK = BeamTopKConfig(chunk=128, chunks=32, num_warps=4, select_warps=8, log_candidates=11, block_v=2048)


@dataclass(frozen=True)
class LinearCrossEntropyConfig:
    """A program walks a row of logits, block_v at once; `logits` of them are in memory at a time."""

    block_v: int
    num_warps: int
    logits: int


# Chosen from the compile matrix, not yet from measurements. Each chunk reads and writes the weights' gradient: rows
# enough that this is little beside their products.
LINEAR_CROSS_ENTROPY = LinearCrossEntropyConfig(block_v=4096, num_warps=16, logits=2**26)


@dataclass(frozen=True)
class DrawConfig:
    """A program draws block_n classes."""

    block_n: int
    num_warps: int


# Chosen from the compile matrix, not yet from measurements.
ALIAS_DRAW = DrawConfig(512, 4)


@dataclass(frozen=True)
class RowUpdateConfig:
    """A program holds one row."""

    num_warps: int


@dataclass(frozen=True)
class RowsConfig:
    """A program owns block_b items, each with rows of its own, and reads block_d features at once."""

    block_b: int
    block_d: int
    num_warps: int


@dataclass(frozen=True)
class RowScatterConfig:
    """A program sums `places` places at which a row stands, block_d features of each, and block_t shares at once."""

    places: int
    block_d: int
    block_t: int
    num_warps: int


# Chosen from the compile matrix, not yet from measurements.
ROW_UPDATE = RowUpdateConfig(4)
ROWS = RowsConfig(16, 128, 4)
ROW_SCATTER = RowScatterConfig(32, 128, 16, 1)


def rows(features: int) -> RowsConfig:
    """The default, with more items where there are few features."""
    block_b, block_d = ROWS.block_b, ROWS.block_d
    while block_d // 2 >= max(16, features):
        block_b, block_d = block_b * 2, block_d // 2
    return replace(ROWS, block_b=block_b, block_d=block_d)
