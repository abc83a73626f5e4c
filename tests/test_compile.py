"""Every kernel compiles, within the chip's means, for GPUs that are not here."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "bench" / "inspect_kernels.py"


@pytest.mark.parametrize("target", ["80", "86", "90", "100", "gfx942"])
def test_kernels_compile(target: str) -> None:
    """In a process of its own: here, kernels are interpreted. Large persistent kernels are left to the whole matrix."""
    pytest.importorskip("triton")
    command = [sys.executable, str(SCRIPT), "--targets", target, "--max-hidden", "256"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 with problems, 0 left out" in done.stdout
    assert not done.stdout.splitlines()[-1].startswith("0 compiled")
