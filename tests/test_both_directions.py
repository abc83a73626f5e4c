"""A bidirectional layer's two directions in one call and one launch, against one call a direction."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Path
from helpers import randn
from torch import Tensor

from seqops import nn
from seqops.nn import _recurrent

MODULES = ["RNN", "GRU", "LSTM"]
T, B, I, H = 4, 3, 4, 6
OPTIONS: dict[str, dict[str, Any]] = {
    "two layers": {"num_layers": 2},
    "without bias": {"bias": False},
    "two heads": {"num_heads": 2},
    "zoneout and recurrent dropout": {"zoneout": 0.3, "recurrent_dropout": 0.4},
}


def build(name: str, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return getattr(nn, name)(I, H, bidirectional=True, **options)


def run(module: torch.nn.Module, device: str, sequence: bool) -> dict[str, Tensor]:
    """Outputs, and the gradients of x, the parameters, the first state and the state that resets put in place."""
    module = module.to(device)
    x = randn(T, B, I, seed=1).float().to(device).requires_grad_()
    rows = 2 * module.num_layers
    states = [randn(rows, B, H, seed=2 + i).float().to(device).requires_grad_() for i in range(4)]
    hx, fresh = (tuple(states[:2]), tuple(states[2:])) if isinstance(module, nn.LSTM) else (states[0], states[2])
    options: dict[str, Any] = {"generator": torch.Generator(device).manual_seed(7)}
    if sequence:
        reset = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 0]]).bool().to(device)
        options |= {"lengths": [4, 0, 3], "reset": reset, "reset_state": fresh}
    if isinstance(module, nn.LSTM):
        output, (h, c), cells = module(x, hx, return_cells=True, **options)
        results = {"output": output, "h": h, "c": c} | {f"cells {i}": one for i, one in enumerate(cells)}
    else:
        output, h = module(x, hx, **options)
        results = {"output": output, "h": h}
    loss = sum((r * randn(*r.shape, seed=9).to(device)).sum() for r in results.values())
    wanted = {"x": x} | dict(module.named_parameters()) | {f"state {i}": s for i, s in enumerate(states)}
    grads = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True, allow_unused=True)
    return results | {f"gradient of {n}": g for n, g in zip(wanted, grads, strict=True)}


@pytest.mark.parametrize("sequence", [False, True], ids=["whole", "lengths and resets"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", MODULES)
def test_equals_a_call_for_each(
    path: Path, name: str, options: dict[str, Any], sequence: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.kernels and path.device == "cpu" and not sequence and options:
        pytest.skip("with lengths and resets the same is interpreted")
    monkeypatch.setattr(_recurrent, "takes_torch_path", lambda *_: False)
    joined = run(build(name, **options), path.device, sequence)
    monkeypatch.setattr(_recurrent, "takes_torch_path", lambda *_: True)
    apart = run(build(name, **options), path.device, sequence)
    assert joined.keys() == apart.keys()
    for key, value in joined.items():
        torch.testing.assert_close(value, apart[key], msg=lambda m, key=key: f"{key}: {m}")


@pytest.fixture
def launches(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The heads of each walk that is launched."""
    if not path.kernels:
        pytest.skip("the torch path walks each direction by itself")
    # All that take `walk` from there, before it is another for a while.
    from seqops.kernels import gru_cho, lstm_projected, recurrent  # noqa: F401

    seen, walk = [], recurrent.walk

    def counted(*args: Any, **options: Any) -> None:
        seen.append(options["heads"])
        walk(*args, **options)

    monkeypatch.setattr(recurrent, "walk", counted)
    return seen


@pytest.mark.parametrize("name", MODULES)
def test_one_launch(path: Path, name: str, launches: list[int]) -> None:
    run(build(name, num_layers=2), path.device, False)
    assert launches == [2, 2, 2, 2]  # forward and backward of two layers


@pytest.mark.parametrize("name", MODULES)
def test_each_by_itself_where_both_would_not_keep_their_weights(
    path: Path, name: str, launches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqops import kernels

    module = getattr(kernels, name.lower())
    joined = run(build(name), path.device, True)
    monkeypatch.setattr(module, "at_once", lambda *_: False)
    apart = run(build(name), path.device, True)
    assert launches == [2, 2, 1, 1, 1, 1]
    for key, value in joined.items():
        torch.testing.assert_close(value, apart[key], msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(("hidden_size", "expected"), [(256, True), (1024, True), (1056, True), (1088, False)])
def test_at_once_while_the_chip_holds_both(hidden_size: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 132 multiprocessors, each direction takes one for 16 units; beyond the tables' rows neither keeps weights."""
    recurrent = pytest.importorskip("seqops.kernels.recurrent")
    monkeypatch.setattr(recurrent, "resident_limits", lambda device: (232448, 132))
    like: Any = SimpleNamespace(is_cuda=True, device=torch.device("cpu"), dtype=torch.bfloat16, shape=(100, 8, 1))
    for cell, backward in (("gru", False), ("gru", True), ("tanh", False)):
        assert recurrent.at_once(cell, backward, like, 2 * hidden_size, 2) == expected
    assert recurrent.at_once("gru", False, like, 2 * 4096, 2)


@pytest.mark.parametrize(
    ("name", "options"),
    [("GRU", {"reset_after": False}), ("LSTM", {"proj_size": 2}), ("LayerNormGRU", {}), ("LayerNormLSTM", {})],
)
def test_layers_that_walk_each_direction_by_itself(path: Path, name: str, options: dict[str, Any]) -> None:
    module = build(name, **options).to(path.device)
    output, _ = module(randn(T, B, I, seed=1).float().to(path.device))
    assert output.shape == (T, B, 2 * (options.get("proj_size") or H))
