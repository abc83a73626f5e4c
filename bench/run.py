"""Times every op against what there is beside it, and prints and writes the table.

    python bench/run.py [--family recurrent|embeddings|decoding|attention] [--device cpu|cuda] [--quick] [--out DIR]
                        [--compare OLD.json] [--only WORDS] [--providers LIST] [--row-seconds S]

Writes DIR/results.json and DIR/report.md. Exit code 1 where a provider's result was wrong, or, with --compare, where
one of ours has become slower.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile

from seqops.bench.report import Results, table

__all__ = ["main", "slower"]

HERE = pathlib.Path(__file__).parent


def slower(old: Results, new: Results, factor: float = 1.1) -> list[str]:
    """Our rows that take more than `factor` times as long as before, beyond the spread of both."""
    found = []
    before = {row.key: row for row in old.rows if row.ours and row.timed}
    for row in new.rows:
        was = before.get(row.key)
        if was is None or not row.timed or not row.ours:
            continue
        if row["median"] > factor * was["median"] and row["p20"] > was["p80"]:
            ratio = row["median"] / was["median"]
            found.append(f"{row.title}: {was['median'] * 1e3:.3f} ms -> {row['median'] * 1e3:.3f} ms, {ratio:.2f}x")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=["recurrent", "embeddings", "decoding", "attention"])
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="a few shapes: under 3 minutes on 2 CPU cores")
    parser.add_argument("--only", metavar="WORDS", help="only rows whose name has all these words: 'gru B=1 float32'")
    parser.add_argument("--providers", metavar="LIST", help="only these: seqops,eager")
    parser.add_argument("--row-seconds", type=float)
    parser.add_argument("--out", type=pathlib.Path, help="write results.json and report.md here")
    parser.add_argument("--compare", type=pathlib.Path, metavar="OLD.json", help="flag what has become slower since")
    options = parser.parse_args(arguments)
    try:
        import pytest
        import pytest_benchmark  # noqa: F401  (its absence should show here)

        from seqops.bench.progress import Progress
    except ModuleNotFoundError as error:
        print(f"bench needs {error.name}: pip install pytest pytest-benchmark", file=sys.stderr)
        return 1
    old = Results.read(options.compare) if options.compare else None

    with tempfile.TemporaryDirectory() as folder:
        rows = pathlib.Path(folder) / "rows.json"
        command = [str(HERE), f"--rootdir={HERE}", "-c", str(pathlib.Path(folder) / "pytest.ini")]
        (pathlib.Path(folder) / "pytest.ini").write_text("[pytest]\npython_files = bench_*.py\n")
        command += ["--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:logging", "-q", "--no-header"]
        command += ["--no-summary", "-s", "-W", "ignore", "--benchmark-only", "--benchmark-quiet", "--rows", str(rows)]
        command += ["--quick"] if options.quick else []
        given = {"--bench-device": options.device, "--family": options.family, "--only": options.only}
        given |= {"--providers": options.providers, "--row-seconds": options.row_seconds}
        command += [f"{name}={value}" for name, value in given.items() if value]
        code = int(pytest.main(command, plugins=[Progress()]))
        if not rows.exists():
            print("nothing was timed")
            return code or 1
        results = Results.read(rows)
    print()
    print(table(results))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.json").write_text(json.dumps(results.data, indent=1) + "\n")
        (options.out / "report.md").write_text(table(results) + "\n")
        print(f"written: {options.out / 'results.json'}, {options.out / 'report.md'}")
    regressions = slower(old, results) if old else []
    for line in regressions:
        print("slower:", line)
    if old and not regressions:
        print("nothing has become slower")
    return code or bool(regressions)


if __name__ == "__main__":
    sys.exit(main())
