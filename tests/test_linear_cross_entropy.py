"""linear_cross_entropy and its module: against the reference and torch, in many chunks, in bounded memory."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import CASES, ids
from conftest import Path
from helpers import assert_as_accurate, randn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import seqops.cpu.linear_cross_entropy as cpu
from seqops import functional, nn

CASE = CASES["linear_cross_entropy"]
SIZES = {"N": 11, "V": 37, "D": 5}


@pytest.fixture
def small_chunks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 rows of 37 classes, each walked in steps of 16."""
    monkeypatch.setattr(cpu, "LOGITS", 111)
    if path.kernels:
        config = importlib.import_module("seqops.kernels.config")
        small = config.LinearCrossEntropyConfig(block_v=16, num_warps=1, logits=111)
        monkeypatch.setattr(config, "LINEAR_CROSS_ENTROPY", small)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize("weighted", [False, True])
def test_many_chunks(path: Path, small_chunks: None, reduction: str, smoothing: float, weighted: bool) -> None:
    options = CASE.usual(**SIZES) | {"reduction": reduction, "label_smoothing": smoothing}
    options |= {"weight": randn(37, seed=9).abs()} if weighted else {}
    assert_as_accurate(CASE.op, CASE.reference, CASE.problem(**SIZES), device=path.device, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_dtypes(path: Path, small_chunks: None, dtype: torch.dtype, reduction: str) -> None:
    options = CASE.usual(**SIZES) | {"reduction": reduction}
    assert_as_accurate(CASE.op, CASE.reference, CASE.problem(**SIZES), dtype=dtype, device=path.device, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("scale", [30.0, 1e3])
def test_large_logits(path: Path, small_chunks: None, scale: float, dtype: torch.dtype) -> None:
    """The softmax overflows nowhere; a sure and right prediction has its small loss, a wrong one its large."""
    inputs = {"input": torch.tensor([[1.0], [1.0], [-1.0]]).double()}
    inputs["linear_weight"] = scale * torch.linspace(-1, 1, 37).double()[:, None]
    options: dict[str, Any] = {"target": torch.tensor([36, 0, 35]), "reduction": "none"}
    assert_as_accurate(CASE.op, CASE.reference, inputs, dtype=dtype, device=path.device, **options)


def test_impossible_classes(path: Path, small_chunks: None) -> None:
    """Whole steps of the walk are -inf; a target among them costs inf; a row that holds NaN is NaN alone."""
    inputs = {n: t.float().to(path.device).requires_grad_() for n, t in CASE.problem(**SIZES).items()}
    with torch.no_grad():
        inputs["linear_bias"][:20] = -math.inf
        inputs["input"][2, 1] = math.nan
    target = torch.tensor([30, 5, 30, 36, 20, 21, 22, 23, 24, 25, 26], device=path.device)
    loss = functional.linear_cross_entropy(**inputs, target=target, reduction="none")
    logits = F.linear(inputs["input"], inputs["linear_weight"], inputs["linear_bias"])
    torch.testing.assert_close(loss, F.cross_entropy(logits, target, reduction="none"), equal_nan=True)
    kept = torch.arange(11, device=path.device) != 2
    ours, truth = (
        torch.autograd.grad(t, inputs["input"], kept.float(), retain_graph=True)[0][kept]
        for t in (loss, F.cross_entropy(logits, target, reduction="none"))
    )
    torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_what_is_ignored_has_no_effect(path: Path, small_chunks: None, reduction: str) -> None:
    """NaN in its input, and in its incoming gradient."""
    problem = {n: t.float().to(path.device) for n, t in CASE.problem(**SIZES).items()}
    target = ids(11, below=37, seed=1).to(path.device)
    gone = torch.tensor([0, 4, 5, 10], device=path.device)
    kept = torch.tensor([i for i in range(11) if i not in gone.tolist()], device=path.device)
    results = []
    for rows in (None, kept):
        leaves = {n: t.clone().requires_grad_() for n, t in problem.items()}
        if rows is None:
            with torch.no_grad():
                leaves["input"][gone] = math.nan
        given = leaves if rows is None else leaves | {"input": leaves["input"][rows]}
        goal = target.index_fill(0, gone, -100) if rows is None else target[rows]
        loss = functional.linear_cross_entropy(**given, target=goal, reduction=reduction)
        grad = torch.arange(1.0, 1 + loss.numel(), device=path.device).view(loss.shape)
        if reduction == "none" and rows is None:
            assert not loss[gone].any()
            grad = torch.full((11,), math.nan, device=path.device).index_copy(0, kept, grad[: len(kept)])
        loss.backward(grad)
        if rows is None:
            assert not leaves["input"].grad[gone].any()
        compared = loss[kept] if reduction == "none" and rows is None else loss
        results.append([compared, *(t.grad for t in leaves.values())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_to_learn(path: Path, weighted: bool) -> None:
    """As torch's: the mean of nothing is NaN, its gradients are 0."""
    weight = torch.tensor([0.0, 1.0, 1.0], device=path.device) if weighted else None
    for target in ([-100, -100], [], [0, 0] if weighted else [-100]):
        x = torch.ones(len(target), 4, device=path.device, requires_grad=True)
        w = torch.ones(3, 4, device=path.device, requires_grad=True)
        goal = torch.tensor(target, dtype=torch.int64, device=path.device)
        loss = functional.linear_cross_entropy(x, w, goal, weight=weight)
        assert loss.isnan()
        loss.backward()
        assert not x.grad.any()
        assert not w.grad.any()
        assert functional.linear_cross_entropy(x, w, goal, weight=weight, reduction="sum") == 0
        assert functional.linear_cross_entropy(x, w, goal, reduction="none").shape == (len(target),)


def test_any_leading_dimensions(path: Path) -> None:
    inputs = {n: t.float().to(path.device) for n, t in CASE.problem(N=6, V=5, D=4).items()}
    target = ids(6, below=5, seed=1).to(path.device)
    flat = functional.linear_cross_entropy(**inputs, target=target, reduction="none")
    for shape in ((2, 3), (6, 1), (1, 2, 3)):
        shaped = inputs | {"input": inputs["input"].view(*shape, 4)}
        loss = functional.linear_cross_entropy(**shaped, target=target.view(shape), reduction="none")
        torch.testing.assert_close(loss, flat.view(shape))
    one = functional.linear_cross_entropy(**inputs | {"input": inputs["input"][2]}, target=target[2], reduction="none")
    torch.testing.assert_close(one, flat[2])


class Largest(TorchDispatchMode):
    """The largest floating tensor that any operation gives; the interpreter's maps of memory are bytes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        for t in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(t, Tensor) and t.is_floating_point():
                self.elements = max(self.elements, t.untyped_storage().nbytes() // t.element_size())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_bounded_by_the_chunk(path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Nothing has more elements than a chunk of logits, larger here than a gradient."""
    N, V, D, chunk = 60, 50, 4, 500
    monkeypatch.setattr(cpu, "LOGITS", chunk)
    module: Any = cpu
    if path.kernels:
        module = importlib.import_module("seqops.kernels.linear_cross_entropy")
        small = module.config.LinearCrossEntropyConfig(block_v=64, num_warps=1, logits=chunk)
        monkeypatch.setattr(module.config, "LINEAR_CROSS_ENTROPY", small)
    problem = {n: t.to(path.device, dtype) for n, t in CASE.problem(N=N, V=V, D=D).items()}
    target = ids(N, below=V, seed=1, low=-1).to(path.device)
    with Largest() as largest:
        module.linear_cross_entropy_bwd(None, *problem.values(), target, None, 0.1, True, True, True)
    assert largest.elements == chunk


def test_backward_twice(path: Path) -> None:
    """The gradients that the forward has kept are not used up, and take any incoming gradient."""
    leaves = {n: t.float().to(path.device).requires_grad_() for n, t in CASE.problem(**SIZES).items()}
    loss = functional.linear_cross_entropy(**leaves, target=ids(11, below=37, seed=1).to(path.device), reduction="sum")
    first = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    again = torch.autograd.grad(loss, list(leaves.values()), torch.tensor(-2.0, device=path.device))
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(-2 * a, b)


def test_shared_weights(path: Path) -> None:
    """The table of embeddings is the layer's too."""
    word, target = ids(9, below=6, seed=1).to(path.device), ids(9, below=6, seed=2).to(path.device)
    grads = []
    for ours in (True, False):
        table = randn(6, 4, seed=3).to(path.device).requires_grad_()
        x = F.embedding(word, table)
        loss = functional.linear_cross_entropy(x, table, target) if ours else F.cross_entropy(x @ table.t(), target)
        loss.backward()
        grads.append(table.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("options", [{}, {"weight": torch.rand(7)}, {"ignore_index": 3, "label_smoothing": 0.2}])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_module_is_torchs(cpu_path: None, options: dict[str, Any], reduction: str) -> None:
    """The same state_dict, loss and gradients; torch before 2.13 has none, but has what it is made of."""
    torch.manual_seed(0)
    module = nn.LinearCrossEntropyLoss(4, 7, bias=True, reduction=reduction, **options)
    x, target = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 3, 6, 3, 1])
    loss = module(x, target)
    expected = F.cross_entropy(module.linear(x), target, reduction=reduction, **options)
    leaves = [x, *module.parameters()]
    torch.testing.assert_close(loss, expected)
    for a, b in zip(*(torch.autograd.grad(t.sum(), leaves) for t in (loss, expected)), strict=True):
        torch.testing.assert_close(a, b)
    assert set(module.state_dict()) == {"linear.weight", "linear.bias"} | ({"weight"} if "weight" in options else set())
    if hasattr(torch.nn, "LinearCrossEntropyLoss"):
        torchs = torch.nn.LinearCrossEntropyLoss(4, 7, bias=True, reduction=reduction, **options)
        torchs.load_state_dict(module.state_dict(), strict=True)
        torch.testing.assert_close(torchs(x, target), loss)
    assert "in_features=4, out_features=7" in repr(module)


def test_autocast(cpu_path: None) -> None:
    module, x = nn.LinearCrossEntropyLoss(4, 7), torch.randn(5, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(x, torch.tensor([0, 3, 6, 3, 1]))
    assert loss.dtype == torch.float32
    loss.backward()
    assert x.grad.dtype == module.linear.weight.grad.dtype == torch.float32


def test_targets_out_of_range_on_a_gpu_are_ignored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where looking would make the host wait; here as compiled code does, which does not look either."""
    problem = {n: t.float().to(path.device) for n, t in CASE.problem(**SIZES).items()}
    target = torch.tensor([-1, 37, 2**40, *range(8)], device=path.device)
    monkeypatch.setattr(importlib.import_module("seqops.ops.linear_cross_entropy"), "check_range", lambda *_: None)
    loss = functional.linear_cross_entropy(**problem, target=target)
    kept = problem | {"input": problem["input"][3:]}
    torch.testing.assert_close(loss, functional.linear_cross_entropy(**kept, target=target[3:]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": torch.tensor([0, 5])}, ValueError, r"target must lie in 0\.\.4, got 0\.\.5"),
        ({"target": torch.tensor([-1, 0])}, ValueError, r"target must lie in 0\.\.4, got -1\.\.0"),
        ({"target": torch.zeros(2)}, TypeError, "target must be int32 or int64, got torch.float32"),
        ({"target": torch.tensor([0])}, ValueError, r"target must have shape \[2\], got \[1\]"),
        ({"input": torch.zeros(2, 4)}, ValueError, r"input must have shape \[\.\.\., 3\], got \[2, 4\]"),
        ({"input": torch.zeros(())}, ValueError, r"input must have shape \[\.\.\., 3\], got \[\]"),
        ({"linear_weight": torch.zeros(3)}, ValueError, r"linear_weight must have shape \[V, D\], got \[3\]"),
        ({"linear_weight": torch.zeros(0, 3)}, ValueError, "linear_weight must have a class at least"),
        ({"linear_bias": torch.zeros(4)}, ValueError, r"linear_bias must have shape \[5\], got \[4\]"),
        ({"linear_bias": torch.zeros(5).half()}, TypeError, "linear_bias must have the dtype of input"),
        ({"weight": torch.zeros(4)}, ValueError, r"weight must have shape \[5\], got \[4\]"),
        ({"weight": torch.zeros(5).double()}, TypeError, "weight must be torch.float32, got torch.float64"),
        ({"reduction": "max"}, ValueError, "reduction must be one of 'none', 'mean', 'sum', got 'max'"),
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must lie in 0\.\.1, got 1\.5"),
    ],
)
def test_rejects(cpu_path: None, change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"input": torch.zeros(2, 3), "linear_weight": torch.zeros(5, 3)}
    arguments |= {"target": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(error, match=f"^linear_cross_entropy: {message}"):
        functional.linear_cross_entropy(**(arguments | change))
