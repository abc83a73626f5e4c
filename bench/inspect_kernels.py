"""Compiles the kernels with every row of their config tables for GPUs that need not be here, and prints what came out.

    python bench/inspect_kernels.py [--targets 80,86,90,100,gfx942] [--kernel NAME] [--share I/N] [--json FILE]

    mma        matrix instructions of a warp; wgmma those of a warpgroup, tcgen05 among them
    spill      bytes; a problem where all registers that a thread can have do not suffice: else the assembler gives a
               few for more programs a multiprocessor
    loads      global loads of a thread in the innermost loop, the longest where there are several
    per SM     programs that a multiprocessor holds at once
    resident   programs that wait for one another / that the chip holds at once

Exit code 1 where a kernel does not compile, spills, computes in fp64, or wants more than a multiprocessor has; where a
recurrent one loads the hidden state one element at a time; where a persistent one loads its weights in a loop, or waits
at a barrier for programs that do not fit on the chip beside it; and where a kernel or a row of a config table is left
out of this file.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import math
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)  # what is interpreted cannot be compiled

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import seqops.kernels
from seqops.bench.assembly import AMDGCN, PTX, barrier_problems, blocks, count, inner_loads, weight_problems
from seqops.cpu._recurrent import BOTH
from seqops.kernels import (
    additive_attention,
    beam_topk,
    config,
    gru,
    gru_cho,
    layer_norm,
    layer_norm_gru,
    layer_norm_lstm,
    linear_cross_entropy,
    logistic,
    lstm,
    lstm_projected,
    recurrent,
    recurrent_large,
    row_update,
    rows,
    sampler,
)

# Shared memory that one program can have, in bytes, and multiprocessors.
SHARED_LIMIT = {"75": 65536, "80": 166912, "86": 101376, "90": 232448, "100": 232448, "gfx942": 65536}
MULTIPROCESSORS = {"75": 40, "80": 108, "86": 82, "90": 132, "100": 148, "gfx942": 304}
# What an NVIDIA multiprocessor has: registers, and places for warps and programs.
REGISTERS = 65536
WARPS = {"75": 32, "80": 64, "86": 48, "90": 64, "100": 64}
PROGRAMS = {"75": 16, "80": 32, "86": 16, "90": 32, "100": 32}
RESERVED = 1024  # bytes of shared memory that the system takes of each program
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Launch:
    """A kernel with the types of its arguments; an argument that is not in `types` is a compile-time constant."""

    kernel: Any
    label: str
    types: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    config: Any = None  # the row of `kernels.config` that it comes from
    cooperative: int = 0  # programs of the largest grid that is launched as a cooperative one
    fusion: bool = True  # of products and sums

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)


@dataclass(frozen=True)
class Result:
    """A row of the table: its columns in order, then what is wrong; None where a column does not apply."""

    kernel: str
    label: str
    target: str
    shared: int = 0
    registers: int = 0
    spill: int = 0
    mma: int = 0
    wgmma: int = 0
    loads: int | None = None
    per_multiprocessor: int | None = None
    resident: str | None = None
    problems: list[str] = field(default_factory=list)


class Recorder:
    """Stands in for a kernel, and keeps what its launcher would have launched: grid, arguments, options."""

    def __init__(self) -> None:
        self.launches: list[tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: self.launches.append((grid, arguments, options))


@dataclass(frozen=True)
class Walk:
    """A recurrent kernel over a sequence: the table of its tiles, and for a hidden size its depths and constants.

    Pointers that are absent are None.
    """

    kernel: Any
    table: Any
    label: str
    depths: Callable[[int], tuple[int, ...]]
    constants: Callable[[int], dict[str, Any]]
    absent: frozenset[str] = frozenset()
    halves: bool = False
    heads: int = 1
    dtypes: tuple[str, ...] = tuple(DTYPES)
    sizes: tuple[int, ...] = ()  # of each head, instead of those of the table's rows
    regular: bool = False  # with a recurrent mask or zoneout


def walk_launches(walk: Walk, cfg: Any, dtype: torch.dtype, H: int, target: str) -> Iterator[tuple[int, Any]]:
    """The launcher's largest grid over a batch that would fill the chip, with its options; both halves, if any."""
    recorder: Any = Recorder()
    like: Any = SimpleNamespace(is_cuda=True, device=torch.device("cpu"), dtype=dtype)
    limits = (shared_limit(target), MULTIPROCESSORS[target])
    B = cfg.block_b * MULTIPROCESSORS[target]
    with mock.patch.multiple(
        recurrent, resident_limits=lambda device: limits, device_guard=lambda tensor: nullcontext()
    ):
        constants = {"H": walk.heads * H, "REVERSE": False, **walk.constants(H)}
        recurrent.walk(recorder, (), cfg, H, 2, B, like, walk.halves, walk.heads, **constants)
    largest: dict[Any, tuple[int, Any]] = {}
    for grid, _, options in recorder.launches:
        half, programs = options.get("HALF"), math.prod(grid)
        if half not in largest or programs > largest[half][0]:
            largest[half] = programs, options
    yield from largest.values()


def shared_limit(target: str) -> int:
    """The shared memory in which the launchers keep weights, as `resident_limits` has it."""
    return 0 if target.startswith("gfx") else SHARED_LIMIT[target] // (2 if int(target) < 80 else 1)


def walks() -> Iterator[Walk]:
    forward, backward = recurrent.recurrent_fwd_kernel, recurrent.recurrent_bwd_kernel
    for kernel, table, cell in (
        *((forward, config.RNN_FWD, cell) for cell in ("tanh", "relu")),
        (backward, config.RNN_BWD, "tanh"),
        (forward, config.GRU_FWD, "gru"),
        (backward, config.GRU_BWD, "gru"),
        (forward, config.LSTM_FWD, "lstm"),
        (backward, config.LSTM_BWD, "lstm"),
    ):
        gates = recurrent.GATES[cell]
        # What only some cells have.
        absent = {"aux_ptr"} if gates == 1 else set()
        absent |= set() if cell == "lstm" else {"cells_ptr", "grad_cells_ptr"}
        absent |= set() if cell == "gru" else {"b_hh_ptr"}
        same = functools.partial(lambda n, H: (H,) * n, gates)
        # As most models are; then a few with all that regularises, and with heads.
        regular = {"mask_ptr", "zoneout_ptr"} | ({"zoneout_c_ptr"} if cell == "lstm" else set())
        never = frozenset(absent | ({"zoneout_c_ptr"} - regular))
        # A GRU's factors hold its zoneout already, an RNN's output before it is kept only with zoneout.
        if cell == "gru" and kernel is backward:
            never |= {"zoneout_ptr"}
        before = frozenset({"cells_ptr"}) if gates == 1 else frozenset()
        few = ("bf16", "fp32")
        for label, heads, without, dtypes, sizes, masked in (
            (cell, 1, never | regular, tuple(DTYPES), (), False),
            (f"{cell} 2 heads", 2, never | regular, few[1:], (256,), False),
            (f"{cell} 2 heads regular", 2, never - before, few, (32, 512), True),
            (f"{cell} both ways", 2, never | regular, few[:1], (256 if gates == 1 else 64, 1024), False),
            (f"{cell} both ways", 2, never | regular, few[1:], (64,), False),
        ):
            if cell == "relu" and label != cell:
                continue
            constants = functools.partial(
                lambda c, H: c,
                {"CELL": cell, "GATES": gates, "HEADS": heads, "REVERSE": BOTH if "both" in label else False},
            )
            yield Walk(kernel, table, label, same, constants, without, False, heads, dtypes, sizes, masked)
    for kernel, table in ((gru_cho.cho_fwd_kernel, config.CHO_FWD), (gru_cho.cho_bwd_kernel, config.CHO_BWD)):
        yield Walk(kernel, table, "Cho", lambda H: (H, H, H), lambda H: {}, halves=True)
    for kernel, table, depths in (
        (lstm_projected.projected_fwd_kernel, config.PROJECTED_FWD, lambda H: (*(H // 2,) * 4, H)),
        (lstm_projected.projected_bwd_kernel, config.PROJECTED_BWD, lambda H: (4 * H, H // 2)),
    ):
        yield Walk(kernel, table, "lstm P=H/2", depths, lambda H: {"P": H // 2}, halves=True)


def recurrent_launches(target: str, max_hidden: int) -> Iterator[Launch]:
    """What the recurrent ops launch for the hidden size of each row, for a small one, and for one beyond the tables.

    With all that a walk can have: lengths, resets, the gradients of cells and of the state that resets put in place.
    """
    fixed = {"state_ptr": "*fp32", "by_reset_ptr": "*fp32", "lengths_ptr": "*i32", "reset_ptr": "*u8"}
    fixed |= dict.fromkeys(recurrent.RUN_TIME, "i32")
    for walk, (name, dtype) in itertools.product(walks(), DTYPES.items()):
        if name not in walk.dtypes:
            continue
        names = walk.kernel.arg_names
        pointers = [n for n in names if n.endswith("_ptr") and n not in fixed and n not in walk.absent]
        rows = (row.max_h for row in walk.table if row.itemsize == dtype.itemsize)
        like: Any = SimpleNamespace(is_cuda=True, device=torch.device("cpu"), dtype=dtype)
        limits = (shared_limit(target), MULTIPROCESSORS[target])
        with mock.patch.object(recurrent, "resident_limits", lambda device, limits=limits: limits):
            picks = {
                H: recurrent.pick(walk.table, like, 2, H, walk.depths(H), walk.heads, walk.regular)
                for H in walk.sizes or (32, *rows, 4096)
            }
        for H, cfg in picks.items():
            if cfg.resident and max_hidden < H:
                continue
            for grid, options in walk_launches(walk, cfg, dtype, H, target):
                types = dict.fromkeys(pointers, f"*{name}") | {n: t for n, t in fixed.items() if n in names}
                constants = {n: options[n] for n in names if n in options}
                if constants["BARRIER"]:
                    types["barrier_ptr"] = "*i32"
                else:
                    types.pop("barrier_ptr", None)
                cooperative = grid if options.get("launch_cooperative_grid") else 0
                half = constants.get("HALF")
                alone = not walk.halves and cfg.alone(H)
                form = "alone" if alone else "persistent" if cfg.resident else f"half {half}" if half else "step"
                label = f"{walk.label} {name} H={H} {form}"
                yield Launch(walk.kernel, label, types, constants, options["num_warps"], cfg, cooperative)
    for kernel, tile in (
        (gru.gru_factors_kernel, config.GRU_FACTORS),
        (gru_cho.cho_factors_kernel, config.GRU_FACTORS),
        (lstm.lstm_factors_kernel, config.LSTM_FACTORS),
    ):
        for name in DTYPES:
            types = {n: f"*{name}" for n in kernel.arg_names if n.endswith("_ptr")}
            types |= {"lengths_ptr": "*i32", "N": "i32", "B": "i32"}
            constants = {"H": 1024, "BLOCK_N": tile.block_n, "BLOCK_H": tile.block_h}
            yield Launch(kernel, f"{name} H=1024", types, constants, tile.num_warps, tile)


def large_launches() -> Iterator[Launch]:
    """The walks that a library's product serves too; in fp32, which differs little, only as most models are."""
    kernels = {recurrent.recurrent_fwd_kernel: recurrent_large.large_fwd_kernel}
    kernels[recurrent.recurrent_bwd_kernel] = recurrent_large.large_bwd_kernel
    fixed = {"state_ptr": "*fp32", "by_reset_ptr": "*fp32", "lengths_ptr": "*i32", "reset_ptr": "*u8"}
    fixed |= dict.fromkeys(recurrent_large.RUN_TIME, "i32")
    like: Any = SimpleNamespace(shape=(2, 1024))
    for walk, name in itertools.product(walks(), DTYPES):
        if walk.kernel not in kernels or name not in walk.dtypes or (name == "fp32" and walk.heads > 1):
            continue
        recorder: Any = Recorder()
        recurrent_large.launch(recorder, like, **{"H": 1024, "REVERSE": False, **walk.constants(1024)})
        [(_, _, options)] = recorder.launches
        kernel = kernels[walk.kernel]
        absent = walk.absent | (
            {"met_ptr"} if kernel is recurrent_large.large_bwd_kernel and walk.heads == 1 else set()
        )
        types = {n: f"*{name}" for n in kernel.arg_names if n.endswith("_ptr") and n not in absent}
        types |= {n: t for n, t in fixed.items() if n in kernel.arg_names}
        constants = {n: options[n] for n in kernel.arg_names if n in options}
        yield Launch(kernel, f"{walk.label} {name} H=1024", types, constants, options["num_warps"], config.LARGE)


def layer_norm_launches() -> Iterator[Launch]:
    """Few units, Dreamer's, and the most that a program holds; with all that a walk can have, and with joint."""
    fixed = dict.fromkeys(("state_ptr", "by_reset_ptr"), "*fp32") | {"lengths_ptr": "*i32", "reset_ptr": "*u8"}
    fixed |= dict.fromkeys(layer_norm.RUN_TIME, "i32") | {"eps": "fp32"}
    for name, (kernel, most, cell), (size, joint) in itertools.product(
        ("bf16", "fp32"),
        (
            (layer_norm_gru.layer_norm_gru_fwd_kernel, 4096, {}),
            (layer_norm_gru.layer_norm_gru_bwd_kernel, 4096, {}),
            (layer_norm_lstm.layer_norm_lstm_fwd_kernel, 2048, {"NORM_CELL": True}),
            (layer_norm_lstm.layer_norm_lstm_bwd_kernel, 2048, {"NORM_CELL": True}),
        ),
        ((40, False), (512, True), (4096, False)),
    ):
        H = min(size, most)
        tile = config.layer_norm(H)
        constants = {"H": H, "REVERSE": False, "BLOCK_B": tile.block_n, "BLOCK_H": tile.block_h, **cell}
        constants |= {"gx_ptr": None} if joint else {}
        types = {n: fixed.get(n, f"*{name}") for n in kernel.arg_names if n not in constants}
        label = f"{'joint ' if joint else ''}{name} H={H}"
        # A row for other sizes is made from the default.
        yield Launch(kernel, label, types, constants, tile.num_warps, config.LAYER_NORM)


def attention_launches() -> Iterator[Launch]:
    """Many queries, and the one of a decoder's step."""
    kernels = {
        additive_attention.additive_attention_scores_kernel: config.ADDITIVE_ATTENTION_FWD,
        additive_attention.additive_attention_softmax_kernel: config.ADDITIVE_ATTENTION_SOFTMAX,
        additive_attention.additive_attention_dquery_kernel: config.ADDITIVE_ATTENTION_BWD,
        additive_attention.additive_attention_dkeys_kernel: config.ADDITIVE_ATTENTION_BWD,
    }
    fp32 = {"scores_ptr", "dscore_ptr", "dv_ptr"}
    same = {"query_ptr", "keys_ptr", "v_ptr", "weights_ptr", "dquery_ptr", "dkeys_ptr"}
    for (kernel, default), name, Q in itertools.product(kernels.items(), DTYPES, (128, 1)):
        softmax = kernel is additive_attention.additive_attention_softmax_kernel
        cfg = default if softmax else config.attention(default, Q, 512)
        types = {n: f"*{name}" for n in kernel.arg_names if n in same}
        types |= {n: "*fp32" for n in kernel.arg_names if n in fp32}
        types |= {"lengths_ptr": "*i32", "Q": "i32", "T": "i32"}
        constants = {"BLOCK_Q": cfg.block_q, "BLOCK_T": cfg.block_t}
        if not softmax:
            constants |= {"D": 512, "BLOCK_D": cfg.block_d}
        if "mask_ptr" in kernel.arg_names:
            types["mask_ptr"] = "*u8"
            constants["MASK_PER_QUERY"] = True
        yield Launch(kernel, f"{name} Q={Q} D=512", types, constants, cfg.num_warps, default)


def beam_launches() -> Iterator[Launch]:
    """A vocabulary of 128256 and its beams: a search's usual width, and the largest that the kernels take."""
    cfg, V = config.BEAM_TOPK, 128256
    for name, (beam, k) in itertools.product(DTYPES, ((4, 8), (32, 64), (512, 1024))):
        plan = beam_topk.plan(beam, V, k)
        types = {"logits_ptr": f"*{name}", "dlogits_ptr": f"*{name}"}
        fp32 = ("scores_ptr", "chunk_max_ptr", "partial_ptr", "normalizer_ptr", "best_ptr", "grad_ptr")
        types |= dict.fromkeys(fp32, "*fp32") | dict.fromkeys(("parents_ptr", "tokens_ptr"), "*i64")
        types |= dict.fromkeys(("beam", "V", "k", "n_chunks", "n_segments", "n_tiles"), "i32")
        types |= dict.fromkeys(("stride_b", "stride_i", "mask_stride_b", "mask_stride_i"), "i32")
        types |= {"mask_ptr": "*u8", "inverse_temperature": "fp32"}
        blocks = {n: plan.select[n] for n in ("BLOCK_I", "BLOCK_S")}
        for kernel, constants, warps in (
            (beam_topk.beam_topk_chunks_kernel, plan.chunks | {"NORMALIZED": False}, cfg.num_warps),
            (beam_topk.beam_topk_select_kernel, plan.select | {"NORMALIZED": False}, cfg.select_warps),
            (beam_topk.beam_topk_normalizer_kernel, blocks, cfg.num_warps),
            (beam_topk.beam_topk_bwd_kernel, plan.backward, cfg.num_warps),
        ):
            if kernel is beam_topk.beam_topk_select_kernel and k > beam_topk.MAX_SELECTED:
                continue
            own = {n: t for n, t in types.items() if n in kernel.arg_names}
            fusion = kernel is not beam_topk.beam_topk_select_kernel
            yield Launch(kernel, f"{name} beam={beam} k={k} V={V}", own, constants, warps, cfg, fusion=fusion)


def sampler_launches() -> Iterator[Launch]:
    cfg = config.ALIAS_DRAW
    types = {"threshold_ptr": "*i32", "alias_ptr": "*i32", "seed_ptr": "*i64", "out_ptr": "*i64"}
    types |= {"count": "i32", "V": "i32"}
    yield Launch(sampler.alias_draw_kernel, "V=1M", types, {"BLOCK": cfg.block_n}, cfg.num_warps, cfg)


def row_update_launches() -> Iterator[Launch]:
    """The usual sizes of word vectors, and the largest that the kernel takes."""
    cfg = config.ROW_UPDATE
    for name, D in itertools.product(DTYPES, (100, 300, row_update.MAX_D)):
        types = {"weight_ptr": f"*{name}", "ids_ptr": "*i64", "order_ptr": "*i64", "grad_ptr": "*fp32"}
        types |= {"state_ptr": "*fp32", "lr": "fp32", "clip": "fp32", "eps": "fp32", "N": "i32", "V": "i32"}
        for adagrad in (False, True):
            constants = {"D": D, "BLOCK_D": 1 << (D - 1).bit_length(), "ADAGRAD": adagrad, "CLIP": not adagrad}
            what = f"{name} D={D} {'adagrad' if adagrad else 'clip'}"
            yield Launch(row_update.row_update_kernel, what, types, constants, cfg.num_warps, cfg)


def row_launches() -> Iterator[Launch]:
    """Word vectors of 300 features, 21 rows a pair, drawn and given; and few features."""
    fixed = dict.fromkeys(("scores_ptr", "coefficients_ptr", "shares_ptr", "loss_ptr", "slopes_ptr"), "*fp32")
    fixed |= dict.fromkeys(("rows_ptr", "ids_ptr", "slots_ptr", "nodes_ptr", "threshold_ptr", "alias_ptr"), "*i32")
    fixed |= dict.fromkeys(("items_ptr", "index_ptr", "target_ptr", "negatives_ptr", "seed_ptr", "offsets_ptr"), "*i64")
    fixed |= {"signs_ptr": "*i8", "positive_weight": "fp32"}
    fixed |= dict.fromkeys(("B", "M", "V", "R", "N", "tiles", "classes", "padding_idx"), "i32")
    for name, D in itertools.product(DTYPES, (300, 20)):
        cfg, scatter = config.rows(D), config.ROW_SCATTER
        block_d = min(scatter.block_d, max(16, triton.next_power_of_2(D)))
        items = {"D": D, "BLOCK_B": cfg.block_b, "BLOCK_D": cfg.block_d}
        items["BLOCK_R"] = logistic.block_r(cfg.block_b, 21)
        places = {"D": D, "PLACES": scatter.places, "BLOCK_D": block_d}
        drawn = {"negatives_ptr": None, "ATTEMPTS": 16}
        given = {"threshold_ptr": None, "alias_ptr": None, "seed_ptr": None, "ATTEMPTS": 1}
        for kernel, label, constants, row in (
            (rows.row_scores_kernel, "", items, cfg),
            (rows.row_sums_kernel, "", items, cfg),
            (logistic.negative_sampling_fwd_kernel, "drawn ", items | drawn, cfg),
            (logistic.negative_sampling_fwd_kernel, "given ", items | given, cfg),
            (logistic.hierarchical_softmax_fwd_kernel, "", items, cfg),
            (rows.row_scatter_kernel, "", places, scatter),
            (rows.row_scatter_shares_kernel, "", places | {"BLOCK_T": scatter.block_t}, scatter),
        ):
            types = {n: fixed.get(n, f"*{name}") for n in kernel.arg_names if n not in constants}
            own = {n: c for n, c in constants.items() if n in kernel.arg_names}
            # A row for few features is made from the default.
            yield Launch(
                kernel, f"{label}{name} D={D}", types, own, row.num_warps, scatter if row is scatter else config.ROWS
            )


def cross_entropy_launches() -> Iterator[Launch]:
    """A vocabulary of 128256, as in training, and smoothed with weights of classes, and in evaluation."""
    cfg, kernel = config.LINEAR_CROSS_ENTROPY, linear_cross_entropy.softmax_rows_kernel
    fp32 = dict.fromkeys(("own_ptr", "whole_ptr", "class_weight_ptr", "scale_ptr", "loss_ptr"), "*fp32")
    for name, (gradient, smoothed) in itertools.product(DTYPES, ((True, False), (True, True), (False, False))):
        types = {"logits_ptr": f"*{name}", "target_ptr": "*i64", **fp32, "share": "fp32", "V": "i32"}
        constants: dict[str, Any] = {"GRADIENT": gradient, "SMOOTHED": smoothed, "BLOCK_V": cfg.block_v}
        constants |= {} if smoothed else {"class_weight_ptr": None}
        types = {n: t for n, t in types.items() if n not in constants}
        what = f"{name} {'gradient' if gradient else 'loss'}{' smoothed' if smoothed else ''}"
        yield Launch(kernel, what, types, constants, cfg.num_warps, cfg)


def launches(target: str, max_hidden: int) -> Iterator[Launch]:
    yield from recurrent_launches(target, max_hidden)
    yield from large_launches()
    yield from layer_norm_launches()
    yield from attention_launches()
    yield from beam_launches()
    yield from row_update_launches()
    yield from sampler_launches()
    yield from row_launches()
    yield from cross_entropy_launches()


def _configs(value: Any) -> Iterator[Any]:
    """The config rows in a table: in tuples and dicts, behind the rows that say whom they serve."""
    if isinstance(value, (tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _configs(item)
    elif type(value).__name__.endswith("Row"):
        yield value.config
    elif type(value).__name__.endswith("Config"):
        yield value


def left_out() -> list[str]:
    """The kernels and the config rows that `launches` has for no target."""
    every = [launch for target in SHARED_LIMIT for launch in launches(target, 1 << 30)]
    kernels = {launch.name for launch in every}
    rows = {id(launch.config) for launch in every}
    missing = []
    for info in pkgutil.iter_modules(seqops.kernels.__path__):
        module = importlib.import_module(f"seqops.kernels.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, JITFunction) and name.endswith("_kernel") and name not in kernels:
                missing.append(f"{info.name}.{name}")
    for name, value in vars(config).items():
        missing += [f"config.{name}: {row}" for row in _configs(value) if id(row) not in rows]
    return missing


def programs_per_multiprocessor(target: str, registers: int, num_warps: int, shared: int) -> int:
    """How many programs an NVIDIA multiprocessor holds at once."""
    # A warp takes registers by 256, and lives on one of four schedulers, each with a quarter of them.
    warps = min(WARPS[target], REGISTERS // (-(-registers * 32 // 256) * 256) // 4 * 4)
    memory = SHARED_LIMIT[target] + RESERVED
    return min(PROGRAMS[target], warps // num_warps, memory // (-(-shared // 128) * 128 + RESERVED))


def compile_for(launch: Launch, target: str) -> Result:
    gpu = GPUTarget("hip", target, 64) if target.startswith("gfx") else GPUTarget("cuda", int(target), 32)
    names = launch.kernel.arg_names
    constants = {n: launch.constants.get(n) for n in names if n not in launch.types}
    signature = {n: launch.types.get(n, "constexpr") for n in names}
    # As torch allocates: pointers are 16-byte aligned.
    attributes = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    try:
        source = ASTSource(launch.kernel, signature, constants, attributes)
        options = {"num_warps": launch.num_warps, "enable_fp_fusion": launch.fusion}
        compiled = triton.compile(source, target=gpu, options=options)
        needs = None
        if gpu.backend == "cuda" and _cuda_resources(compiled.asm["cubin"])[1]:
            most = min(255, REGISTERS // (32 * launch.num_warps))
            freely = triton.compile(source, target=gpu, options=options | {"maxnreg": most})
            needs = _cuda_resources(freely.asm["cubin"])[1]
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        return Result(launch.name, launch.label, target, problems=[f"does not compile: {reason}"])
    return inspect(launch, target, compiled, needs)


def compile_apart(launch: Launch, target: str) -> Result:
    """`compile_for` in a process of its own, which a compiler that aborts takes along."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: sender.send(compile_for(launch, target)))
    process.start()
    sender.close()
    try:
        result: Result = receiver.recv()
    except EOFError:
        process.join()
        result = Result(launch.name, launch.label, target, problems=[f"the compiler ends with {process.exitcode}"])
    process.join()
    return result


def inspect(launch: Launch, target: str, compiled: Any, spill_needed: int | None = None) -> Result:
    """What a kernel came out as, and what is wrong with it; `spill_needed`: what it spills with all registers."""
    nvidia = not target.startswith("gfx")
    text, assembly = (compiled.asm["ptx"], PTX) if nvidia else (compiled.asm["amdgcn"], AMDGCN)
    registers, spill = _cuda_resources(compiled.asm["cubin"]) if nvidia else _amd_resources(text)
    opcodes = list(itertools.chain(*blocks(text, assembly)[0]))
    shared = compiled.metadata.shared
    problems = []
    if shared > SHARED_LIMIT[target]:
        problems.append(f"shared memory {shared} > {SHARED_LIMIT[target]}")
    if spill and spill_needed != 0:
        problems.append(f"spills {spill}")
    if "fp64" not in "".join(launch.types.values()) and count(rf"(?=.*f64){assembly.floating}", opcodes):
        problems.append("fp64 arithmetic")
    element = {"*bf16": 16, "*fp32": 32}.get(launch.types.get("w_hh_ptr", ""))
    if nvidia and element and re.search(rf"\bld\.global\.cg\.b{element}\b", text):
        problems.append("loads what other programs wrote one element at a time")
    if not launch.fusion and count(r"fma\.rn\.f32", opcodes):
        problems.append("a product and a sum rounded as one")
    if launch.constants.get("RESIDENT"):
        for weights in ("w_hh_ptr", *(n for n in launch.types if n == "w_hr_ptr")):
            problems += weight_problems(compiled.asm["ttgir"], weights)
    held = programs_per_multiprocessor(target, registers, launch.num_warps, shared) if nvidia else None
    if held == 0:
        problems.append(
            f"{registers} registers x {launch.num_warps} warps and {shared} bytes: no multiprocessor has that"
        )
    resident = None
    if launch.constants.get("BARRIER"):
        # How many programs an AMD GPU holds is not known here: none may wait there.
        available = (held or 0) * MULTIPROCESSORS[target]
        resident = f"{launch.cooperative}/{available}"
        problems += barrier_problems(compiled.asm["ptx"])
        if not launch.cooperative:
            problems.append("waits at a barrier, but the grid is not a cooperative one")
        if launch.cooperative > available:
            problems.append(f"{launch.cooperative} programs wait for one another, {available} fit")
    return Result(
        launch.name,
        launch.label,
        target,
        shared,
        registers,
        spill,
        count(assembly.mma, opcodes),
        count(assembly.wgmma, opcodes),
        inner_loads(text, assembly),
        held,
        resident,
        problems,
    )


def _amd_resources(text: str) -> tuple[int, int]:
    """Registers and spilled registers, as the assembly's metadata tell them."""
    registers, spill = (re.search(rf"\.{name}:\s*(\d+)", text) for name in ("vgpr_count", "vgpr_spill_count"))
    if registers is None or spill is None:
        raise RuntimeError("the assembly does not tell its registers")
    return int(registers[1]), int(spill[1])


@functools.cache
def _cuda_resources(cubin: bytes) -> tuple[int, int]:
    tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", report)
    if match is None:
        raise RuntimeError(f"cuobjdump gave no resource usage: {report!r}")
    return int(match[1]), int(match[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="80,86,90,100,gfx942")
    parser.add_argument("--kernel", default="", help="only kernels whose name holds this")
    parser.add_argument(
        "--max-hidden", type=int, default=1 << 30, help="leave out larger persistent kernels: slow to compile"
    )
    parser.add_argument("--share", default="0/1", help="I/N: of N launches one after another only the I-th, from 0 on")
    parser.add_argument("--json", help="write the results here")
    arguments = parser.parse_args()
    print(f"triton {triton.__version__}")
    columns = [
        "kernel",
        "launch",
        "target",
        "shared",
        "registers",
        "spill",
        "mma",
        "wgmma",
        "loads",
        "per SM",
        "resident",
    ]
    row = "{:34} {:26} {:6} {:>7} {:>9} {:>5} {:>4} {:>5} {:>5} {:>6} {:>8} {}"
    print(row.format(*columns, "").rstrip())
    results = []
    share, shares = map(int, arguments.share.split("/"))
    for target in arguments.targets.split(","):
        for number, launch in enumerate(launches(target, arguments.max_hidden)):
            if arguments.kernel not in launch.name or number % shares != share:
                continue
            r = compile_apart(launch, target)
            results.append(r)
            cells = ["-" if value is None else value for value in asdict(r).values()]
            print(row.format(*cells[:-1], "; ".join(r.problems)).rstrip(), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"triton": triton.__version__, "results": [asdict(r) for r in results]}, file, indent=1)
    missing = left_out()
    for name in missing:
        print("left out:", name)
    bad = sum(bool(r.problems) for r in results)
    print(f"{len(results)} compiled, {bad} with problems, {len(missing)} left out")
    return bool(bad or missing)


if __name__ == "__main__":
    sys.exit(main())
