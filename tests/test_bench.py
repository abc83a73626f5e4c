"""The benchmark times what is right, refuses what is wrong, and flags what has become slower."""

from __future__ import annotations

import importlib
import json
import pathlib
import pkgutil
import subprocess
import sys

import pytest
import torch

import seqops.bench
from seqops import functional
from seqops.bench import report, run
from seqops.bench.harness import Bench, Problem

ROOT = pathlib.Path(__file__).parents[1]
BENCHES = {
    info.name: importlib.import_module(f"seqops.bench.{info.name}").BENCH
    for info in pkgutil.iter_modules(seqops.bench.__path__)
    if info.name.startswith("bench_")
}


def bench(*arguments: str, before: str = "") -> tuple[int, str]:
    """`python -m seqops bench` with one op's quick row, after the program `before`."""
    program = f"import sys\n{before}\nfrom seqops.__main__ import main\nsys.exit(main(['bench', *sys.argv[1:]]))"
    command = [sys.executable, "-c", program, "--quick", "--row-seconds", "0.05", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    return done.returncode, done.stdout + done.stderr


ENVIRONMENT = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
ONE = ("--only", "additive_attention B=8", "--providers", "seqops,eager")


def change(body: str) -> str:
    """A program that wraps the attention's forward."""
    return f"""
import seqops.cpu.additive_attention as attention
forward = attention.additive_attention_weights
def changed(*arguments):
{body}
attention.additive_attention_weights = changed
"""


def test_every_op_has_a_benchmark() -> None:
    public = {n for n in functional.__all__ if not isinstance(getattr(functional, n), type)}
    assert {f"bench_{op}" for op in (*public, "beam_search")} == set(BENCHES)
    assert all(f"bench_{b.op}" == name for name, b in BENCHES.items())


@pytest.mark.parametrize("b", BENCHES.values(), ids=BENCHES)
def test_problems_and_work(b: Bench) -> None:
    for device in ("cpu", "cuda"):
        assert set(b.problems(device, quick=True)) < set(b.problems(device, quick=False))
        for problem in b.problems(device, quick=False):
            work = b.work(problem)
            assert min(work.bytes, work.flops + work.exp + work.tanh) > 0
    # What is counted as read is at least the inputs.
    problem = next(b.problems("cpu", quick=True))
    size = sum(t.numel() * t.element_size() for t in b.inputs(problem).values())
    assert size <= b.work(problem).bytes <= 10 * size
    larger = Problem(tuple((n, 2 * v) for n, v in problem.sizes), problem.dtype, problem.training)
    assert b.work(larger).bytes > b.work(problem).bytes


def test_results_then_a_slow_down_is_flagged(tmp_path: pathlib.Path) -> None:
    code, text = bench(*ONE, "--out", str(tmp_path))
    assert code == 0, text
    data = json.loads((tmp_path / "results.json").read_text())
    assert {row["provider"] for row in data["rows"]} == {"seqops", "eager"}
    for row in data["rows"]:
        assert row["p20"] <= row["median"] <= row["p80"]
        assert row["first_call"] > 0
        assert row["error"] < 1e-5
        assert row["limit"] > 0
    assert data["torch"] == torch.__version__
    assert data["ceilings"]["bytes"] > 1e8
    assert "| problem | seqops, ms (20-80%) | of the limit | eager |" in text
    assert "| problem |" in (tmp_path / "report.md").read_text()

    for row in data["rows"]:
        row.update({name: row[name] / 1000 for name in ("p20", "median", "p80")})
    (tmp_path / "results.json").write_text(json.dumps(data))
    code, text = bench(*ONE, "--compare", str(tmp_path / "results.json"))
    assert code == 1
    assert "slower: additive_attention B=8 Q=32 T=128 D=256 float32 forward+backward seqops:" in text


def test_what_is_wrong_is_not_timed(tmp_path: pathlib.Path) -> None:
    wrong = change("    return 1.01 * forward(*arguments)")
    code, text = bench(*ONE, "--out", str(tmp_path), before=wrong)
    assert code == 1
    assert "not timed" in text
    rows = {row["provider"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert "wrong" in rows["seqops"]
    assert "median" not in rows["seqops"]
    assert "median" in rows["eager"]
    assert "| wrong | - |" in text


def results(*medians: float, provider: str = "seqops") -> report.Results:
    rows = []
    for i, median in enumerate(medians):
        facts = {"median": median, "p20": 0.95 * median, "p80": 1.05 * median, "limit": median / 2}
        named = {"op": "gru", "sizes": {"T": 2**i, "B": 3}, "dtype": "float32", "mode": "forward"}
        for name, factor in ((provider, 1.0), ("torch.nn", 0.5)):
            rows.append(
                {**named, "provider": name, "ours": name == provider, "limited by": "memory"}
                | {n: v * factor for n, v in facts.items()}
            )
    facts = {"name": "a machine", "torch": "2", "triton": "3", "date": "today", "commit": "abc"}
    return report.Results({**facts, "rows": rows})


def test_only_what_is_clearly_slower_is_flagged() -> None:
    assert run.slower(results(1.0, 1.0, 1.0), results(1.05, 1.25, 0.5)) == [
        "gru T=2 B=3 float32 forward seqops: 1000.000 ms -> 1250.000 ms, 1.25x"
    ]
    # Within the spread of the two.
    assert run.slower(results(1.0), results(1.1)) == []
    # Another provider's time is not ours to mend.
    assert run.slower(results(1.0, provider="other"), results(9.0)) == []


def test_report_shows_what_is_lost(tmp_path: pathlib.Path) -> None:
    text = report.table(results(0.002, 0.004))
    assert "| T=1 B=3 float32 forward | 2.000 (1.900-2.100) | 50% (memory) | **0.50x** |" in text
    assert "torch.nn 0.50x (worst 0.50x of 2)" in text
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- speed: cpu -->\nold\n<!-- end -->\nafter\n")
    report.write_readme(readme, "cpu", text)
    assert readme.read_text() == f"before\n<!-- speed: cpu -->\n{text}\n<!-- end -->\nafter\n"
    with pytest.raises(SystemExit, match="must hold"):
        report.write_readme(readme, "gpu", text)


def test_plots(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    written = report.plot(results(0.001, 0.002, 0.004), tmp_path)
    assert [p.name for p in written] == ["gru.png", "gru_scaling.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in written)


@pytest.mark.parametrize("package", ["pytest", "pytest_benchmark"])
def test_bench_without_pytest_says_so(package: str) -> None:
    before = f"sys.modules['{package}'] = None"
    code, text = bench(before=before)
    assert code == 1
    assert text == f"bench needs {package}: pip install pytest pytest-benchmark\n"
    code, text = bench("--help", before=before)
    assert code == 0
    assert "--row-seconds" in text
