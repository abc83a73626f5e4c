"""How far a benchmark run is."""

from __future__ import annotations

import time
from typing import Any

import pytest

__all__ = ["Progress"]


class Progress:
    """A line a row as it ends, in place of pytest's dots."""

    def __init__(self) -> None:
        self.done, self.total, self.start = 0, 0, time.perf_counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.total = len(session.items)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        return report.outcome if report.when == "call" else "", "", ""

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        outcome = yield
        report = outcome.get_result()
        if report.when != "call":
            if report.failed:
                print(report.longreprtext)
            return
        self.done += 1
        row = item.callspec.params["row"]  # type: ignore[attr-defined]
        benchmark = item.funcargs["benchmark"]  # type: ignore[attr-defined]
        if report.passed:
            said = f"{benchmark.extra_info['median'] * 1e3:10.3f} ms"
        elif report.skipped:
            said = f"   skipped: {call.excinfo.value if call.excinfo else ''}"
        else:
            said = f"    FAILED: {call.excinfo.value if call.excinfo else ''}"
        elapsed = time.perf_counter() - self.start
        print(f"[{self.done:3}/{self.total} {elapsed:4.0f} s] {row!s:90} {said}", flush=True)
