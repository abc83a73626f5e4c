"""`pytest bench --benchmark-only`: every provider on every problem, the providers of a problem in random order."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch

from seqops.bench.harness import Row, Unavailable, facts_of_this_machine, time_row
from seqops.bench.roofline import Ceilings, measure

RESULTS = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    group = parser.getgroup("seqops")
    group.addoption("--bench-device", choices=["cpu", "cuda"], default=default)
    group.addoption("--quick", action="store_true", help="only the quick problems, with less time for each row")
    group.addoption("--family", help="only this family: recurrent, embeddings, decoding or attention")
    group.addoption("--only", default="", help="only rows whose name has all these words: 'gru B=1 float32'")
    group.addoption("--providers", help="only these: seqops,eager")
    group.addoption("--row-seconds", type=float, help="time to spend on a row's repetitions")
    group.addoption("--order", type=int, help="seed of the providers' order (random)")
    group.addoption("--rows", type=pathlib.Path, help="write all rows into this JSON file")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.order is None:
        config.option.order = random.randrange(2**31)
    config.stash[RESULTS] = {}
    # cuDNN's layers may use TF32 unless told otherwise, torch's products and ours may not: here all have full fp32.
    torch.backends.cudnn.allow_tf32 = False


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" not in metafunc.fixturenames:
        return
    options, bench = metafunc.config.option, metafunc.module.BENCH
    problems = list(bench.problems(options.bench_device, options.quick))
    if options.family not in (None, bench.family):
        problems = []
    providers = options.providers.split(",") if options.providers else bench.providers
    rows = [
        Row(bench, problem, provider) for problem in problems for provider in bench.providers if provider in providers
    ]
    rows = [row for row in rows if set(options.only.split()) <= set(str(row).split())]
    metafunc.parametrize("row", rows, ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffled within a problem, so that no provider always comes first on a cool machine."""
    chance = random.Random(config.option.order)
    problems: dict[Any, list[pytest.Item]] = {}
    for item in items:
        row = item.callspec.params["row"] if hasattr(item, "callspec") else None
        problems.setdefault((row.bench.op, row.problem) if isinstance(row, Row) else item, []).append(item)
    for rows in problems.values():
        chance.shuffle(rows)
    items[:] = [item for rows in problems.values() for item in rows]


@pytest.fixture(scope="session")
def ceilings(request: pytest.FixtureRequest) -> Ceilings:
    config = request.config
    found = measure(config.option.bench_device)
    config.stash[RESULTS] |= facts_of_this_machine(config.option.bench_device)
    config.stash[RESULTS] |= {"order": config.option.order, "ceilings": dataclasses.asdict(found)}
    return found


@pytest.fixture
def timed(row: Row, benchmark: Any, ceilings: Ceilings, request: pytest.FixtureRequest) -> Callable[[], None]:
    """Times the row, and writes all that is known of it into pytest-benchmark's `extra_info`."""

    def run() -> None:
        options, problem = request.config.option, row.problem
        benchmark.group = f"{row.bench.op} {problem}"
        facts: dict[str, Any] = row.names()
        request.config.stash[RESULTS].setdefault("rows", []).append(facts)
        try:
            # So that the whole set ends in 9 minutes on a GPU, the quick one in 3 on 2 CPU cores.
            seconds = 0.3 if problem.device == "cuda" or options.quick else 2.0
            facts |= time_row(row, benchmark, options.row_seconds or seconds)
        except Unavailable as reason:
            facts["skipped"] = str(reason)
            pytest.skip(str(reason))
        except AssertionError as error:
            facts["wrong"] = str(error)
            raise
        times = benchmark.stats.stats.data
        low, *_, high = statistics.quantiles(times, n=5)
        limit, limited_by = ceilings.limit(row.bench.work(problem), problem.dtype)
        facts |= {"rounds": len(times), "median": statistics.median(times), "p20": low, "p80": high}
        facts |= {"limit": limit, "limited by": limited_by}
        benchmark.extra_info |= facts

    return run


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.option.rows
    if path is not None and "rows" in session.config.stash[RESULTS]:
        path.write_text(json.dumps(session.config.stash[RESULTS], indent=1) + "\n")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What a result depends on, and no more: the machine's name stays at home."""
    machine_info.clear()
    machine_info |= facts_of_this_machine(config.option.bench_device)
