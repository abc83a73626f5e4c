"""Compiles the kernels with every row of their config tables for GPUs that need not be here, and prints what came out.

    python bench/inspect_kernels.py [--targets 80,86,90,100,gfx942] [--kernel NAME] [--json FILE]

Exit code 1 where a kernel does not compile, spills, computes in fp64, or wants more than a multiprocessor has; and
where a kernel or a row of a config table is left out of this file.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # what is interpreted cannot be compiled

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import seqops.kernels
from seqops.kernels import additive_attention, beam_topk, config, gru

# Shared memory that one program can have, in bytes, and multiprocessors.
SHARED_LIMIT = {"80": 166912, "86": 101376, "90": 232448, "100": 232448, "gfx942": 65536}
MULTIPROCESSORS = {"80": 108, "86": 82, "90": 132, "100": 148, "gfx942": 304}
REGISTERS = 65536  # of an NVIDIA multiprocessor
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

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)


@dataclass(frozen=True)
class Result:
    kernel: str
    label: str
    target: str
    shared: int
    registers: int
    spill: int
    dots: int
    problems: list[str]


def gru_launches(target: str, max_hidden: int) -> Iterator[Launch]:
    """What `kernels.gru` launches on the target for the hidden size of each row, and for one beyond the tables."""
    tables = ((gru.gru_sequence_fwd_kernel, config.GRU_FWD), (gru.gru_sequence_bwd_kernel, config.GRU_BWD))
    pointers = {"gx_ptr", "h0_ptr", "w_hh_ptr", "b_hh_ptr", "y_ptr", "dgx_ptr", "dgh_ptr", "grad_y_ptr"}
    memory = 0 if target.startswith("gfx") else SHARED_LIMIT[target]
    for (kernel, table), (name, dtype) in itertools.product(tables, DTYPES.items()):
        sizes = [row.max_h for row in table if row.itemsize == dtype.itemsize] + [4096]
        picks = {H: config.recurrent(table, dtype, H, 3, memory, MULTIPROCESSORS[target]) for H in sizes}
        for H, cfg in picks.items():
            if cfg.resident and max_hidden < H:
                continue
            types = {n: f"*{name}" for n in kernel.arg_names if n in pointers}
            types |= {"state_ptr": "*fp32", "b0": "i32", "step0": "i32", "STEPS": "i32", "T": "i32", "B": "i32"}
            if "lengths_ptr" in kernel.arg_names:
                types["lengths_ptr"] = "*i32"
            if cfg.resident:
                types["barrier_ptr"] = "*i32"
            constants = {
                "H": H,
                "REVERSE": False,
                "BLOCK_B": cfg.block_b,
                "BLOCK_H": cfg.block_h,
                "BLOCK_K": cfg.block_k,
                "RESIDENT": cfg.resident,
                "BARRIER": cfg.resident,
                "PRECISION": "ieee",
            }
            label = f"{name} H={H} {'persistent' if cfg.resident else 'step'}"
            yield Launch(kernel, label, types, constants, cfg.num_warps, cfg)
    tile = config.GRU_FACTORS
    for name in DTYPES:
        types = {"gx_ptr": f"*{name}", "gh_ptr": f"*{name}", "h_prev_ptr": f"*{name}", "lengths_ptr": "*i32"}
        types |= {"N": "i32", "B": "i32"}
        constants = {"H": 1024, "BLOCK_N": tile.block_n, "BLOCK_H": tile.block_h}
        yield Launch(gru.gru_factors_kernel, f"{name} H=1024", types, constants, tile.num_warps, tile)


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
    for name, (beam, k) in itertools.product(DTYPES, ((4, 8), (32, 64))):
        plan = beam_topk.plan(beam, V, k)
        types = {"logits_ptr": f"*{name}", "dlogits_ptr": f"*{name}"}
        fp32 = ("scores_ptr", "chunk_max_ptr", "partial_ptr", "normalizer_ptr", "best_ptr", "grad_ptr")
        types |= dict.fromkeys(fp32, "*fp32") | dict.fromkeys(("parents_ptr", "tokens_ptr"), "*i64")
        types |= dict.fromkeys(("beam", "V", "k", "n_chunks", "n_segments", "n_tiles", "stride_b", "stride_i"), "i32")
        for kernel, constants, warps in (
            (beam_topk.beam_topk_chunks_kernel, plan.chunks, cfg.num_warps),
            (beam_topk.beam_topk_select_kernel, plan.select, cfg.select_warps),
            (beam_topk.beam_topk_bwd_kernel, plan.backward, cfg.num_warps),
        ):
            own = {n: t for n, t in types.items() if n in kernel.arg_names}
            yield Launch(kernel, f"{name} beam={beam} k={k} V={V}", own, constants, warps, cfg)


def launches(target: str, max_hidden: int) -> Iterator[Launch]:
    yield from gru_launches(target, max_hidden)
    yield from attention_launches()
    yield from beam_launches()


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


def compile_for(launch: Launch, target: str) -> Result:
    gpu = GPUTarget("hip", target, 64) if target.startswith("gfx") else GPUTarget("cuda", int(target), 32)
    names = launch.kernel.arg_names
    constants = {n: launch.constants.get(n) for n in names if n not in launch.types}
    signature = {n: launch.types.get(n, "constexpr") for n in names}
    # As torch allocates: pointers are 16-byte aligned.
    attributes = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    problems: list[str] = []
    try:
        source = ASTSource(launch.kernel, signature, constants, attributes)
        compiled = triton.compile(source, target=gpu, options={"num_warps": launch.num_warps})
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        return Result(launch.name, launch.label, target, 0, 0, 0, 0, [f"does not compile: {reason}"])
    shared = compiled.metadata.shared
    if shared > SHARED_LIMIT[target]:
        problems.append(f"shared memory {shared} > {SHARED_LIMIT[target]}")
    if gpu.backend == "cuda":
        registers, spill = _cuda_resources(compiled.asm["cubin"])
        if registers * 32 * launch.num_warps > REGISTERS:
            problems.append(f"{registers} registers x {launch.num_warps} warps do not fit a multiprocessor")
        ptx = compiled.asm["ptx"]
        dots = len(re.findall(r"\bw?gmma\.mma_async|\bmma\.sync|\btcgen05\.mma", ptx))
        if "fp64" not in "".join(launch.types.values()) and re.search(r"\b(add|mul|fma|div|sub)\.\w*\.?f64", ptx):
            problems.append("fp64 arithmetic")
    else:
        asm = compiled.asm["amdgcn"]
        registers, spill = (int(re.search(rf"\.{n}:\s*(\d+)", asm)[1]) for n in ("vgpr_count", "vgpr_spill_count"))  # type: ignore[index]
        dots = len(re.findall(r"\bv_mfma", asm))
    if spill:
        problems.append(f"spills {spill}")
    return Result(launch.name, launch.label, target, shared, registers, spill, dots, problems)


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
    parser.add_argument("--json", help="write the results here")
    arguments = parser.parse_args()
    print(f"triton {triton.__version__}")
    print(f"{'kernel':34} {'launch':30} {'target':8} {'shared':>7} {'registers':>9} {'spill':>5} {'mma':>4}")
    results = []
    for target in arguments.targets.split(","):
        for launch in launches(target, arguments.max_hidden):
            if arguments.kernel not in launch.name:
                continue
            r = compile_for(launch, target)
            results.append(r)
            row = f"{r.kernel:34} {r.label:30} {r.target:8} {r.shared:7} {r.registers:9} {r.spill:5} {r.dots:4}"
            print(row, "; ".join(r.problems), flush=True)
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
