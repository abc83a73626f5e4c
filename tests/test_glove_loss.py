"""glove_loss and nn.GloVe against the float64 reference, and what they refuse."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from cases import CASES, ids
from conftest import Path
from helpers import assert_as_accurate, randn
from torch import Tensor

from seqops import functional, nn, reference

SIZES = [{"N": 1, "V": 1, "D": 1}, {"N": 40, "V": 7, "D": 5}, {"N": 70, "V": 33, "D": 37}]
CASE = CASES["glove_loss"]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("sizes", SIZES)
def test_glove_loss(path: Path, sizes: dict[str, int], reduction: str) -> None:
    options = CASE.usual(**sizes) | {"reduction": reduction, "x_max": 3.0, "alpha": 0.5}
    if reduction == "mean":
        options |= {n: options[n].clamp(min=0) for n in ("i", "j")}
    assert_as_accurate(CASE.op, CASE.reference, CASE.problem(**sizes), device=path.device, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(path: Path, dtype: torch.dtype) -> None:
    sizes = SIZES[1]
    options = CASE.usual(**sizes)
    assert_as_accurate(CASE.op, CASE.reference, CASE.problem(**sizes), dtype=dtype, device=path.device, **options)


def test_sparse_gradients_are_the_dense_ones(path: Path) -> None:
    sizes = SIZES[1]
    options = {n: o.to(path.device) if isinstance(o, Tensor) else o for n, o in CASE.usual(**sizes).items()}
    grads = []
    for sparse in (False, True):
        leaves = {n: t.float().to(path.device).requires_grad_() for n, t in CASE.problem(**sizes).items()}
        functional.glove_loss(**leaves, **options | {"reduction": "sum"}, sparse=sparse).backward()
        assert leaves["weight"].grad.is_sparse == leaves["context_weight"].grad.is_sparse == sparse
        grads.append([t.grad.to_dense() for t in leaves.values()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_one_table_for_both(path: Path) -> None:
    i, j, x = (CASE.usual(**SIZES[1])[n].to(path.device) for n in ("i", "j", "x"))
    j = j.clamp(max=6)
    table, bias = randn(7, 5, seed=1).to(path.device), randn(7, seed=2).to(path.device)
    grads = []
    for fn in (functional.glove_loss, reference.glove_loss):
        w, b = table.clone().requires_grad_(), bias.clone().requires_grad_()
        fn(w, w, b, b, i, j, x).backward()
        grads.append((w.grad, b.grad))
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("count", [0.0, float("nan")])
def test_a_pair_that_is_left_out_has_any_count(path: Path, count: float) -> None:
    tables = [randn(*shape, seed=n).float().to(path.device).requires_grad_() for n, shape in enumerate(((3, 2),) * 2)]
    tables += [randn(3, seed=n).float().to(path.device).requires_grad_() for n in (2, 3)]
    i, j, x = (torch.tensor(v, device=path.device) for v in ([0, -1, 1], [2, 0, -1], [2.0, count, count]))
    losses = functional.glove_loss(*tables, i, j, x, reduction="none")
    grads = torch.autograd.grad(losses.sum(), tables, retain_graph=True)
    alone = functional.glove_loss(*tables, i[:1], j[:1], x[:1])
    assert losses.tolist() == [alone.item(), 0.0, 0.0]
    for a, b in zip(grads, torch.autograd.grad(alone, tables), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("V", "D", "N"), [(7, 100, 900), (500, 24, 900), (5, 1, 900)])
def test_gradients_are_summed_in_the_order_of_the_batch(
    cpu_path: None, V: int, D: int, N: int, threads: int, request: pytest.FixtureRequest
) -> None:
    """To the bit, whatever the threads do."""
    request.addfinalizer(functools.partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(threads)
    rows, source = ids(N, below=V, seed=1, low=-1), randn(N, D, seed=2).float()
    expected = torch.zeros(V, D)
    for row, values in zip(rows.tolist(), source, strict=True):
        if row >= 0:
            expected[row] += values
    got = torch.ops.seqops.row_scatter(source, None, torch.ones(1, 1).expand(N, 1), rows[:, None], V, torch.float32)
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.tensor([1.0, 0.0])}, ValueError, r"x must be above 0, got 0\.0"),
        ({"x": torch.tensor([1.0, float("nan")])}, ValueError, "x must be above 0, got nan"),
        ({"x": torch.ones(2).half()}, TypeError, "x must be torch.float32, got torch.float16"),
        ({"x": torch.ones(3)}, ValueError, r"x must have shape \[2\], got \[3\]"),
        ({"i": torch.tensor([0, 4])}, ValueError, r"i must lie in -1\.\.3, got 0\.\.4"),
        ({"j": torch.tensor([-2, 0])}, ValueError, r"j must lie in -1\.\.4, got -2\.\.0"),
        ({"j": torch.zeros(2)}, TypeError, "j must be int32 or int64, got torch.float32"),
        ({"bias": torch.zeros(5)}, ValueError, r"bias must have shape \[4\], got \[5\]"),
        ({"context_weight": torch.zeros(5, 2)}, ValueError, r"context_weight must have shape \[U, 3\], got \[5, 2\]"),
        ({"context_bias": torch.zeros(5).double()}, TypeError, "context_bias must have the dtype of weight"),
        ({"reduction": "max"}, ValueError, "reduction must be one of 'none', 'mean', 'sum', got 'max'"),
        ({"x_max": 0.0}, ValueError, "x_max must be above 0 and alpha at least 0, got 0.0 and 0.75"),
        ({"alpha": float("nan")}, ValueError, "x_max must be above 0 and alpha at least 0"),
    ],
)
def test_rejects(cpu_path: None, change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"weight": torch.zeros(4, 3), "context_weight": torch.zeros(5, 3)}
    arguments |= {"bias": torch.zeros(4), "context_bias": torch.zeros(5), "x": torch.ones(2)}
    arguments |= {"i": torch.zeros(2, dtype=torch.int32), "j": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(error, match=f"^glove_loss: {message}"):
        functional.glove_loss(**(arguments | change))


@pytest.mark.parametrize("sparse", [False, True])
def test_module_learns_the_logarithms(cpu_path: None, sparse: bool) -> None:
    """Counts whose logarithms have rank D and biases are met."""
    torch.manual_seed(0)
    V, D = 6, 2
    counts = (randn(V, D, seed=1) @ randn(D, V, seed=2) + randn(V, 1, seed=3) + 2).float().exp()
    i, j = (t.flatten() for t in torch.meshgrid(torch.arange(V), torch.arange(V), indexing="ij"))
    module = nn.GloVe(V, D, sparse=sparse, x_max=1.0)
    tables, biases = [module.weight, module.context_weight], [module.bias, module.context_bias]
    first = module(i, j, counts.flatten()).item()
    optimizers = [(torch.optim.SparseAdam if sparse else torch.optim.Adam)(tables, lr=0.05)]
    optimizers.append(torch.optim.Adam(biases, lr=0.05))
    for _ in range(400):
        for optimizer in optimizers:
            optimizer.zero_grad()
        module(i, j, counts.flatten()).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert module(i, j, counts.flatten()).item() < 1e-3 * first
    assert torch.equal(module.vectors(), module.weight + module.context_weight)
    assert repr(module) == "GloVe(6, 2, x_max=1.0, alpha=0.75)"


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (2.0, 3)])
def test_bad_modules(sizes: tuple[Any, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^GloVe: "):
        nn.GloVe(*sizes)
