"""Runs a few GPU tests under NVIDIA's compute-sanitizer, which sees what a right result does not show.

    python tests/sanitize.py [--tool memcheck|racecheck|initcheck|synccheck] [--timeout SECONDS] [TEST ...]

    memcheck   accesses outside of a tensor, or misaligned
    racecheck  hazards between the threads of a program in shared memory, and in no other: races between programs, in
               global memory, it does not see. Those the interpreter finds, and the repeats in test_gpu.py.
    initcheck  reads of global memory that nothing has written
    synccheck  barriers that not all threads of a program reach

Exit code 0 where the tests pass and nothing is found; FOUND where something is; else that of what went wrong.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import torch

ROOT = pathlib.Path(__file__).parents[1]
FOUND = 86
TIMED_OUT = 124
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# All kernels, forward and backward, in small sizes, some persistent, in several programs.
TESTS = (
    "tests/test_gru.py::test_gru",
    "tests/test_gru.py::test_gru_lengths",
    "tests/test_gru.py::test_gru_kernels_without_resident_weights",
    "tests/test_additive_attention.py::test_values_and_gradients",
    "tests/test_additive_attention.py::test_mask",
    "tests/test_beam_topk.py::test_gradients",
    "tests/test_row_update.py::test_is_that_of_a_loop",
    "tests/test_every_op.py::test_repeats_to_the_bit",
)
# The other tests fill empty memory, which hides that it was empty.
TESTS_FOR_INITCHECK = ("tests/test_gpu.py::test_repeats_to_the_bit",)


def find_sanitizer() -> str | None:
    """compute-sanitizer on PATH, else in the CUDA toolkit's folder."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = [os.environ.get("PATH", ""), *(os.path.join(home, "bin") for home in homes)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def command(sanitizer: str, tool: str, tests: list[str]) -> list[str]:
    """pytest over these tests, or those chosen for the tool, below the sanitizer."""
    tests = tests or list(TESTS_FOR_INITCHECK if tool == "initcheck" else TESTS)
    options = ["--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "application-only"]
    if tool == "memcheck":
        # An access a little past a tensor would else hit the next one.
        options += ["--padding", "4096"]
    if tool != "initcheck":
        # Torch's own kernels would take most of the time. To initcheck they matter: they write what ours read.
        texts = [path.read_text() for path in sorted((ROOT / "kernels").glob("[!_]*.py"))]
        names = re.findall(r"^def (\w+_kernel)\(", "\n".join(texts), re.MULTILINE)
        options += ["--kernel-name", f"regex={'|'.join(names)}"]
    return [sanitizer, *options, sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *tests]


def environment() -> dict[str, str]:
    """With each tensor an allocation of its own, so that its bounds are known."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return kept | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def run(arguments: list[str], timeout: float) -> int:
    """The command's exit code; TIMED_OUT, with all its processes ended, where it takes longer."""
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment(), start_new_session=True)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", choices=TOOLS, default="memcheck")
    parser.add_argument("--timeout", type=float, default=540.0, help="seconds until the run is ended")
    parser.add_argument("tests", nargs="*", metavar="TEST", help="these tests instead of a small selection")
    options = parser.parse_args()
    sanitizer = find_sanitizer()
    if sanitizer is None:
        sys.exit("sanitize: compute-sanitizer is neither on PATH nor in CUDA_HOME/bin")
    if not torch.cuda.is_available():
        sys.exit("sanitize: torch sees no GPU")
    code = run(command(sanitizer, options.tool, options.tests), options.timeout)
    outcomes = {0: "nothing found", FOUND: "findings, see above", TIMED_OUT: f"not done after {options.timeout:g} s"}
    print(f"sanitize: {options.tool}: {outcomes.get(code, f'failed with exit code {code}')}")
    return code


if __name__ == "__main__":
    sys.exit(main())
