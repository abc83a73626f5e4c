"""Sweeps launch configurations on the GPU at hand, and tells which rows of kernels/config.py should change.

    python bench/tune.py [--op OP] [--minutes M] [--out DIR] [--write] [--dry-run]

A candidate takes the place of a row. Its op's outputs and gradients are compared with the reference in float64; then
the kernels that read the row are timed, in turn with the present row, so that a drift of the clocks meets both. What
was measured is in DIR/tune.jsonl at once, and is not measured again on the same device with the same triton: take
another DIR after a change to a kernel. A short budget covers each row, the neighbours of the present ones first.

--write puts what has won into kernels/config.py: bench/inspect_kernels.py should then compile it for other GPUs.
Exit code 1 without a GPU.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import functools
import importlib
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)  # what is interpreted cannot be timed

import torch

from seqops.bench import harness
from seqops.bench.harness import Problem
from seqops.bench.tunables import (
    BENCHES,
    CHIPS,
    LIMITS,
    Candidate,
    Chip,
    Config,
    Slot,
    candidates,
    slots,
    stepwise_on,
)
from seqops.kernels import config

__all__ = ["Candidate", "main"]

# How much faster than the present row a candidate has to be, beyond the spread of both.
MARGIN = 0.03
# What one measurement of a candidate may take: seconds, and pairs of calls.
SECONDS, ROUNDS = 1.0, (10, 100)
# A candidate that has given no answer after so many seconds hangs. The largest kernels compile for a minute.
PATIENCE = 240.0

Record = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A candidate on one problem, in turn with `base`, the present row; alone where that does not work."""

    candidate: Candidate
    problem: Problem
    base: Config | None


@dataclass(frozen=True)
class Times:
    """Seconds of one call."""

    median: float
    p20: float
    p80: float


@dataclass(frozen=True)
class Outcome:
    """`status` is ok, fails or wrong; `lost` where the process can use its GPU no more."""

    status: str
    reason: str = ""
    error: float | None = None
    own: Times | None = None
    base: Times | None = None
    lost: bool = False


# Measuring, in a process that has a GPU.


@contextlib.contextmanager
def in_place(slot: Slot, own: Config) -> Iterator[None]:
    """The launchers read `own` in place of the present row."""
    table = getattr(config, slot.table)
    value: Any = own
    if isinstance(table, dict):
        value = {**table, slot.key: own}
    elif isinstance(table, tuple):
        value = tuple(dataclasses.replace(r, config=own) if i == slot.key else r for i, r in enumerate(table))
    with mock.patch.object(config, slot.table, value):
        yield


class Watched:
    """Stands in for a kernel: calls `before` ahead of each of its launches, then `after` with what was launched."""

    def __init__(self, kernel: Any, before: Callable[[], None], after: Callable[[Any], None]) -> None:
        self.kernel, self.before, self.after = kernel, before, after

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            self.before()
            self.after(self.kernel[grid](*arguments, **options))

        return launch


class Stopwatch:
    """Marks on the stream where the watched kernels' first launch of a lap begins, and where its last one ends."""

    def __init__(self, event: Callable[[], Any]) -> None:
        self.event, self.started, self.spills = event, False, 0
        self.laps: list[tuple[Any, Any]] = []

    def before(self) -> None:
        if not self.started:
            self.started = True
            self.laps.append((self.event(), self.event()))
            self.laps[-1][0].record()

    def after(self, compiled: Any) -> None:
        self.laps[-1][1].record()
        # The interpreter compiles nothing.
        self.spills = max(self.spills, getattr(compiled, "n_spills", None) or 0)

    def lap(self, run: Callable[[], Any]) -> Any:
        self.started = False
        result = run()
        if not self.started:
            raise RuntimeError("the op has not launched the kernels that read the row")
        return result

    @contextlib.contextmanager
    def watching(self, slot: Slot, problem: Problem) -> Iterator[None]:
        """A walk is of the form that reads the row, however large the problem."""
        with contextlib.ExitStack() as patches:
            if slot.table in LIMITS:
                limits = config.FormLimits(LIMITS[slot.table], LIMITS[slot.table])
                patches.enter_context(mock.patch.object(config, "FORMS", dict.fromkeys(config.FORMS, limits)))
            for name in slot.kernels(problem):
                # The recurrent ops share their walk.
                module = {"recurrent": "recurrent", "large": "recurrent_large"}.get(name.split("_")[0], slot.op)
                place = importlib.import_module(f"seqops.kernels.{module}")
                watched = Watched(getattr(place, name), self.before, self.after)
                patches.enter_context(mock.patch.object(place, name, watched))
            yield


@functools.cache
def prepared(op: str, problem: Problem) -> tuple[harness.Step, list[torch.Tensor]]:
    """A call of the op on inputs of its own, and the true outputs and gradients."""
    bench = BENCHES[op]
    inputs, truth = harness.inputs_and_truth(bench, problem)
    return harness.Step(bench.providers["seqops"](problem)(inputs), problem), truth


def step_and_truth(op: str, problem: Problem) -> tuple[harness.Step, list[torch.Tensor]]:
    """As `prepared`, kept for the next candidate while there is room on the GPU."""
    if problem.device == "cuda":
        memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        if torch.cuda.memory_allocated() > memory // 4:
            prepared.cache_clear()
    return prepared(op, problem)


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN, or the largest integer: an element that a kernel leaves out is not right by chance."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def check(trial: Trial) -> float:
    """The largest relative error of an output or gradient with the candidate in place."""
    slot = trial.candidate.slot
    step, truth = step_and_truth(slot.op, trial.problem)
    watch = Stopwatch(mock.Mock)
    with in_place(slot, trial.candidate.config), watch.watching(slot, trial.problem), poisoned_memory():
        got = watch.lap(step.checked)
    if watch.spills and not trial.candidate.is_present:
        raise RuntimeError(f"spills {watch.spills} registers")  # no row may, as bench/inspect_kernels.py has it
    return harness.relative_error(got, truth)


def filler() -> torch.Tensor:
    """What is written before each call: it empties the caches, and keeps the GPU busy until the launches are queued."""
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return torch.empty(min(2 << 30, memory // 16), dtype=torch.uint8, device="cuda")


def device_times(trial: Trial) -> tuple[list[float], list[float]]:
    """Seconds that the kernels under test take, of calls in turn: with the candidate, and with the base if any."""
    slot = trial.candidate.slot
    step, _ = step_and_truth(slot.op, trial.problem)
    watch, fill = Stopwatch(lambda: torch.cuda.Event(enable_timing=True)), filler()
    configs = [trial.candidate.config] if trial.base is None else [trial.candidate.config, trial.base]
    sides = range(len(configs))

    def call(sides: Iterable[int]) -> None:
        for side in sides:
            with in_place(slot, configs[side]):
                fill.zero_()
                watch.lap(step)
        torch.cuda.synchronize()

    with watch.watching(slot, trial.problem):
        call([*sides, *sides])
        start = time.perf_counter()
        call(sides)
        low, high = ROUNDS
        rounds = int(min(max(SECONDS / (time.perf_counter() - start), low), high))
        watch.laps.clear()
        # Neither of the two always follows the other.
        turns = [side for turn in range(rounds) for side in (sides if turn % 2 == 0 else sides[::-1])]
        call(turns)
    laps = [(side, start.elapsed_time(end) / 1e3) for side, (start, end) in zip(turns, watch.laps, strict=True)]
    return [lap for side, lap in laps if side == 0], [lap for side, lap in laps if side == 1]


def times(seconds: Sequence[float]) -> Times:
    low, *_, high = statistics.quantiles(seconds, n=5)
    return Times(statistics.median(seconds), low, high)


def reason_of(error: BaseException) -> str:
    """The first line and the last: a compiler's message ends with what matters, CUDA's begins with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join(dict.fromkeys([type(error).__name__, *lines[:1], *lines[-1:]]))[:500]


def usable() -> bool:
    """Whether the GPU still answers: after an illegal access it does not, to this process."""
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except Exception:
        return False
    return True


def measure(
    trial: Trial,
    check: Callable[[Trial], float] = check,
    timer: Callable[[Trial], tuple[Sequence[float], Sequence[float]]] = device_times,
) -> Outcome:
    """Checks the candidate, then times it. What it raises is an outcome too."""
    try:
        error = check(trial)
        tolerance = harness.TOLERANCE[trial.problem.dtype]
        if not error <= tolerance:
            reason = f"relative error {error:.3g}, allowed {tolerance:g}"
            return Outcome("wrong", reason, error if math.isfinite(error) else None)
        own, base = timer(trial)
        return Outcome("ok", "", error, times(own), times(base) if base else None)
    except Exception as error:
        return Outcome("fails", reason_of(error), lost=not usable())


def serve(function: Callable[..., Outcome], pipe: Connection) -> None:
    """Answers each call that comes through the pipe, until it is closed."""
    pipe.send(None)  # here, and with all modules
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(function(*pipe.recv()))


class Worker:
    """Calls a function in a process of its own, and in a new one after a call that hangs, aborts or loses the GPU."""

    def __init__(self, function: Callable[..., Outcome] = measure, patience: float = PATIENCE) -> None:
        self.function, self.patience = function, patience
        self.process: Any = None
        self.pipe: Any = None

    def __call__(self, *arguments: Any) -> Outcome:
        if self.process is None:
            self._start()
        try:
            self.pipe.send(arguments)
            if not self.pipe.poll(self.patience):
                self.stop()
                return Outcome("fails", f"no answer after {self.patience:g} s")
            outcome: Outcome = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            self.stop()
            return Outcome("fails", f"its process ended with exit code {code}")
        if outcome.lost:
            self.stop()
        return outcome

    def _start(self) -> None:
        # A forked process cannot use CUDA.
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(self.function, other), daemon=True)
        self.process.start()
        other.close()  # so that the pipe ends with the process
        try:
            self.pipe.recv()
        except EOFError:
            self.stop()
            raise RuntimeError("the measuring process does not start") from None

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None


# The sweep.


class Journal:
    """What was measured on this device with this triton: in a file of a JSON object a line."""

    def __init__(self, path: pathlib.Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.records: dict[tuple[str, ...], Record] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        for line in text.splitlines():
            # The last line of a run that was killed may be half a line.
            with contextlib.suppress(json.JSONDecodeError):
                self._keep(json.loads(line))
        if text and not text.endswith("\n"):
            self._append("\n")

    def _append(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)

    def _keep(self, record: Record) -> None:
        if all(record[n] == self.facts[n] for n in ("device", "triton")):
            own = json.dumps(record["config"], sort_keys=True)
            self.records[record["table"], record["bucket"], record["problem"], own] = record

    def find(self, candidate: Candidate, problem: Problem) -> Record | None:
        slot, own = candidate.slot, json.dumps(asdict(candidate.config), sort_keys=True)
        return self.records.get((slot.table, slot.bucket, str(problem), own))

    def add(self, trial: Trial, outcome: Outcome) -> Record:
        slot, problem = trial.candidate.slot, trial.problem
        record: Record = {
            "op": slot.op,
            "table": slot.table,
            "bucket": slot.bucket,
            "dtype": problem.dtype,
            "problem": str(problem),
            "config": asdict(trial.candidate.config),
            **(asdict(outcome.own) if outcome.own else dict.fromkeys(("median", "p20", "p80"))),
            "present": {"config": asdict(trial.base), **asdict(outcome.base)} if trial.base and outcome.base else None,
            "status": outcome.status,
            "reason": outcome.reason,
            "error": outcome.error,
            **self.facts,
        }
        self._append(json.dumps(record) + "\n")
        self._keep(record)
        return record


def facts_here() -> dict[str, Any]:
    """What a measurement depends on."""
    facts = harness.facts_of_this_machine("cuda")
    return {"device": facts["name"], "torch": facts["torch"], "triton": facts["triton"], "commit": facts["commit"]}


def in_turn(lists: Iterable[Sequence[Candidate]]) -> Iterator[Candidate]:
    """The first of each list, then the second of each, and so on."""
    for turn in itertools.zip_longest(*lists):
        yield from (candidate for candidate in turn if candidate is not None)


def works(candidate: Candidate, problem: Problem, journal: Journal) -> bool:
    record = journal.find(candidate, problem)
    return record is not None and record["status"] == "ok"


def sweep(
    lists: Sequence[Sequence[Candidate]],
    journal: Journal,
    measure: Callable[[Trial], Outcome],
    minutes: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = print,
) -> bool:
    """Measures what is not in the journal, all slots in turn; False where time was up before the end."""
    start = clock()
    total = sum(map(len, lists))
    for number, candidate in enumerate(in_turn(lists), 1):
        slot = candidate.slot
        for problem in slot.problems:
            record = journal.find(candidate, problem)
            if record is None:
                if clock() - start >= 60 * minutes:
                    say(f"time is up after {number - 1} of {total} candidates: the same command goes on from here")
                    return False
                present = Candidate(slot, slot.present)
                base = slot.present if candidate.is_present or works(present, problem, journal) else None
                record = journal.add(trial := Trial(candidate, problem, base), measure(trial))
                say(f"[{number:4}/{total} {clock() - start:5.0f} s] {slot}: {problem}: {told(record, candidate)}")
            # All of the present row is needed: others are compared with it.
            if not candidate.is_present and hopeless(record):
                break
    return True


def told(record: Record, candidate: Candidate) -> str:
    own, base = times_of(record)
    if own is None:
        return f"{values(candidate.config)} {record['status']}: {record['reason']}"
    beside = f", {own.median / base.median:.2f} of the present row's" if base else ""
    return f"{values(candidate.config)} {own.median * 1e3:.4f} ms{beside}"


def values(own: Config) -> str:
    return " ".join(f"{name}={value}" for name, value in asdict(own).items())


# The choice.


def times_of(record: Record) -> tuple[Times | None, Times | None]:
    """The candidate's times and those of the present row beside it."""
    own, base = (
        Times(r["median"], r["p20"], r["p80"]) if r and r["median"] is not None else None
        for r in (record, record["present"])
    )
    return own, base


def faster(a: Times, b: Times) -> bool:
    """By more than the margin and beyond the spread."""
    return a.median < (1 - MARGIN) * b.median and a.p80 < b.p20


def hopeless(record: Record) -> bool:
    """Whether the candidate cannot win any more: a row must not make any of its problems slower."""
    own, base = times_of(record)
    return own is None or (base is not None and faster(base, own))


def gain(candidate: Candidate, journal: Journal) -> float | None:
    """The candidate's time over the present row's, as a geometric mean over the problems; None where it must not win.

    It must be right and no slower on all of them, and faster on one at least: a row may serve kernels of which each
    problem runs some. Where the present row does not work, one that does wins.
    """
    ratios, some, rescues = [], False, False
    for problem in candidate.slot.problems:
        record = journal.find(candidate, problem)
        if record is None or hopeless(record):
            return None
        own, base = times_of(record)
        assert own is not None
        if base is None:
            if works(Candidate(candidate.slot, candidate.slot.present), problem, journal):
                return None  # measured when another row, which did not work, was the present one
            rescues = True
        elif record["present"]["config"] != asdict(candidate.slot.present):
            return None  # compared with a row that is the present one no more
        else:
            some |= faster(own, base)
        ratios.append(own.median / (base.median if base else 1.0))
    mean = statistics.geometric_mean(ratios)
    return mean if rescues or (some and mean < 1) else None


def choose(own: Sequence[Candidate], journal: Journal) -> Candidate:
    """The best of a slot's candidates, of which the first is the present row."""
    gains = {candidate: gain(candidate, journal) for candidate in own[1:]}
    winners = {candidate: found for candidate, found in gains.items() if found is not None}
    return min(winners, key=winners.__getitem__, default=own[0])


def summary(chosen: Candidate, own: Sequence[Candidate], journal: Journal) -> Iterator[str]:
    """What is known of a slot: the choice, then each problem's times before and after, and the best seen on it."""
    slot = chosen.slot
    tried = [c for c in own if journal.find(c, slot.problems[0])]
    if not tried:
        yield f"{slot}: nothing measured"
        return
    yield f"{slot}: {'stays' if chosen.is_present else 'changes'}, {len(tried)} of {len(own)} candidates tried"
    yield f"    present  {slot.present!r}"
    if not chosen.is_present:
        elsewhere = stepwise_on(chosen)
        yield f"    chosen   {chosen.config!r}" + (f", step by step on {', '.join(elsewhere)}" if elsewhere else "")
    for problem in slot.problems:
        yield f"    {problem}: {before_and_after(chosen, own, problem, journal)}"


def before_and_after(chosen: Candidate, own: Sequence[Candidate], problem: Problem, journal: Journal) -> str:
    record = journal.find(chosen, problem)
    if record is None or record["status"] != "ok":
        return "not measured" if record is None else f"{record['status']}: {record['reason']}"
    after, before = times_of(record)
    assert after is not None
    if chosen.is_present:
        text = f"{after.median * 1e3:.4f} ms"
    else:
        text = f"{before.median * 1e3:.4f} ms" if before else "fails"
        text += f" -> {after.median * 1e3:.4f} ms"
    found = [(c, journal.find(c, problem)) for c in own]
    ratios = {c: a.median / b.median for c, r in found if r for a, b in [times_of(r)] if a and b}
    best = min(ratios, key=ratios.__getitem__, default=chosen)
    if best != chosen and not best.is_present:
        text += f"; here the best was {ratios[best]:.2f} of the present row's: {values(best.config)}"
    return text


# Writing.


def config_call(source: str, slot: Slot) -> ast.Call:
    """Where the source makes the slot's config."""
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != slot.table:
            continue
        value = node.value
        if isinstance(value, ast.Dict):
            keys = [ast.literal_eval(key) for key in value.keys if key is not None]
            value = value.values[keys.index(slot.key)]
        elif isinstance(value, ast.Tuple) and slot.key is not None:
            row = value.elts[slot.key]
            assert isinstance(row, ast.Call)
            value = arguments_of(row, config.RecurrentRow)["config"]
        assert isinstance(value, ast.Call)
        return value
    raise LookupError(f"no {slot.table} in the source")


def arguments_of(call: ast.Call, dataclass: type) -> dict[str, ast.expr]:
    """The arguments of a call of the dataclass, by the fields' names."""
    names = [f.name for f in dataclasses.fields(dataclass)]
    return dict(zip(names, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}


def edited(source: str, chosen: Candidate) -> str:
    """The source with the chosen config's numbers in the place of those that are there, and nothing else changed."""
    slot, given = chosen.slot, arguments_of(config_call(source, chosen.slot), type(chosen.config))
    there = type(chosen.config)(**{name: ast.literal_eval(node) for name, node in given.items()})
    if there not in (slot.present, chosen.config):
        raise ValueError(f"{slot}: {there!r} in the source, but {slot.present!r} was measured")
    lines = source.encode().split(b"\n")  # ast counts bytes
    for name, node in sorted(given.items(), key=lambda item: (item[1].lineno, item[1].col_offset), reverse=True):
        line = lines[node.lineno - 1]
        value = repr(getattr(chosen.config, name)).encode()
        lines[node.lineno - 1] = line[: node.col_offset] + value + line[node.end_col_offset :]
    return b"\n".join(lines).decode()


def write(path: pathlib.Path, chosen: Iterable[Candidate]) -> list[Candidate]:
    """Puts the chosen configs into the source file; gives those that were not there yet."""
    before = source = path.read_text()
    changed = []
    for candidate in chosen:
        new = edited(source, candidate)
        if new != source:
            changed.append(candidate)
        source = new
    if source != before:
        path.write_text(source)
    return changed


def chip_here() -> Chip:
    from seqops.kernels.common import resident_limits

    return Chip(*resident_limits(torch.device("cuda", torch.cuda.current_device())))


def dry_run(lists: Sequence[Sequence[Candidate]], say: Callable[[str], None] = print) -> None:
    """Lists the candidates, with their numbers."""
    for own in lists:
        slot = own[0].slot
        say(f"{slot}: {len(own)} candidates, {len(slot.problems)} problems")
        for problem in slot.problems:
            say(f"    on {problem}")
        for candidate in own:
            say(f"    {values(candidate.config)}{'  (present)' if candidate.is_present else ''}")
    say(f"{sum(map(len, lists))} candidates for {len(lists)} rows")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=list(BENCHES))
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no candidate after so long")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"), help="where tune.jsonl lies (out)")
    parser.add_argument("--write", action="store_true", help="put what has won into kernels/config.py")
    parser.add_argument("--dry-run", action="store_true", help="list the candidates; without a GPU, those for an H100")
    options = parser.parse_args(arguments)
    gpu = torch.cuda.is_available()
    if not gpu and not options.dry_run:
        print("tune.py needs a GPU; --dry-run lists the candidates without one", file=sys.stderr)
        return 1
    chip = chip_here() if gpu else CHIPS["H100"]
    lists = []
    for slot in slots(chip, options.op):
        if slot.problems:
            lists.append(candidates(slot, chip))
        else:
            print(f"{slot}: not read on this chip")
    if options.dry_run:
        dry_run(lists)
        return 0

    journal = Journal(options.out / "tune.jsonl", facts_here())
    worker = Worker()
    try:
        sweep(lists, journal, worker, options.minutes, say=functools.partial(print, flush=True))
    finally:
        worker.stop()
    print()
    chosen = [choose(own, journal) for own in lists]
    for own, best in zip(lists, chosen, strict=True):
        print("\n".join(summary(best, own, journal)))
    better = [best for best in chosen if not best.is_present]
    if not options.write:
        print(f"{len(better)} rows would change; --write changes them")
        return 0
    path = pathlib.Path(config.__file__)
    changed = write(path, better)
    for best in changed:
        print(f"written: {best.slot}: {best.slot.present!r} -> {best.config!r}")
    print(f"{len(changed)} rows changed in {path}" + ("; now: python bench/inspect_kernels.py" if changed else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
