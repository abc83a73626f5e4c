"""The tests find a few faults of each kind; `python tests/mutations.py` tries all."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from conftest import INTERPRET


@pytest.mark.skipif(not INTERPRET, reason="the faults in kernels are found in the interpreter")
def test_the_tests_bite() -> None:
    script = pathlib.Path(__file__).parent / "mutations.py"
    done = subprocess.run([sys.executable, str(script), "--quick"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 missed" in done.stdout
