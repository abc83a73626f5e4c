"""Where an op is tested: its torch path on the CPU, its Triton kernels in the interpreter, its kernels on a GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis
import pytest
import torch

# Triton reads this once, at its first import. With a GPU at hand the kernels are compiled for it instead.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from seqops.ops import _register

INTERPRET = _register.INTERPRET


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--program-order", type=int, default=0, help="seed of the order in which programs are interpreted")


def pytest_configure(config: pytest.Config) -> None:
    # The same examples each time; --hypothesis-profile=thorough draws many others.
    usual = hypothesis.settings(
        max_examples=6,
        derandomize=True,
        deadline=None,
        suppress_health_check=[
            hypothesis.HealthCheck.function_scoped_fixture,  # the path is the same for all examples of a test
            hypothesis.HealthCheck.too_slow,
        ],
    )
    hypothesis.settings.register_profile("usual", usual)
    hypothesis.settings.register_profile("thorough", usual, max_examples=500, derandomize=False, print_blob=True)
    hypothesis.settings.load_profile("usual")
    if hasattr(config, "workerinput"):
        # A process among several, with -n: each has its core.
        torch.set_num_threads(1)
    if INTERPRET and importlib.util.find_spec("triton") is not None:
        import hardened_interpreter

        hardened_interpreter.install(config.getoption("--program-order"))


@dataclass(frozen=True)
class Path:
    """`kernels`: whether Triton kernels run, compiled or interpreted, or plain torch."""

    device: str
    kernels: bool


PATHS = [
    pytest.param("cpu", id="cpu"),
    pytest.param("interpreter", id="interpreter"),
    pytest.param("gpu", id="gpu", marks=pytest.mark.gpu),
]


@pytest.fixture
def poisoned_empty() -> Iterator[None]:
    """torch.empty gives NaN, or the largest integer: what a kernel has left out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def taken(param: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the path of PATHS; on the CPU it selects which one `torch.ops.seqops` runs."""
    if param == "gpu":
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        return Path("cuda", True)
    if param == "interpreter":
        if not INTERPRET:
            pytest.skip("Triton compiles for the GPU in this process")
        pytest.importorskip("triton")
    monkeypatch.setattr(_register, "INTERPRET", param == "interpreter")
    return Path("cpu", param == "interpreter")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, poisoned_empty: None) -> Path:
    """Every path that an op takes."""
    own = taken(request.param, monkeypatch)
    if request.param == "interpreter":
        exchange_hidden_states(monkeypatch)
    return own


def exchange_hidden_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """The few hidden units of a test are several programs', as more units are; `test_few_units.py` has them alone."""
    from seqops.kernels import config

    for name, rows in vars(config).items():
        if isinstance(rows, tuple) and all(isinstance(row, config.RecurrentRow) for row in rows):
            monkeypatch.setattr(config, name, tuple(row for row in rows if not row.config.alone(1)))


@pytest.fixture
def cpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what lies above the kernels: the torch path, whatever the interpreter would do."""
    monkeypatch.setattr(_register, "INTERPRET", False)
