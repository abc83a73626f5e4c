"""Markdown tables and plots of what bench/run.py measured.

    python bench/report.py DIR [--readme README.md]

Reads DIR/results.json; writes DIR/report.md, and DIR/*.png where matplotlib is installed. With --readme the text
between the lines `<!-- speed: NAME -->` and `<!-- end -->` of that file becomes the table, NAME being DIR's.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

__all__ = ["Results", "Row", "table"]


@dataclass(frozen=True)
class Row:
    """One provider on one problem, with what `harness.time_row` found of it."""

    data: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.data[name]

    @property
    def problem(self) -> str:
        sizes = " ".join(f"{n}={v}" for n, v in self["sizes"].items())
        return f"{sizes} {self['dtype']} {self['mode']}"

    @property
    def key(self) -> tuple[str, str, str]:
        return self["op"], self.problem, self["provider"]

    @property
    def title(self) -> str:
        return " ".join(self.key)

    @property
    def ours(self) -> bool:
        return bool(self["ours"])

    @property
    def timed(self) -> bool:
        return "median" in self.data

    @property
    def seconds(self) -> float:
        """On the device where that was measured, else as the caller waits."""
        return float(self.data.get("device", self.data.get("median", math.nan)))


@dataclass(frozen=True)
class Results:
    data: dict[str, Any]

    @classmethod
    def read(cls, path: pathlib.Path) -> Results:
        return cls(json.loads(path.read_text()))

    @cached_property
    def rows(self) -> list[Row]:
        return [Row(data) for data in self.data["rows"]]

    @cached_property
    def problems(self) -> dict[tuple[str, str], list[Row]]:
        """The rows of each problem, ours first, then as they come by name."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row["op"], row.problem), []).append(row)
        return {key: sorted(rows, key=lambda r: (not r.ours, r["provider"])) for key, rows in found.items()}

    @property
    def where(self) -> str:
        d = self.data
        versions = ", ".join(f"{n} {d[n]}" for n in ("torch", "triton", "cuda") if d.get(n))
        return f"{d['name']}; {versions}; {d['date']}, commit {d['commit']}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 0.1 else f"{seconds * 1e3:.1f}"


def _ratios(rows: list[Row]) -> dict[str, float]:
    """How many times as long as ours each other provider takes."""
    ours = next((r for r in rows if r.ours and r.timed), None)
    return {r["provider"]: r.seconds / ours.seconds for r in rows if ours and r.timed and not r.ours}


def _cell(ours: Row | None, other: Row | None) -> str:
    """The other's time over ours, and that of the two as CUDA graphs where both were captured."""
    if other is None or not other.timed:
        return "wrong" if other is not None and "wrong" in other.data else "-"
    if ours is None or not ours.timed:
        return f"{_time(other.seconds)} ms"
    ratio = other.seconds / ours.seconds
    text = f"**{ratio:.2f}x**" if ratio < 1 else f"{ratio:.2f}x"
    if "graph" in ours.data and "graph" in other.data:
        text += f" (graph {other['graph'] / ours['graph']:.2f}x)"
    return text


def geometric_means(results: Results) -> dict[tuple[str, str], tuple[float, float, int]]:
    """For each op and other provider the geometric mean of the ratios, the worst one, and their number."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for (op, _), rows in results.problems.items():
        for provider, ratio in _ratios(rows).items():
            ratios.setdefault((op, provider), []).append(ratio)
    return {key: (math.exp(sum(map(math.log, r)) / len(r)), min(r), len(r)) for key, r in ratios.items()}


def table(results: Results) -> str:
    """A table an op: a line a problem, with our time, our share of the limit, and each provider's time over ours."""
    lines = [f"{results.where}.", ""]
    ops = dict.fromkeys(op for op, _ in results.problems)
    means = geometric_means(results)
    for op in ops:
        problems = {problem: rows for (o, problem), rows in results.problems.items() if o == op}
        others = list(dict.fromkeys(r["provider"] for rows in problems.values() for r in rows if not r.ours))
        run = [p for p in others if any(r["provider"] == p and r.timed for rows in problems.values() for r in rows)]
        lines += [f"### {op}", ""]
        lines.append("| problem | seqops, ms (20-80%) | of the limit | " + " | ".join(run) + " |")
        lines.append("|---|---|---|" + "---|" * len(run))
        for problem, rows in problems.items():
            ours = next((r for r in rows if r.ours), None)
            cells = [problem]
            if ours is not None and ours.timed:
                cells.append(f"{_time(ours.seconds)} ({_time(ours['p20'])}-{_time(ours['p80'])})")
                cells.append(f"{ours['limit'] / ours.seconds:.0%} ({ours['limited by']})")
            else:
                cells += ["wrong" if ours is not None and "wrong" in ours.data else "-", "-"]
            by_name = {r["provider"]: r for r in rows}
            cells += [_cell(ours, by_name.get(provider)) for provider in run]
            lines.append("| " + " | ".join(cells) + " |")
        summary = []
        for provider in run:
            if (op, provider) in means:
                mean, worst, count = means[op, provider]
                summary.append(f"{provider} {mean:.2f}x (worst {worst:.2f}x of {count})")
        lines += ["", f"Geometric mean: {', '.join(summary) or 'nothing to compare with'}.", ""]
        reasons = {r["provider"]: r["skipped"] for rows in problems.values() for r in rows if "skipped" in r.data}
        lines += [f"Not run: {provider} ({reason})." for provider, reason in reasons.items()]
        lines += [""] if reasons else []
    lines.append(
        "A provider's column is its time over ours: above 1 ours is faster, **bold** where it is not. The limit is the "
        "least time that memory, products, exp or tanh can take on this machine, measured in the same run."
    )
    return "\n".join(lines)


def plot(results: Results, folder: pathlib.Path) -> list[pathlib.Path]:
    """One picture an op: the ratio to each provider, and the share of the limit; one more a size that is varied."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for op in dict.fromkeys(op for op, _ in results.problems):
        problems = {p: rows for (o, p), rows in results.problems.items() if o == op}
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(13, 1.6 + 0.45 * len(problems)), sharey=True, width_ratios=[3, 1], layout="constrained"
        )
        providers = sorted({p for rows in problems.values() for p in _ratios(rows)})
        height = 0.8 / max(1, len(providers))
        for i, provider in enumerate(providers):
            ratios = [_ratios(rows).get(provider, math.nan) for rows in problems.values()]
            places = [y + (i + 0.5) * height - 0.4 for y in range(len(problems))]
            left.barh(places, [r - 1 for r in ratios], height, left=1, label=provider)
        left.axvline(1, color="black", linewidth=1)
        left.set_xscale("log", base=2)
        left.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        left.set_xlabel(f"{op}: time over seqops' (right of 1: seqops is faster)")
        left.set_yticks(range(len(problems)), list(problems), fontsize=8)
        left.invert_yaxis()
        left.legend(fontsize=8)
        shares = [next((r["limit"] / r.seconds for r in rows if r.ours and r.timed), 0.0) for rows in problems.values()]
        right.barh(range(len(problems)), shares, color="gray")
        right.set_xlabel("share of the limit")
        right.set_xlim(0, 1)
        written.append(folder / f"{op}.png")
        figure.savefig(written[-1], dpi=110)
        pyplot.close(figure)
        written += _plot_scaling(op, problems, folder, pyplot)
    return written


def _plot_scaling(op: str, problems: dict[str, list[Row]], folder: pathlib.Path, pyplot: Any) -> list[pathlib.Path]:
    """Time against each size that takes three values or more while all else stays."""
    series: dict[str, dict[str, dict[str, list[tuple[int, float]]]]] = {}
    for rows in problems.values():
        for row in rows:
            for name, value in row["sizes"].items():
                if row.timed:
                    rest = {n: v for n, v in row["sizes"].items() if n != name and v != value}
                    label = " ".join(f"{n}={v}" for n, v in rest.items()) + f" {row['dtype']} {row['mode']}"
                    points = series.setdefault(name, {}).setdefault(label, {}).setdefault(row["provider"], [])
                    points.append((value, row.seconds))
    kept = {
        (name, label): lines
        for name, labels in series.items()
        for label, lines in labels.items()
        if max(len({v for v, _ in points}) for points in lines.values()) >= 3
    }
    if not kept:
        return []
    figure, axes = pyplot.subplots(1, len(kept), figsize=(5 * len(kept), 4), squeeze=False, layout="constrained")
    for axis, ((name, label), lines) in zip(axes[0], kept.items(), strict=True):
        for provider, points in lines.items():
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label=provider)
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
        axis.set_title(f"{op} {label}", fontsize=9)
        axis.legend(fontsize=8)
    path = folder / f"{op}_scaling.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return [path]


def write_readme(path: pathlib.Path, name: str, text: str) -> None:
    """Puts the text between the file's two marks."""
    marks = re.compile(rf"(<!-- speed: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    content, count = marks.subn(lambda m: m[1] + text + "\n" + m[2], path.read_text())
    if count != 1:
        raise SystemExit(f"{path} must hold '<!-- speed: {name} -->' and '<!-- end -->' once, found {count}")
    path.write_text(content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--readme", type=pathlib.Path)
    options = parser.parse_args()
    results = Results.read(options.folder / "results.json")
    (options.folder / "report.md").write_text(table(results) + "\n")
    print("written:", options.folder / "report.md")
    try:
        for path in plot(results, options.folder):
            print("written:", path)
    except ImportError:
        print("no plots: pip install matplotlib")
    if options.readme:
        write_readme(options.readme, options.folder.name, table(results))
        print("written:", options.readme)
    return 0


if __name__ == "__main__":
    sys.exit(main())
