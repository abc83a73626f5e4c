"""The rows of kernels/config.py, with the problems that they serve, and what may take their place."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from seqops.bench import (
    bench_additive_attention,
    bench_beam_topk,
    bench_gru,
    bench_layer_norm_gru,
    bench_lstm,
    bench_rnn,
    recurrent,
)
from seqops.bench.harness import Problem
from seqops.kernels import config

__all__ = [
    "BENCHES",
    "CHIPS",
    "KERNELS",
    "LIMITS",
    "Candidate",
    "Chip",
    "Config",
    "Slot",
    "candidates",
    "slots",
    "stepwise_on",
]

TUNED = (bench_rnn, bench_gru, bench_lstm, bench_layer_norm_gru, bench_additive_attention, bench_beam_topk)
BENCHES = {b.BENCH.op: b.BENCH for b in TUNED}
# The recurrent ops, and how many gates each has.
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
# The kernels that read a table, in forward and in backward.
KERNELS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **{f"{op.upper()}_FWD": (("recurrent_fwd_kernel",), ()) for op in GATES},
    **{f"{op.upper()}_BWD": ((), ("recurrent_bwd_kernel",)) for op in GATES},
    "GRU_FACTORS": ((), ("gru_factors_kernel",)),
    "LSTM_FACTORS": ((), ("lstm_factors_kernel",)),
    "STREAMING": (("recurrent_fwd_kernel",), ("recurrent_bwd_kernel",)),
    "LARGE": (("large_fwd_kernel",), ("large_bwd_kernel",)),
    "LAYER_NORM": (("layer_norm_gru_fwd_kernel",), ("layer_norm_gru_bwd_kernel",)),
    "FORMS": (("recurrent_fwd_kernel", "large_fwd_kernel"), ("recurrent_bwd_kernel", "large_bwd_kernel")),
    "ADDITIVE_ATTENTION_FWD": (("additive_attention_scores_kernel",), ()),
    "ADDITIVE_ATTENTION_BWD": ((), ("additive_attention_dquery_kernel", "additive_attention_dkeys_kernel")),
    "ADDITIVE_ATTENTION_SOFTMAX": (("additive_attention_softmax_kernel",), ()),
    "BEAM_TOPK": (("beam_topk_chunks_kernel", "beam_topk_select_kernel"), ("beam_topk_bwd_kernel",)),
}
# Where a row is of one form of a walk: from how many operations of a step on the large one is to serve.
LIMITS = {"STREAMING": sys.maxsize, "LARGE": -1} | {
    f"{op.upper()}_{which}": sys.maxsize for op in GATES for which in ("FWD", "BWD")
}
# What a kernel with resident weights may have unrolled, else it compiles for minutes: matrix products, and in fp32,
# where there is no matrix unit, multiplications of a thread.
UNROLLED, UNROLLED_FP32 = 96, 6144
# Shared memory that every GPU has: for the tables that must be safe everywhere.
SAFE_MEMORY = 65536

Config = Any  # one of the dataclasses of kernels.config


@dataclass(frozen=True)
class Chip:
    """What decides where weights can stay on the chip: bytes of shared memory a program, and multiprocessors."""

    memory: int
    multiprocessors: int


CHIPS = {"A100": Chip(166912, 108), "RTX 3090": Chip(101376, 82), "H100": Chip(232448, 132), "B200": Chip(232448, 148)}


@dataclass(frozen=True)
class Slot:
    """A row of kernels.config: in `table`, at `key` where that is a tuple or a dict; `problems` are what it serves."""

    op: str
    table: str
    key: int | None
    bucket: str
    present: Config
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        return f"{self.table}, {self.bucket}" if self.bucket else self.table

    def kernels(self, problem: Problem) -> tuple[str, ...]:
        return KERNELS[self.table][problem.training]


@dataclass(frozen=True)
class Candidate:
    slot: Slot
    config: Config

    @property
    def is_present(self) -> bool:
        return bool(self.config == self.slot.present)


# Slots: what there is to tune.


def powers(low: int, high: int) -> list[int]:
    """The powers of two from low to high."""
    return [2**i for i in range(low.bit_length() - 1, high.bit_length())]


def dtype_of(problem: Problem) -> torch.dtype:
    dtype = getattr(torch, problem.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def picked(table: tuple[config.RecurrentRow, ...], op: str, problem: Problem, chip: Chip) -> config.RecurrentConfig:
    """The config with which the recurrent ops' launcher walks the problem on the chip."""
    memory = 0 if problem.size["T"] == 1 else chip.memory  # as it says
    H = problem.size["H"]
    return config.recurrent(table, dtype_of(problem), H, (H,) * GATES[op], memory, chip.multiprocessors)


def recurrent_slots(chip: Chip) -> Iterator[Slot]:
    """Each row with the benchmark's problems that it serves, or where there are none one of its largest hidden size;
    STREAMING with what is too large for the GRU's rows.
    """
    for op in GATES:
        problems = in_order(BENCHES[op].gpu)
        for table in (f"{op.upper()}_FWD", f"{op.upper()}_BWD"):
            rows, own = getattr(config, table), [p for p in problems if KERNELS[table][p.training]]
            for i, row in enumerate(rows):
                dtype = {2: "bfloat16", 4: "float32"}[row.itemsize]
                largest = on_gpu(recurrent.problem(512, 16, row.max_h, dtype, training=table.endswith("BWD")))
                served = tuple(p for p in own if picked(rows, op, p, chip) is row.config)
                if not served and picked(rows, op, largest, chip) is row.config:
                    served = (largest,)
                yield Slot(op, table, i, f"itemsize={row.itemsize} H<={row.max_h}", row.config, served)
        quick = tuple(p for p in problems if p.quick and p.training)
        if f"{op.upper()}_FACTORS" in KERNELS:
            factors = f"{op.upper()}_FACTORS"
            yield Slot(op, factors, None, "", getattr(config, factors), quick)
    for itemsize, dtype, large in ((2, "bfloat16", 4096), (4, "float32", 2048)):
        # All steps are alike, so few are enough; one step is a decoder's.
        shapes = ((1, 1024, False), (32, large, False), (32, large, True))
        own = [on_gpu(recurrent.problem(T, 64, H, dtype, training)) for T, H, training in shapes]
        present, rows = config.STREAMING[itemsize], (config.GRU_FWD, config.GRU_BWD)
        served = tuple(p for p in own if picked(rows[p.training], "gru", p, chip) is present)
        yield Slot("gru", "STREAMING", itemsize, f"itemsize={itemsize}", present, served)


def form_slots() -> Iterator[Slot]:
    """FORMS with steps on both sides of its limits, small and large ones; LARGE with large steps."""
    for itemsize, dtype, batches, large in (
        (2, "bfloat16", (128, 512, 1024), 4096),
        (4, "float32", (32, 128, 512), 2048),
    ):
        shapes = [(B, 1024) for B in batches] + [(B, large) for B in (1, 8, 64)]
        problems = tuple(
            on_gpu(recurrent.problem(32, B, H, dtype, training)) for B, H in shapes for training in (False, True)
        )
        yield Slot("gru", "FORMS", itemsize, f"itemsize={itemsize}", config.FORMS[itemsize], problems)
    problems = tuple(
        on_gpu(recurrent.problem(16, 1024, 1024, dtype, training))
        for dtype, training in itertools.product(("bfloat16", "float32"), (False, True))
    )
    yield Slot("gru", "LARGE", None, "", config.LARGE, problems)


def layer_norm_slots() -> Iterator[Slot]:
    problems = tuple(in_order(bench_layer_norm_gru.BENCH.gpu))
    yield Slot("layer_norm_gru", "LAYER_NORM", None, "", config.LAYER_NORM, problems)


def attention_slots() -> Iterator[Slot]:
    problems = in_order(bench_additive_attention.BENCH.gpu)
    for table in ("ADDITIVE_ATTENTION_FWD", "ADDITIVE_ATTENTION_BWD", "ADDITIVE_ATTENTION_SOFTMAX"):
        served = tuple(p for p in problems if KERNELS[table][p.training])
        yield Slot("additive_attention", table, None, "", getattr(config, table), served)


def beam_slots() -> Iterator[Slot]:
    # In float32 no two of the best are equal: the gradient of a tie could go to either.
    backward = on_gpu(bench_beam_topk.problem(64, 5, 50257, "float32", training=True))
    problems = (*in_order(bench_beam_topk.BENCH.gpu), backward)
    yield Slot("beam_topk", "BEAM_TOPK", None, "", config.BEAM_TOPK, problems)


def slots(chip: Chip, op: str | None = None) -> list[Slot]:
    """All rows of kernels.config, or one op's; without problems where the chip does not read the row."""
    every = (*recurrent_slots(chip), *form_slots(), *layer_norm_slots(), *attention_slots(), *beam_slots())
    return [slot for slot in every if op in (None, slot.op)]


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """The quick problems first: what is slow there need not be tried on others."""
    return [on_gpu(p) for p in sorted(problems, key=lambda p: not p.quick)]


def on_gpu(problem: Problem) -> Problem:
    return dataclasses.replace(problem, device="cuda")


# Candidates: the grids, cut by what is known without a measurement.


def recurrent_grid(slot: Slot, chip: Chip) -> Iterator[Config]:
    """Tiles of at most 64 rows whose weights stay on the chip for the row's largest hidden size."""
    assert slot.key is not None
    row, gates = getattr(config, slot.table)[slot.key], GATES[slot.op]
    steps = powers(64 // row.itemsize, 512 // row.itemsize)
    for b, h, k, warps in itertools.product((16, 32, 64), (8, 16, 32, 64), steps, (4, 8)):
        own = config.RecurrentConfig(b, h, k, warps)
        compiles = gates * row.max_h <= UNROLLED * k
        if row.itemsize == 4:
            compiles &= gates * row.max_h * b * h <= UNROLLED_FP32 * 32 * warps
        fills = k <= row.max_h and 32 * warps <= b * h <= 16 * 32 * warps
        if compiles and fills and stays(dataclasses.replace(row, config=own), gates, chip):
            yield own
    if row.config.alone(row.max_h):
        # Those above exchange; of those that do not, what is left to choose is how many rows and warps.
        for b, warps in itertools.product((16, 32), (4, 8, 16)):
            own = dataclasses.replace(row.config, block_b=b, num_warps=warps)
            if stays(dataclasses.replace(row, config=own), gates, chip):
                yield own


def stays(row: config.RecurrentRow, gates: int, chip: Chip) -> bool:
    """Whether the row's weights stay on the chip for its largest hidden size."""
    dtype = {2: torch.bfloat16, 4: torch.float32}[row.itemsize]
    depths = (row.max_h,) * gates
    return config.recurrent((row,), dtype, row.max_h, depths, chip.memory, chip.multiprocessors) is row.config


def streaming_grid(slot: Slot, chip: Chip) -> Iterator[Config]:
    """Tiles that leave room for three steps of the product in flight on any chip."""
    itemsize = slot.key or 0
    for b, h, k, warps in itertools.product((16, 32, 64), (16, 32, 64), (32, 64, 128), (4, 8)):
        if 3 * (b + 3 * h) * k * itemsize <= SAFE_MEMORY and 64 * warps <= b * h <= 1024 * warps:
            yield config.RecurrentConfig(b, h, k, warps, resident=False)


def factors_grid(slot: Slot, chip: Chip) -> Iterator[Config]:
    for n, h, warps in itertools.product(powers(1, 32), powers(64, 512), (4, 8)):
        if 4 <= n * h // (32 * warps) <= 16:
            yield config.ElementwiseConfig(n, h, warps)


def forms_grid(slot: Slot, chip: Chip) -> Iterator[Config]:
    """Other limits, one at a time: each has problems of its own."""
    for power in range(25, 36):
        yield dataclasses.replace(slot.present, resident=2**power)
    for power in range(22, 33):
        yield dataclasses.replace(slot.present, streaming=2**power)


def attention_grid(slot: Slot, chip: Chip) -> Iterator[Config]:
    """Backward keeps two sums where forward keeps one: half as many elements a thread."""
    most = 16 if slot.table == "ADDITIVE_ATTENTION_BWD" else 32
    for q, t, d, warps in itertools.product(powers(2, 16), powers(4, 64), powers(16, 64), (4, 8)):
        if most // 4 <= q * t * d // (32 * warps) <= most:
            yield config.AttentionConfig(q, t, d, warps)


def softmax_grid(slot: Slot, chip: Chip) -> Iterator[Config]:
    for q, t, warps in itertools.product(powers(1, 16), powers(64, 1024), (2, 4, 8)):
        if 4 <= q * t // (32 * warps) <= 16:
            yield config.AttentionConfig(q, t, 1, warps)


def beam_grid(slot: Slot, chip: Chip) -> Iterator[Config]:
    """What one kernel reads varies at a time: kernels hardly depend on one another, and all at once are hundreds.

    A chunk has 128 logits at least: by such chunks the op decides which vocabularies its kernels take.
    """
    present = slot.present
    for chunk, chunks, warps in itertools.product(powers(128, 512), powers(8, 64), (4, 8)):
        if 8 <= chunk * chunks // (32 * warps) <= 64:
            yield dataclasses.replace(present, chunk=chunk, chunks=chunks, num_warps=warps)
    for warps, log_candidates in itertools.product((4, 8, 16), (10, 11, 12)):
        yield dataclasses.replace(present, select_warps=warps, log_candidates=log_candidates)
    for block_v in powers(512, 8192):
        yield dataclasses.replace(present, block_v=block_v)


GRIDS: dict[str, Callable[[Slot, Chip], Iterator[Config]]] = {
    **{f"{op.upper()}_{which}": recurrent_grid for op in GATES for which in ("FWD", "BWD")},
    "GRU_FACTORS": factors_grid,
    "LSTM_FACTORS": factors_grid,
    "STREAMING": streaming_grid,
    "LARGE": factors_grid,
    "LAYER_NORM": factors_grid,
    "FORMS": forms_grid,
    "ADDITIVE_ATTENTION_FWD": attention_grid,
    "ADDITIVE_ATTENTION_BWD": attention_grid,
    "ADDITIVE_ATTENTION_SOFTMAX": softmax_grid,
    "BEAM_TOPK": beam_grid,
}


def candidates(slot: Slot, chip: Chip) -> list[Candidate]:
    """The present row, then the others: the fewer fields differ from it, and the less, the earlier."""

    def distance(own: Config) -> tuple[int, float]:
        pairs = list(zip(dataclasses.astuple(own), dataclasses.astuple(slot.present), strict=True))
        return sum(a != b for a, b in pairs), sum(abs(math.log2(a / b)) for a, b in pairs if a != b)

    others = dict.fromkeys(own for own in GRIDS[slot.table](slot, chip) if own != slot.present)
    return [Candidate(slot, own) for own in (slot.present, *sorted(others, key=distance))]


def stepwise_on(candidate: Candidate) -> list[str]:
    """The chips on which the present row's weights stay, but the candidate's do not."""
    slot = candidate.slot
    if GRIDS[slot.table] is not recurrent_grid:
        return []
    assert slot.key is not None
    before, gates = getattr(config, slot.table)[slot.key], GATES[slot.op]
    after = dataclasses.replace(before, config=candidate.config)
    return [name for name, chip in CHIPS.items() if stays(before, gates, chip) and not stays(after, gates, chip)]
