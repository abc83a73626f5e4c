"""What all benchmarks share: what an op's file says of it, and how a provider is checked and timed.

A file `bench_<op>.py` holds one `Bench`: shapes, inputs, reference, providers, work. A row is one provider on one
problem. Nothing is timed before its outputs and gradients have been compared with the reference in float64.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import itertools
import math
import pathlib
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqops.bench.roofline import Work

__all__ = [
    "Bench",
    "Problem",
    "Row",
    "Step",
    "Unavailable",
    "compiled",
    "facts_of_this_machine",
    "from_function",
    "inputs_and_truth",
    "relative_error",
    "time_row",
]

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Prepared:
    """`call` runs the op on inputs of its own; `leaves` are those whose gradients training asks for, as the inputs lie.

    `restore` brings a gradient into the layout of the input, untimed: for peers whose weights lie otherwise.
    """

    call: Callable[[], Any]
    leaves: Sequence[Tensor]
    restore: Callable[[int, Tensor], Tensor] = lambda i, grad: grad


# From a problem, what prepares a call for one set of inputs. Raises Unavailable.
Provider = Callable[["Problem"], Callable[[Inputs], Prepared]]

# How far an output or gradient may be from float64's, relative in norm: wrong code is further off, rounding is not.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}


# A core's share of the last cache is rarely more.
CPU_CACHE = 32 << 20


class Unavailable(Exception):
    """Why a provider cannot run here."""


@dataclass(frozen=True)
class Problem:
    """`training` is forward and backward; `quick` problems are in the quick set too."""

    sizes: tuple[tuple[str, int], ...]
    dtype: str = "float32"
    training: bool = False
    quick: bool = False
    device: str = "cpu"

    @property
    def size(self) -> dict[str, int]:
        return dict(self.sizes)

    @property
    def mode(self) -> str:
        return "forward+backward" if self.training else "forward"

    def __str__(self) -> str:
        sizes = " ".join(f"{n}={v}" for n, v in self.sizes)
        return f"{sizes} {self.dtype} {self.mode}"


@dataclass(frozen=True, eq=False)
class Bench:
    """An op's benchmark. The first provider is ours. `work` counts the forward, or forward and backward."""

    op: str
    family: str
    cpu: Sequence[Problem]
    gpu: Sequence[Problem]
    inputs: Callable[[Problem], Inputs]
    reference: Provider
    providers: dict[str, Provider]
    work: Callable[[Problem], Work]

    def problems(self, device: str, quick: bool) -> Iterator[Problem]:
        for p in self.gpu if device == "cuda" else self.cpu:
            if p.quick or not quick:
                yield Problem(p.sizes, p.dtype, p.training, p.quick, device)


@dataclass(frozen=True)
class Row:
    bench: Bench
    problem: Problem
    provider: str

    def __str__(self) -> str:
        return f"{self.bench.op} {self.problem} {self.provider}"

    def names(self) -> dict[str, Any]:
        """What the row is, as plain data."""
        p = self.problem
        return {
            "op": self.bench.op,
            "family": self.bench.family,
            "sizes": p.size,
            "dtype": p.dtype,
            "mode": p.mode,
            "provider": self.provider,
            "ours": self.provider == next(iter(self.bench.providers)),
        }


def from_function(fn: Callable[..., Any], **options: Any) -> Provider:
    """A provider that calls fn(**inputs, **options)."""

    def prepare(inputs: Inputs) -> Prepared:
        return Prepared(lambda: fn(**inputs, **options), [t for t in inputs.values() if t.requires_grad])

    return lambda problem: prepare


def compiled(fn: Callable[..., Any], **options: Any) -> Provider:
    """A provider that calls torch.compile(fn)."""

    def provide(problem: Problem) -> Callable[[Inputs], Prepared]:
        torch._dynamo.reset()
        return from_function(torch.compile(fn, dynamic=False), **options)(problem)

    return provide


def _outputs(result: Any) -> list[Tensor]:
    outputs = (result,) if isinstance(result, Tensor) else result
    return [o for o in outputs if o is not None and o.is_floating_point()]


def _random_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(t.shape, generator=generator).to(t.device, t.dtype) for t in tensors]


class Step:
    """One call of a provider on one set of inputs: forward, or forward and backward."""

    def __init__(self, prepared: Prepared, problem: Problem) -> None:
        self.prepared, self.training = prepared, problem.training
        self.weights: list[Tensor] = []

    def __call__(self) -> tuple[list[Tensor], Sequence[Tensor]]:
        """The outputs and the gradients."""
        if not self.training:
            with torch.no_grad():
                return _outputs(self.prepared.call()), ()
        outputs = [o for o in _outputs(self.prepared.call()) if o.requires_grad]
        if not self.weights:
            self.weights = _random_like(outputs)
        return outputs, torch.autograd.grad(outputs, list(self.prepared.leaves), self.weights)

    def checked(self) -> list[Tensor]:
        """The same, to be compared: the gradients in the inputs' layout."""
        outputs, grads = self()
        return [t.detach().float() for t in (*outputs, *itertools.starmap(self.prepared.restore, enumerate(grads)))]


def _leaves(inputs: Inputs, problem: Problem) -> Inputs:
    """Copies, that require grad where training asks for it."""
    return {n: t.detach().clone().requires_grad_(problem.training and t.is_floating_point()) for n, t in inputs.items()}


# The providers of a problem follow one another.
@functools.lru_cache(maxsize=1)
def inputs_and_truth(bench: Bench, problem: Problem) -> tuple[Inputs, list[Tensor]]:
    inputs = _leaves({n: t.to(problem.device) for n, t in bench.inputs(problem).items()}, problem)
    exact = {n: t.double() if t.is_floating_point() else t for n, t in inputs.items()}
    step = Step(bench.reference(problem)(_leaves(exact, problem)), problem)
    return inputs, step.checked()


def relative_error(got: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest relative error in norm of an output or gradient; NaN where there is one."""
    if len(got) != len(truth):
        raise AssertionError(f"{len(got)} outputs and gradients, expected {len(truth)}")
    errors = []
    for a, b in zip(got, truth, strict=True):
        error = (a.reshape(b.shape) - b).norm() / b.norm().clamp_min(1e-30)
        errors.append(error.item())
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _copies(inputs: Inputs, device: str) -> int:
    """How many sets of inputs it takes that the cache holds none when its turn comes."""
    size = max(1, sum(t.numel() * t.element_size() for t in inputs.values()))
    if device == "cuda":
        cache, room = torch.cuda.get_device_properties(0).L2_cache_size, 8 << 30
    else:
        cache, room = CPU_CACHE, 1 << 30
    return max(1, min(-(-2 * cache // size), room // size, 64))


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _device_times(steps: Sequence[Step], rounds: int) -> list[float]:
    """Seconds between events around each call."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for (start, end), step in zip(events, itertools.cycle(steps), strict=False):
        start.record()
        step()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def _graph_time(steps: Sequence[Step], rounds: int) -> float:
    """Seconds of one call, from the replay of a CUDA graph that holds one of each: no launch gaps."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for step in steps:
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for step in steps:
            step()
    graph.replay()
    times = []
    for _ in range(max(3, rounds // len(steps))):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / len(steps))
    return statistics.median(times)


def _peak_memory(step: Step) -> int:
    """Bytes that a call takes beyond what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def facts_of_this_machine(device: str) -> dict[str, Any]:
    """What a measurement depends on: device, versions, commit, date."""
    facts: dict[str, Any] = {"device": device, "date": datetime.date.today().isoformat()}
    if device == "cuda":
        facts["name"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.hip or torch.version.cuda
    else:
        facts["name"] = f"{cpu_name()}, {torch.get_num_threads()} threads"
    facts["python"] = platform.python_version()
    for package in ("torch", "triton", "numpy", "seqops"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = None
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=pathlib.Path(__file__).parent, capture_output=True, text=True
    )
    facts["commit"] = git.stdout.strip() or None
    return facts


def cpu_name() -> str:
    try:
        info = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        info = ""
    found = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def time_row(row: Row, benchmark: Any, seconds: float) -> dict[str, Any]:
    """Checks the provider on the problem, then times it for about `seconds`, through pytest-benchmark's fixture.

    Gives what the row says beside the times: `error`, `first_call` (seconds, compilation with it) and, on a GPU,
    `device` and `graph` (seconds a call by events, and by replay of a CUDA graph) and `peak` bytes. Raises Unavailable
    where the provider cannot run, AssertionError where it is wrong.
    """
    bench, problem = row.bench, row.problem
    inputs, truth = inputs_and_truth(bench, problem)
    prepare = bench.providers[row.provider](problem)
    step = Step(prepare(inputs), problem)
    start = time.perf_counter()
    got = step.checked()
    _synchronize(problem.device)
    facts: dict[str, Any] = {"first_call": time.perf_counter() - start, "error": relative_error(got, truth)}
    tolerance = TOLERANCE[problem.dtype]
    if not facts["error"] <= tolerance:
        raise AssertionError(f"{row}: relative error {facts['error']:.3g}, allowed {tolerance:g}: not timed")
    del got

    others = [_leaves(inputs, problem) for _ in range(_copies(inputs, problem.device) - 1)]
    steps = [step, *(Step(prepare(i), problem) for i in others)]
    for other in steps:
        other()
    _synchronize(problem.device)
    start = time.perf_counter()
    steps[0]()
    _synchronize(problem.device)
    once = time.perf_counter() - start
    rounds = int(min(max(seconds / once, 5), 1000))

    turn = itertools.cycle(steps)

    def timed(step: Step) -> None:
        step()
        _synchronize(problem.device)

    benchmark.pedantic(timed, setup=lambda: ((next(turn),), {}), rounds=rounds)
    if problem.device == "cuda":
        facts["device"] = statistics.median(_device_times(steps, rounds))
        facts["peak"] = _peak_memory(step)
        try:
            # Of a call that takes long, such as a loop over time, few: a graph of all its launches takes long to make.
            facts["graph"] = _graph_time(steps[: max(1, min(8, int(0.1 / once)))], rounds)
        except RuntimeError as error:
            facts["no graph"] = str(error).splitlines()[0]
            torch.cuda.synchronize()
    return facts
