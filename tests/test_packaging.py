"""What is installed, what an import costs, and the command line."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

import seqops
from seqops.__main__ import main

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """The names in the sdist, and in the wheel that is built from the unpacked sdist."""
    pytest.importorskip("setuptools")
    out = tmp_path_factory.mktemp("dist")
    build = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
    # setuptools leaves its work beside the sources: build from a copy.
    source = tmp_path_factory.mktemp("source")
    for item in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "seqops", "kernels", "bench"):
        subprocess.run(["cp", "-r", str(ROOT / item), str(source)], check=True)

    def run(hook: str, folder: pathlib.Path) -> pathlib.Path:
        command = [sys.executable, "-c", build, hook, str(out)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return out / done.stdout.split()[-1]

    with tarfile.open(run("build_sdist", source)) as sdist:
        sdist_names = sdist.getnames()
        sdist.extractall(out, filter="data")
    with zipfile.ZipFile(run("build_wheel", out / sdist_names[0].split("/")[0])) as wheel:
        return sdist_names, wheel.namelist()


def test_wheel_has_no_top_level_kernels(built: tuple[list[str], list[str]]) -> None:
    _, wheel = built
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"seqops"}


def test_wheel_and_sdist_are_whole(built: tuple[list[str], list[str]]) -> None:
    sdist, wheel = built
    files = [p for folder in ("seqops", "kernels", "bench") for p in (ROOT / folder).rglob("*.py")]
    sources = {p.relative_to(ROOT).as_posix() for p in files}
    sources.add("seqops/py.typed")
    assert sources <= {name.partition("/")[2] for name in sdist}
    assert {s if s.startswith("seqops") else "seqops/" + s for s in sources} <= set(wheel)


def test_import_without_triton() -> None:
    """Where triton is missing the package imports and computes on the CPU; no kernel is imported before it is used."""
    program = """
import sys
sys.modules["triton"] = None
import torch, seqops
assert not any(m.startswith("seqops.kernels") for m in sys.modules)
y, h = seqops.nn.GRU(3, 4)(torch.randn(5, 2, 3))
y.sum().backward()
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={"PATH": ""}, cwd=ROOT)


def test_gpu_op_without_triton_says_so() -> None:
    program = """
import sys
sys.modules["triton"] = None
from seqops.ops._register import _kernels
try:
    _kernels("gru", "gru_sequence_fwd")
except RuntimeError as error:
    assert "needs triton, which is not installed" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={"PATH": ""}, cwd=ROOT)


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["seqops"] == seqops.__version__
    assert facts["ops"].keys() >= {"gru", "gru_cell"}
    assert facts["devices"][0]["device"] == "cpu"
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "torch" in text
    assert "gru_cell" in text


def test_functional_has_every_op() -> None:
    """functional re-exports the public functions of ops, all of them and nothing else."""
    assert set(seqops.functional.__all__) == set(seqops.ops.__all__)
    for name in seqops.ops.__all__:
        assert getattr(seqops.functional, name) is getattr(seqops.ops, name)
