"""Do the tests bite? Puts one fault at a time into a copy of the sources and asks the tests to find it.

    python tests/mutations.py [--quick] [--only TEXT] [--jobs N]

Prints which test caught each fault. Exit code 1 where one was missed, where a fault's place is no longer in the sources,
or where the tests fail without any fault.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parents[1]
KERNELS, CPU, OPS, NN = "kernels/gru.py", "seqops/cpu/gru.py", "seqops/ops/gru.py", "seqops/nn/gru.py"
ATTENTION, ATTENTION_CPU = "kernels/additive_attention.py", "seqops/cpu/additive_attention.py"
ATTENTION_OPS = "seqops/ops/additive_attention.py"
BEAM, SEARCH = "kernels/beam_topk.py", "seqops/decoding/beam_search.py"
REGISTER, AUTOGRAD, CONFIG = "seqops/ops/_register.py", "seqops/ops/_autograd.py", "kernels/config.py"
GRU_TESTS = "tests/test_gru.py tests/test_every_op.py -k gru"
GRU_KERNEL_TESTS = "tests/test_gru.py tests/test_every_op.py -k 'gru and interpreter'"
NN_TESTS = "tests/test_nn_gru.py"
ATTENTION_TESTS = "tests/test_additive_attention.py tests/test_every_op.py -k attention"
ATTENTION_KERNEL_TESTS = "tests/test_additive_attention.py tests/test_every_op.py -k 'attention and interpreter'"
BEAM_KERNEL_TESTS = "tests/test_beam_topk.py tests/test_every_op.py -k 'beam and interpreter'"
SEARCH_TESTS = "tests/test_beam_search.py tests/test_error_analysis.py"
TORCH_TESTS = "tests/test_torch_integration.py"
COMPILE_TESTS = "tests/test_compile.py -k 90"


@dataclass(frozen=True)
class Fault:
    """`old`, which stands in `file` once or at its first place, becomes `new`; `tests` are pytest's arguments."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    quick: bool = False


FAULTS = [
    # The GRU's kernels and launchers.
    Fault("weights: mask of K dropped", KERNELS, "mask=(k[:, None] < K) & column_mask", "mask=(k[:, None] < K + 64) & column_mask", GRU_KERNEL_TESTS),
    Fault("weights: mask of units dropped", KERNELS, "(k[:, None] < K) & column_mask[None, :]", "(k[:, None] < K)", GRU_KERNEL_TESTS),
    Fault("hidden state: mask of K dropped", KERNELS, "mask = row_mask[:, None] & (k[None, :] < K)", "mask = row_mask[:, None] & (k[None, :] < K + 64)", GRU_KERNEL_TESTS, quick=True),
    Fault("forward: swapped gate", KERNELS, "gx_z = tl.load(gx_ptrs + H,", "gx_z = tl.load(gx_ptrs + 2 * H,", GRU_KERNEL_TESTS),
    Fault("forward: wrong sign", KERNELS, "n + z * (h - n)", "n - z * (h - n)", GRU_KERNEL_TESTS),
    Fault("forward: padding not zeroed", KERNELS, "y = tl.where(active[:, None], h, 0.0)", "y = tl.where(active[:, None], h, h)", GRU_KERNEL_TESTS),
    Fault("forward: padding not written", KERNELS, "tl.store(y_ptr + t * B * H + own, y, mask=mask)", "tl.store(y_ptr + t * B * H + own, y, mask=mask & active[:, None])", GRU_KERNEL_TESTS),
    Fault("forward: reverse starts at T", KERNELS, "starts = t == length - 1", "starts = t == T - 1", GRU_KERNEL_TESTS),
    Fault("forward: reads its own step", KERNELS, "before = t - 1", "before = t", GRU_KERNEL_TESTS),
    Fault("forward: state not kept", KERNELS, "    tl.store(state_ptr + own, h, mask=mask)\n", "", GRU_KERNEL_TESTS),
    Fault("forward: length not clamped", KERNELS, "tl.minimum(tl.load(lengths_ptr + rows, mask=row_mask, other=0), T)", "tl.load(lengths_ptr + rows, mask=row_mask, other=0)", "tests/test_gru.py -k clamped"),
    Fault("forward: bias of n dropped", KERNELS, "gh_n + b_n[None, :]", "gh_n", GRU_KERNEL_TESTS),
    Fault("forward: fp32 rounded to tf32", KERNELS, "input_precision=PRECISION", 'input_precision="tf32"', GRU_KERNEL_TESTS),
    Fault("factors: term dropped", KERNELS, "by_r = by_n * gh_n * r * (1.0 - r)", "by_r = by_n * r * (1.0 - r)", GRU_KERNEL_TESTS),
    Fault("factors: padding does not pass the gradient on", KERNELS, "z = tl.where(active, z, 1.0)", "z = tl.where(active, z, 0.0)", GRU_KERNEL_TESTS),
    Fault("factors: store mask dropped", KERNELS, "tl.store(gx_ptr + gates + H, z.to(dtype), mask=mask)", "tl.store(gx_ptr + gates + H, z.to(dtype), mask=mask | True)", GRU_KERNEL_TESTS),
    Fault("backward: reads past the last step", KERNELS, "dgh_mask = row_mask & (step > 0)", "dgh_mask = row_mask", GRU_KERNEL_TESTS, quick=True),
    Fault("backward: direct path without z", KERNELS, "direct = z * dh", "direct = dh", GRU_KERNEL_TESTS),
    Fault("backward: n's two gradients confused", KERNELS, "(by_n * dh).to(dtype)", "(by_gh_n * dh).to(dtype)", GRU_KERNEL_TESTS),
    Fault("launcher: wrong first step", KERNELS, "first = dgh[T - 1 if reverse else 0]", "first = dgh[0]", GRU_KERNEL_TESTS),
    Fault("launcher: ignored stride", KERNELS, "args = (gx, h0.contiguous(), w_hh.contiguous()", "args = (gx, h0.contiguous(), w_hh", GRU_KERNEL_TESTS),
    Fault("launcher: a launch short", KERNELS, "for step0 in range(0, T, steps):", "for step0 in range(0, T - 1, steps):", GRU_KERNEL_TESTS),
    # The GRU's Function, torch path and module.
    Fault("Function: state before each step confused", OPS, "torch.cat((y[1:], h0[None]) if reverse", "torch.cat((y[1:], h0[None]) if not reverse", GRU_TESTS),
    Fault("Function: NaN in padding reaches the weights", OPS, "x = x.masked_fill(ended, 0)", "x = x.masked_fill(ended, 0) + 0 * x", NN_TESTS),
    Fault("Function: gradient of padding counted", OPS, "grad_y = grad_y.masked_fill(ended, 0)", "grad_y = grad_y.clone()", NN_TESTS),
    Fault("Function: start in reverse forgotten", OPS, "torch.where((t == lengths - 1)[:, :, None], h0, h_prev)", "h_prev.clone()", GRU_TESTS),
    Fault("Function: wrong factor of dw_hh", OPS, "@ h_prev.flatten(0, 1)", "@ y.flatten(0, 1)", GRU_TESTS),
    Fault("torch path: z and 1 - z confused", CPU, "torch.lerp(n, h, z,", "torch.lerp(h, n, z,", GRU_TESTS),
    Fault("torch path: padding not zeroed", CPU, "y.masked_fill_(~active, 0)", "y.masked_fill_(~active, 1)", GRU_TESTS),
    Fault("torch path: padding has factors", CPU, "by_n.masked_fill_(ended, 0)", "by_n.masked_fill_(ended, 1)", GRU_TESTS),
    Fault("torch path: output aliases output", CPU, "return y, h.clone()", "return y, h", TORCH_TESTS + " -k opcheck"),
    Fault("module: reverse direction forgotten", NN, "reverse=bool(suffix)", "reverse=False", NN_TESTS, quick=True),
    Fault("module: dropout on the last layer", NN, "if layer < self.num_layers - 1:", "if layer < self.num_layers:", NN_TESTS),
    Fault("module: packed order not restored", NN, "self.permute_hidden(h_n, unsorted_indices)", "self.permute_hidden(h_n, sorted_indices)", NN_TESTS),
    # What all ops share.
    Fault("a tensor held beside the saved ones", OPS, "ctx.reverse = reverse", "ctx.reverse, ctx.y = reverse, y", GRU_TESTS, quick=True),
    Fault("Function: gradient asked for another input", OPS, "need_x, need_h0, need_w_ih", "need_h0, need_x, need_w_ih", GRU_TESTS),
    Fault("no Tensor is no error", "seqops/ops/_checks.py", "if not isinstance(tensor, Tensor) and (i == 0", "if False and (i == 0", "tests/test_every_op.py -k refused"),
    Fault("devices may differ", "seqops/ops/_checks.py", "if tensor.device != first.device:", "if False:", "tests/test_every_op.py -k refused"),
    Fault("second derivative silently zero", AUTOGRAD, "if not torch.is_grad_enabled() or", "if True or", "tests/test_every_op.py -k second"),
    Fault("forward mode silently zero", REGISTER, "if forward_ad._current_level >= 0 and any", "if False and any", TORCH_TESTS + " -k refused"),
    Fault("backward op silently constant", REGISTER, "if function is None:", "if False:", TORCH_TESTS + " -k itself"),
    Fault("config: a tile that spills", CONFIG, "RecurrentRow(2, 256, RecurrentConfig(16, 16, 64, 4))", "RecurrentRow(2, 256, RecurrentConfig(64, 64, 64, 4))", COMPILE_TESTS),
    Fault("config: a stale row", CONFIG, "    RecurrentRow(4, 1024, RecurrentConfig(32, 8, 64, 4)),\n)", "    RecurrentRow(4, 1024, RecurrentConfig(32, 8, 64, 4)),\n    RecurrentRow(4, 512, RecurrentConfig(32, 16, 64, 8)),\n)", COMPILE_TESTS),
    # Additive attention.
    Fault("softmax: -inf minus -inf", ATTENTION, 'shift = tl.where(highest == float("-inf"), 0.0, highest)', "shift = highest", ATTENTION_KERNEL_TESTS),
    Fault("softmax: sum not rescaled", ATTENTION, "total = total * tl.exp(before - shift) +", "total = total +", ATTENTION_KERNEL_TESTS),
    Fault("mask read the other way", ATTENTION, "(masks != 0)", "(masks == 0)", ATTENTION_KERNEL_TESTS),
    Fault("dquery: derivative of tanh", ATTENTION, "by_query += dscore * (1.0 - h * h)", "by_query += dscore * (1.0 - h)", ATTENTION_KERNEL_TESTS),
    Fault("dquery: masked NaN", ATTENTION, "h = tanh(tl.where(allowed[:, :, None], query[:, None, :] + key[None, :, :], 0.0))", "h = tanh(query[:, None, :] + key[None, :, :])", ATTENTION_KERNEL_TESTS),
    Fault("dv: factor forgotten", ATTENTION, "by_v += dscore * h", "by_v += dscore", ATTENTION_KERNEL_TESTS),
    Fault("dkeys: wrong offset", ATTENTION, "for q0 in range(0, tl.where(t0 < length, Q, 0), BLOCK_Q):", "for q0 in range(0, tl.where(t0 < length, Q - 1, 0), BLOCK_Q):", ATTENTION_KERNEL_TESTS),
    Fault("context: NaN in values", ATTENTION_OPS, "values.masked_fill(~allowed.any(1)[:, :, None], 0)", "values", ATTENTION_TESTS),
    Fault("dscore: wrong sign", ATTENTION_OPS, "value=-1)", "value=1)", ATTENTION_TESTS),
    Fault("torch path: tanh overflows", ATTENTION_CPU, ".clamp_(max=40)", "", ATTENTION_TESTS, quick=True),
    Fault("torch path: NaN in keys", ATTENTION_CPU, "keys = keys.masked_fill(~allowed.transpose(1, 2), 0)", "keys = keys.clone()", ATTENTION_TESTS),
    # Beam top-k and beam search.
    Fault("pack: ties to the highest index", BEAM, "(0x7FFFFFFF - index).to(tl.int64)", "index.to(tl.int64)", BEAM_KERNEL_TESTS),
    Fault("pack: NaN in no order", BEAM, "bits = tl.where(value == value, bits, 0x7FFFFFFF)", "bits = tl.where(value == value, bits, 0)", BEAM_KERNEL_TESTS),
    Fault("dead rows: log of 0", BEAM, "dead = total == 0.0", "dead = total < 0.0", BEAM_KERNEL_TESTS),
    Fault("chunks: padding counts as 0", BEAM, 'other=float("-inf")).to(tl.float32)', "other=0.0).to(tl.float32)", BEAM_KERNEL_TESTS),
    Fault("select: k of the wrong end", BEAM, "tl.where(mask, pack(score + ((chunk_max - row_max) - log_sum), chunks), NOTHING)", "tl.where(mask, pack(score - ((chunk_max - row_max) - log_sum), chunks), NOTHING)", BEAM_KERNEL_TESTS),
    Fault("backward: wrong sign at the chosen", BEAM, "(grad - total * tl.exp(", "(grad + total * tl.exp(", BEAM_KERNEL_TESTS),
    Fault("search: identical beams at first", SEARCH, "live[:, 0] = 0.0", "live[:, :] = 0.0", SEARCH_TESTS),
    Fault("search: state not reordered", SEARCH, "rows = (items + parents).flatten()", "rows = (items + 0 * parents).flatten()", SEARCH_TESTS),
    Fault("search: stops too early", SEARCH, "(max_length if length_penalty > 0 else t + 2.0)", "(max_length if length_penalty < 0 else t + 2.0)", SEARCH_TESTS),
    Fault("search: pad 0 taken for none", SEARCH, "if pad is None:", "if not pad:", SEARCH_TESTS),
    Fault("score: a sequence of length 0 is certain", SEARCH, "log_probs.masked_fill(lengths_ <= 0, NEVER)", "log_probs.clone()", SEARCH_TESTS),
    Fault("analysis: faults exchanged", "seqops/decoding/error_analysis.py", "missed = r_scores > h_scores", "missed = r_scores < h_scores", SEARCH_TESTS, quick=True),
]  # fmt: skip


def run_tests(fault: Fault | None, tests: str) -> tuple[bool, str]:
    """Whether the tests pass on a copy with the fault, and the first that fails."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        for name in ("seqops", "tests", "bench"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        # As a wheel has it, so that the copy's kernels are found, not the installed ones.
        shutil.copytree(ROOT / "kernels", copy / "seqops/kernels", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if fault is not None:
            place = fault.file if fault.file.startswith("seqops") else f"seqops/{fault.file}"
            path = copy / place
            source = path.read_text()
            if fault.old not in source:
                raise SystemExit(f"{fault.name}: {fault.file} no longer holds {fault.old!r}")
            path.write_text(source.replace(fault.old, fault.new, 1))
        environment = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header"]
        command += shlex.split(tests)
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=900)
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        if done.returncode not in (0, 1, 2):
            raise SystemExit(f"pytest {tests}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.returncode == 0, found[1] if found else done.stdout.strip().rpartition("\n")[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few faults, without a run that has none")
    parser.add_argument("--only", default="", help="only faults whose name or file holds this")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    faults = [f for f in FAULTS if options.only in f.name + f.file and (f.quick or not options.quick)]
    missed = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        selections = [] if options.quick else sorted({f.tests for f in faults})
        clean = pool.map(lambda tests: run_tests(None, tests), selections)
        for tests, (passed, first) in zip(selections, clean, strict=True):
            if not passed:
                print(f"without a fault, {tests} fails: {first}")
                return 1
        found = pool.map(lambda f: run_tests(f, f.tests), faults)
        for fault, (passed, first) in zip(faults, found, strict=True):
            verdict = "MISSED" if passed else "caught"
            print(f"{verdict}  {fault.file:32} {fault.name:48} {'' if passed else first}", flush=True)
            if passed:
                missed.append(fault.name)
    print(f"{len(faults)} faults, {len(faults) - len(missed)} caught, {len(missed)} missed")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
