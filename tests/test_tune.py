"""The sweep of launch configurations: what it tries, what it keeps, what it chooses and what it writes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import INTERPRET

from seqops.bench import bench_additive_attention, bench_beam_topk, recurrent, tunables, tune
from seqops.bench.harness import Problem
from seqops.bench.tunables import Candidate, Slot
from seqops.bench.tune import Journal, Outcome, Times, Trial
from seqops.kernels import config
from seqops.ops import _register

SOURCE = pathlib.Path(config.__file__)
H100 = tunables.CHIPS["H100"]
SLOTS = {str(slot): slot for slot in tunables.slots(H100)}
FACTS = {"device": "a GPU", "torch": "2", "triton": "3", "commit": "abc"}


def times(median: float, spread: float = 0.01) -> Times:
    return Times(median, median * (1 - spread), median * (1 + spread))


def measured(own: float, base: float | None = 1.0, spread: float = 0.01) -> Outcome:
    return Outcome("ok", "", 1e-4, times(own, spread), None if base is None else times(base, spread))


class Fake:
    """Measures by a function of the candidate, and keeps what was asked of it."""

    def __init__(self, outcome: Callable[[Trial], Outcome] = lambda trial: measured(1.0)) -> None:
        self.outcome = outcome
        self.trials: list[Trial] = []

    def __call__(self, trial: Trial) -> Outcome:
        self.trials.append(trial)
        return self.outcome(trial)

    def stop(self) -> None:
        pass


def silent(text: str) -> None:
    pass


@pytest.fixture
def journal(tmp_path: pathlib.Path) -> Journal:
    return Journal(tmp_path / "tune.jsonl", FACTS)


def three(name: str, problems: int = 1) -> list[Candidate]:
    """The present row of a slot, and two others, on so many problems."""
    slot = SLOTS[name]
    slot = dataclasses.replace(slot, problems=slot.problems[:problems])
    assert len(slot.problems) == problems
    return tunables.candidates(slot, H100)[:3]


def chosen(own: list[Candidate], journal: Journal, outcomes: Iterable[Outcome]) -> Candidate:
    """The choice among candidates after these outcomes, one for each trial in turn."""
    turn = iter(outcomes)
    tune.sweep([own], journal, Fake(lambda trial: next(turn)), say=silent)
    assert next(turn, None) is None
    return tune.choose(own, journal)


def test_every_row_is_a_slot() -> None:
    for name in tunables.KERNELS:
        table = getattr(config, name)
        keys = list(table) if isinstance(table, dict) else range(len(table)) if isinstance(table, tuple) else [None]
        assert [slot.key for slot in SLOTS.values() if slot.table == name] == list(keys)
    assert all(slot.problems for slot in SLOTS.values())
    assert all(p.device == "cuda" and slot.kernels(p) for slot in SLOTS.values() for p in slot.problems)


@pytest.mark.parametrize("chip", tunables.CHIPS.values(), ids=tunables.CHIPS)
def test_candidates(chip: tunables.Chip) -> None:
    for slot in tunables.slots(chip):
        own = tunables.candidates(slot, chip)
        assert own[0].config is slot.present
        assert own[0].is_present
        assert len({c.config for c in own}) == len(own)
        for c in own:
            assert type(c.config) is type(slot.present)
            sizes = {n: v for n, v in dataclasses.asdict(c.config).items() if n not in ("log_candidates", "resident")}
            # The limits of FORMS are counts of operations.
            assert slot.table == "FORMS" or all(v > 0 and v & (v - 1) == 0 for v in sizes.values())


@pytest.mark.parametrize("chip", tunables.CHIPS.values(), ids=tunables.CHIPS)
def test_recurrent_candidates_are_what_the_launcher_picks(chip: tunables.Chip) -> None:
    for slot in tunables.slots(chip):
        for c in tunables.candidates(slot, chip) if isinstance(slot.present, config.RecurrentConfig) else []:
            assert c.config.block_b <= 64
            for problem in slot.problems:
                with tune.in_place(slot, c.config):
                    table = getattr(config, f"{slot.op.upper()}_{'BWD' if problem.training else 'FWD'}")
                    assert tunables.picked(table, slot.op, problem, chip) is c.config


def test_rows_that_would_no_longer_be_persistent_are_named() -> None:
    row = config.GRU_FWD[2]
    slot = next(s for s in SLOTS.values() if s.table == "GRU_FWD" and s.key == 2)
    small = Candidate(slot, row.config)
    # Twice the units: twice the weights, more than an A100 has room for.
    large = Candidate(slot, dataclasses.replace(row.config, block_h=2 * row.config.block_h))
    assert tunables.stepwise_on(small) == []
    assert "A100" in tunables.stepwise_on(large)
    assert not set(tunables.stepwise_on(large)) & {"H100", "B200"}


@pytest.mark.parametrize("itemsize", config.FORMS)
def test_forms_are_tried_on_both_sides_of_their_limits(itemsize: int) -> None:
    slot = next(slot for slot in SLOTS.values() if slot.table == "FORMS" and slot.key == itemsize)
    tiles = [config.RecurrentConfig(16, 16, 64, 4, resident=r) for r in (True, False)]
    for candidate in tunables.candidates(slot, H100):
        with tune.in_place(slot, candidate.config):
            found = {
                config.form(tile, tunables.dtype_of(p), 3, p.size["H"], p.size["B"])
                for tile in tiles
                for p in slot.problems
            }
        assert "large" in found
        assert not candidate.is_present or found == {"resident", "streaming", "large"}


def test_beam_candidates_have_a_plan() -> None:
    beam_topk = pytest.importorskip("seqops.kernels.beam_topk")
    slot = SLOTS["BEAM_TOPK"]
    for c in tunables.candidates(slot, H100):
        for beam, V, k in ((1, 1, 1), *((p.size["beam"], p.size["V"], p.size["k"]) for p in slot.problems)):
            with tune.in_place(slot, c.config):
                plan = beam_topk.plan(beam, V, k)
            assert plan.select["LOG_PART"] >= 0
            assert plan.n_chunks * plan.chunks["CHUNK"] >= V


def test_in_place_is_undone() -> None:
    before = {name: getattr(config, name) for name in tunables.KERNELS}
    for slot in SLOTS.values():
        own = tunables.candidates(slot, H100)[1]
        with tune.in_place(slot, own.config):
            changed = [name for name in before if getattr(config, name) is not before[name]]
        assert changed == [slot.table]
        assert all(getattr(config, name) is value for name, value in before.items())


PASSES = [
    (table, training) for table in tunables.KERNELS for training in (False, True) if tunables.KERNELS[table][training]
]


def tiny(table: str, training: bool = False) -> Problem:
    if table.startswith("ADDITIVE"):
        return bench_additive_attention.problem(2, 3, 5, 6, training=training)
    if table.startswith("BEAM"):
        return bench_beam_topk.problem(2, 2, 300, training=training)
    return recurrent.problem(3, 2, 5, training=training)


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    if not INTERPRET:
        pytest.skip("Triton compiles for the GPU in this process")
    monkeypatch.setattr(_register, "INTERPRET", True)


@pytest.mark.parametrize(("table", "training"), PASSES)
def test_check(table: str, training: bool, interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row's kernels run with the candidate, and give what is right."""
    # The first row for float32.
    rows = getattr(config, table) if table.endswith(("_FWD", "_BWD")) and not table.startswith("ADD") else ()
    small = [i for i, row in enumerate(rows) if row.itemsize == 4][:1]
    slot = next(slot for slot in SLOTS.values() if slot.table == table and slot.key in (None, 4, *small))
    if table in ("STREAMING", "LARGE"):
        monkeypatch.setattr(config, "GRU_FWD", ())
        monkeypatch.setattr(config, "GRU_BWD", ())
    own = tunables.candidates(slot, H100)[-1]
    assert tune.check(Trial(own, tiny(table, training), None)) < 1e-5


def test_an_op_that_does_not_launch_the_kernels(cpu_path: None) -> None:
    pytest.importorskip("triton")
    own = three("ADDITIVE_ATTENTION_FWD")[1]
    outcome = tune.measure(Trial(own, tiny("ADDITIVE_ATTENTION_FWD"), None))
    assert outcome.status == "fails"
    assert "has not launched the kernels" in outcome.reason


def test_what_a_kernel_leaves_out_is_seen() -> None:
    with tune.poisoned_memory():
        assert torch.empty(3).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("alone", [False, True])
def test_times_are_of_their_side(alone: bool, interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that tell the row in place: the candidate's calls take block_q milliseconds, and so do the base's."""

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = config.ADDITIVE_ATTENTION_SOFTMAX.block_q

        def elapsed_time(self, end: Event) -> float:
            assert self.at == end.at
            return self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(tune, "filler", lambda: torch.empty(1))
    monkeypatch.setattr(tune, "ROUNDS", (3, 3))
    slot = SLOTS["ADDITIVE_ATTENTION_SOFTMAX"]
    own = dataclasses.replace(slot.present, block_q=2 * slot.present.block_q)
    base = None if alone else slot.present
    found = tune.device_times(Trial(Candidate(slot, own), tiny(slot.table), base))
    assert found == ([own.block_q / 1e3] * 3, [] if alone else [slot.present.block_q / 1e3] * 3)


def test_measure() -> None:
    present, own, _ = three("BEAM_TOPK")
    trial = Trial(own, own.slot.problems[0], present.config)

    def times_in_turn(trial: Trial) -> tuple[list[float], list[float]]:
        return [1.0, 2.0, 3.0, 4.0, 5.0], [2.0] * 5

    def fails(trial: Trial) -> Any:
        raise RuntimeError("out of resource: shared memory\n\n  Required: 300000")

    good = tune.measure(trial, lambda trial: 1e-6, times_in_turn)
    assert good == Outcome("ok", "", 1e-6, Times(3.0, 1.2, 4.8), Times(2.0, 2.0, 2.0))
    wrong = tune.measure(trial, lambda trial: 0.5, times_in_turn)
    assert (wrong.status, wrong.reason) == ("wrong", "relative error 0.5, allowed 0.05")
    assert tune.measure(trial, lambda trial: float("nan"), times_in_turn).status == "wrong"
    for failed in (tune.measure(trial, fails, times_in_turn), tune.measure(trial, lambda trial: 0.0, fails)):
        reason = "RuntimeError: out of resource: shared memory: Required: 300000"
        assert failed == Outcome("fails", reason)


def test_sweep_resumes(journal: Journal) -> None:
    lists = [three("GRU_FACTORS"), three("BEAM_TOPK", problems=2)]
    first = Fake()
    assert tune.sweep(lists, journal, first, say=silent)
    assert len(first.trials) == 3 * 1 + 3 * 2
    # A killed run leaves half a line.
    text = journal.path.read_text()
    assert len(text.splitlines()) == 9
    journal.path.write_text(text + text[:40])

    again, elsewhere = Fake(), Fake()
    assert tune.sweep(lists, Journal(journal.path, FACTS), again, say=silent)
    assert again.trials == []
    assert tune.sweep(lists, Journal(journal.path, {**FACTS, "triton": "4"}), elsewhere, say=silent)
    assert elsewhere.trials == first.trials
    last = json.loads(journal.path.read_text().splitlines()[-1])
    assert last["triton"] == "4"
    assert {"op", "table", "bucket", "dtype", "config", "median", "p20", "p80", "status", "device", "torch"} <= set(
        last
    )


def test_sweep_takes_rows_in_turn_within_its_time(journal: Journal) -> None:
    now = 0.0

    def one_minute(trial: Trial) -> Outcome:
        nonlocal now
        now += 60.0
        return measured(1.0)

    lists = [three(name) for name in ("GRU_FACTORS", "BEAM_TOPK", "ADDITIVE_ATTENTION_FWD")]
    fake, said = Fake(one_minute), list[str]()
    assert not tune.sweep(lists, journal, fake, 4, lambda: now, said.append)
    assert [(t.candidate.slot.op, t.candidate.is_present) for t in fake.trials] == [
        ("gru", True),
        ("beam_topk", True),
        ("additive_attention", True),
        ("gru", False),
    ]
    assert said[-1] == "time is up after 4 of 9 candidates: the same command goes on from here"
    assert tune.sweep(lists, journal, fake, 6, lambda: now, said.append)
    assert len(fake.trials) == 9


def test_a_failing_candidate_is_recorded_and_dropped(journal: Journal) -> None:
    own = three("BEAM_TOPK", problems=2)
    fake = Fake(lambda t: Outcome("fails", "out of registers") if t.candidate == own[1] else measured(1.0))
    assert tune.sweep([own], journal, fake, say=silent)
    assert [t.candidate for t in fake.trials] == [own[0], own[0], own[1], own[2], own[2]]
    record = journal.find(own[1], own[1].slot.problems[0])
    assert record is not None
    assert (record["status"], record["reason"], record["median"]) == ("fails", "out of registers", None)
    assert "fails: out of registers" in tune.told(record, own[1])
    assert tune.choose(own, journal) is own[0]


def test_a_slower_candidate_is_not_tried_further(journal: Journal) -> None:
    own = three("BEAM_TOPK", problems=2)
    fake = Fake(lambda t: measured(1.5 if t.candidate == own[1] else 1.0))
    tune.sweep([own], journal, fake, say=silent)
    assert sum(t.candidate == own[1] for t in fake.trials) == 1


def test_the_fastest_that_is_right_wins(journal: Journal) -> None:
    own = three("GRU_FACTORS")
    assert chosen(own, journal, [measured(1.0), measured(0.9), measured(0.8)]) is own[2]


def test_a_wrong_candidate_never_wins(journal: Journal) -> None:
    own = three("GRU_FACTORS")
    fake = Fake(
        lambda t: tune.measure(t, lambda t: 0.9 if t.candidate == own[1] else 0.0, lambda t: ([0.1] * 5, [1.0] * 5))
    )
    tune.sweep([own], journal, fake, say=silent)
    assert tune.choose(own, journal) is own[2]


@pytest.mark.parametrize(
    "other",
    [measured(0.98), measured(0.9, spread=0.1), measured(1.1), Outcome("fails", "")],
    ids=["margin", "spread", "slower", "fails"],
)
def test_the_present_row_stays(journal: Journal, other: Outcome) -> None:
    own = three("GRU_FACTORS")
    assert chosen(own, journal, [measured(1.0), other, other]) is own[0]


def test_a_row_may_make_no_problem_slower(journal: Journal) -> None:
    own = three("GRU_FACTORS", problems=2)
    present = [measured(1.0), measured(1.0)]
    assert chosen(own, journal, [*present, measured(0.5), measured(1.2), measured(0.9), measured(1.01)]) is own[2]


def test_a_row_may_make_only_some_problems_faster(journal: Journal) -> None:
    own = three("GRU_FACTORS", problems=2)
    present, equal = [measured(1.0), measured(1.0)], [measured(0.99), measured(0.99)]
    assert chosen(own, journal, [*present, *equal, measured(1.0), measured(0.96)]) is own[2]


def test_a_row_may_not_be_slower_in_the_mean(journal: Journal) -> None:
    own = three("GRU_FACTORS", problems=2)
    noisy = measured(1.2, spread=0.3)
    assert chosen(own, journal, [measured(1.0), measured(1.0), measured(0.96), noisy, measured(0.96), noisy]) is own[0]


def test_a_row_that_was_not_measured_on_all_problems_does_not_win(journal: Journal) -> None:
    own = three("GRU_FACTORS", problems=2)
    fake = Fake(lambda t: measured(1.0 if t.candidate.is_present else 0.5))
    assert not tune.sweep([own], journal, fake, 3, lambda: 60.0 * len(fake.trials), silent)
    assert [t.candidate for t in fake.trials] == [own[0], own[0], own[1]]
    assert tune.choose(own, journal) is own[0]


def test_what_works_replaces_a_present_row_that_does_not(journal: Journal) -> None:
    own = three("GRU_FACTORS")
    fake = Fake(lambda t: Outcome("fails", "") if t.candidate.is_present else measured(2.0, None))
    tune.sweep([own], journal, fake, say=silent)
    assert [t.base for t in fake.trials] == [own[0].config, None, None]
    assert tune.choose(own, journal) is own[1]


def test_times_beside_another_present_row_do_not_count(journal: Journal) -> None:
    own = three("GRU_FACTORS")
    assert chosen(own, journal, [measured(1.0), measured(0.9), measured(0.8)]) is own[2]
    slot = dataclasses.replace(own[0].slot, present=own[2].config)
    now = [Candidate(slot, own[i].config) for i in (2, 0, 1)]
    assert chosen(now, journal, []) is now[0]


def imported(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("changed_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "changed_config", module)
    spec.loader.exec_module(module)
    return module


def tables(module: ModuleType) -> dict[str, str]:
    return {name: repr(value) for name, value in vars(module).items() if name.isupper()}


@pytest.fixture
def copy(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "config.py"
    path.write_text(SOURCE.read_text())
    return path


@pytest.mark.parametrize("slot", SLOTS.values(), ids=str)
def test_writing_a_row(slot: Slot, copy: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = tunables.candidates(slot, H100)[-1]
    with tune.in_place(slot, best.config):
        expected = tables(config)
    assert tune.write(copy, [best]) == [best]
    assert tables(imported(copy, monkeypatch)) == expected != tables(config)
    new, old = copy.read_text().splitlines(), SOURCE.read_text().splitlines()
    assert sum(a != b for a, b in zip(new, old, strict=True)) == 1
    assert tune.write(copy, [best]) == []
    assert copy.read_text().splitlines() == new


def test_written_rows_fit_their_lines() -> None:
    source = SOURCE.read_text()
    for slot in SLOTS.values():
        # The longest of each: there are many.
        for candidate in sorted(tunables.candidates(slot, H100), key=lambda c: len(repr(c)))[-3:]:
            assert max(map(len, tune.edited(source, candidate).splitlines())) <= 120


def test_written_source_is_formatted(copy: pathlib.Path) -> None:
    pytest.importorskip("ruff")
    tune.write(copy, [tunables.candidates(slot, H100)[-1] for slot in SLOTS.values()])
    settings = pathlib.Path(__file__).parents[1] / "pyproject.toml"
    command = [sys.executable, "-m", "ruff", "format", "--check", "--config", str(settings), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_source_that_has_changed_is_left_alone(copy: pathlib.Path) -> None:
    first, second, third = three("GRU_FACTORS")
    tune.write(copy, [second])
    before = copy.read_text()
    with pytest.raises(ValueError, match="was measured"):
        tune.write(copy, [third])
    assert copy.read_text() == before
    with pytest.raises(LookupError, match="no GRU_FACTORS"):
        tune.edited("", first)


def test_worker_outlives_what_it_calls() -> None:
    """A call that hangs, one that ends the process, one that loses the GPU."""
    outcome = "__import__('seqops.bench.tune', fromlist=['tune']).Outcome"
    worker = tune.Worker(eval, patience=0.5)
    try:
        assert worker("__import__('time').sleep(60)") == Outcome("fails", "no answer after 0.5 s")
        assert worker(f"{outcome}('ok')") == Outcome("ok")
        assert worker("__import__('os')._exit(3)") == Outcome("fails", "its process ended with exit code 3")
        assert worker.process is None
    finally:
        worker.stop()


def test_main_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tune.main([]) == 1
    assert capsys.readouterr().err == "tune.py needs a GPU; --dry-run lists the candidates without one\n"


def test_dry_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tune.main(["--dry-run", "--op", "beam_topk"]) == 0
    lines = capsys.readouterr().out.splitlines()
    number = len(tunables.candidates(SLOTS["BEAM_TOPK"], H100))
    assert lines[0].startswith(f"BEAM_TOPK: {number} candidates")
    assert sum("chunk=" in line for line in lines) == number
    assert lines[-1] == f"{number} candidates for 1 rows"


def test_main_writes_what_has_won(
    copy: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tunables.candidates(SLOTS["ADDITIVE_ATTENTION_FWD"], H100)
    fake = Fake(lambda t: measured(0.5e-3 if t.candidate == own[3] else 1e-3, 1e-3))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(tune, "chip_here", lambda: H100)
    monkeypatch.setattr(tune, "facts_here", lambda: FACTS)
    monkeypatch.setattr(tune, "Worker", lambda: fake)
    monkeypatch.setattr(config, "__file__", str(copy))
    command = ["--op", "additive_attention", "--out", str(copy.parent / "out")]
    assert tune.main(command) == 0
    text = capsys.readouterr().out
    assert "ADDITIVE_ATTENTION_FWD: changes" in text
    assert "1.0000 ms -> 0.5000 ms" in text
    assert "ADDITIVE_ATTENTION_BWD: stays" in text
    assert text.splitlines()[-1] == "1 rows would change; --write changes them"
    assert copy.read_text() == SOURCE.read_text()

    count = len(fake.trials)
    assert tune.main([*command, "--write"]) == 0
    assert len(fake.trials) == count
    text = capsys.readouterr().out
    assert f"written: ADDITIVE_ATTENTION_FWD: {own[0].config!r} -> {own[3].config!r}" in text
    assert copy.read_text() == tune.edited(SOURCE.read_text(), own[3]) != SOURCE.read_text()
    assert tune.main([*command, "--write"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"0 rows changed in {copy}"
