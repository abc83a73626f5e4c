"""The tests find a few faults of each kind; `python tests/mutations.py` tries all."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from conftest import INTERPRET
from mutations import FAULTS


def test_each_fault_has_its_place() -> None:
    root = pathlib.Path(__file__).parents[1]
    missing = [fault.name for fault in FAULTS if fault.old not in (root / fault.file).read_text(encoding="utf-8")]
    assert not missing
    assert all(fault.old != fault.new for fault in FAULTS)


@pytest.mark.skipif(not INTERPRET, reason="the faults in kernels are found in the interpreter")
def test_the_tests_bite() -> None:
    script = pathlib.Path(__file__).parent / "mutations.py"
    done = subprocess.run([sys.executable, str(script), "--quick"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 missed" in done.stdout
