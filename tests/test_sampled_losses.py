"""Sampled softmax, NCE, BPR and in-batch softmax: what they mean, their pitfalls, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import CASES, ids, log_q
from conftest import Path
from helpers import assert_as_accurate, randn
from torch import Tensor

from seqops import functional, reference
from seqops.embeddings import NegativeSampler

NAMES = ["sampled_softmax_loss", "nce_loss", "bpr_loss"]
CORRECTED = NAMES[:2]
SIZES = [
    {"B": 1, "K": 1, "V": 2, "D": 1},
    {"B": 33, "K": 2, "V": 4, "D": 37},
    {"B": 65, "K": 2, "V": 100, "D": 20, "W": 2},
]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_reference(path: Path, name: str, sizes: dict[str, int]) -> None:
    case = CASES[name]
    for options in ({"collision": "keep"}, {"collision": "skip", "padding_idx": 1, "mode": "sum"}):
        given = case.usual(**sizes) | options
        assert_as_accurate(case.op, case.reference, case.problem(**sizes), device=path.device, **given)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*NAMES, "in_batch_softmax_loss"])
def test_dtypes(path: Path, name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    given = case.usual(**case.largest)
    assert_as_accurate(case.op, case.reference, case.problem(**case.largest), dtype=dtype, device=path.device, **given)


def tables(V: int = 6, D: int = 4) -> tuple[Tensor, Tensor]:
    return randn(V, D, seed=1), randn(V, D, seed=2)


def test_all_classes_as_candidates_are_the_full_softmax(path: Path) -> None:
    """Each other class once, as a uniform sampler is expected to draw it: the corrections are one constant."""
    a, b = (t.to(path.device) for t in tables())
    target = torch.tensor([2, 0, 5], device=path.device)
    others = torch.tensor([[v for v in range(6) if v != t] for t in target.tolist()], device=path.device)
    even = torch.full((6,), -math.log(6.0), dtype=torch.float64, device=path.device)
    loss = functional.sampled_softmax_loss(a, b, target.flip(0), target, others, log_q=even)
    torch.testing.assert_close(loss, F.cross_entropy(a[target.flip(0)] @ b.t(), target))


def test_correction_takes_back_what_the_sampler_prefers() -> None:
    """With many draws the gradient tends to that of the full softmax; with the other sign it would not."""
    a, b = tables(V=5, D=3)
    sampler = NegativeSampler([1.0, 2.0, 4.0, 8.0, 16.0], power=1.0)
    center, target = torch.tensor([0, 3]), torch.tensor([1, 4])
    full, ours = a.clone().requires_grad_(), a.clone().requires_grad_()
    F.cross_entropy(full[center] @ b.t(), target).backward()
    functional.sampled_softmax_loss(
        ours, b, center, target, sampler, num_negatives=50_000,
        generator=torch.Generator().manual_seed(0),
    ).backward()  # fmt: skip
    torch.testing.assert_close(ours.grad, full.grad, rtol=0.02, atol=0.005)


def test_nce_learns_normalised_log_probabilities() -> None:
    """At its optimum the scores are the data's own logarithms of probability: its gradient is 0 there."""
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    K = 4
    bias = p.log().requires_grad_()
    h, out = torch.zeros(1, 2).double(), torch.zeros(3, 2).double()
    total = torch.zeros((), dtype=torch.float64)
    for v in range(3):
        pair = functional.nce_loss(
            h, out, torch.tensor([0]), torch.tensor([v]), torch.full((1, K), -1), bias=bias, log_q=q.log()
        )
        total = total + p[v] * pair
        noise = functional.nce_loss(
            h, out, torch.tensor([0]), torch.tensor([v]), torch.full((1, K), v), bias=bias, log_q=q.log()
        )
        total = total + q[v] * (noise - pair)
    total.backward()
    torch.testing.assert_close(bias.grad, torch.zeros(3).double(), atol=1e-12, rtol=0)


def test_in_batch_correction_has_the_right_sign(path: Path) -> None:
    """A key that comes into batches twice as often as another counts half as much."""
    query, key = (t.to(path.device) for t in tables(V=2, D=3))
    often = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64, device=path.device)
    loss = functional.in_batch_softmax_loss(query, key, log_q=often.log(), reduction="none")
    weights = (query @ key.t()).exp() / often
    torch.testing.assert_close(loss, -(weights.diagonal() / weights.sum(1)).log())


def test_in_batch_twins_are_no_negatives(path: Path) -> None:
    query, key = (t.float().to(path.device) for t in tables(V=4, D=3))
    ids = torch.tensor([7, 1, 7, 2], device=path.device)
    loss = functional.in_batch_softmax_loss(query, key, ids=ids, reduction="none")
    kept = torch.tensor([0, 1, 3], device=path.device)
    alone = functional.in_batch_softmax_loss(query[kept], key[kept], reduction="none")
    torch.testing.assert_close(loss[0], alone[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [17.0, 100.0, 1e4])
@pytest.mark.parametrize("name", NAMES)
def test_large_scores(path: Path, name: str, scale: float, dtype: torch.dtype) -> None:
    """The loss is finite, and the gradient that of the scores' true slopes, not 0 where a sigmoid saturates."""
    inputs = {"in_weight": torch.tensor([[1.0], [-1.0]]), "out_weight": torch.tensor([[scale], [-scale], [scale / 2]])}
    given: dict[str, Any] = {"center": torch.tensor([0, 1]), "target": torch.tensor([1, 2])}
    given |= {"negatives": torch.tensor([[0, 2], [1, 0]]), "reduction": "none"}
    given |= {"log_q": torch.full((3,), -math.log(3)).double()} if name in CORRECTED else {}
    inputs = {n: t.double() for n, t in inputs.items()}
    fn, truth = getattr(functional, name), getattr(reference, name)
    assert_as_accurate(fn, truth, inputs, dtype=dtype, device=path.device, **given)


@pytest.mark.parametrize("name", NAMES)
def test_sparse_gradients_are_the_dense_ones(path: Path, name: str) -> None:
    case, sizes = CASES[name], {"B": 9, "K": 4, "V": 5, "D": 3}
    given = {n: o.to(path.device) if isinstance(o, Tensor) else o for n, o in case.usual(**sizes).items()}
    grads = []
    for sparse in (False, True):
        leaves = {n: t.float().to(path.device).requires_grad_() for n, t in case.problem(**sizes).items()}
        case.op(**leaves, **given | {"reduction": "sum"}, sparse=sparse).backward()
        assert leaves["in_weight"].grad.is_sparse == leaves["out_weight"].grad.is_sparse == sparse
        grads.append([t.grad.to_dense() for t in leaves.values()])
    for dense, coalesced in zip(*grads, strict=True):
        torch.testing.assert_close(dense, coalesced)


@pytest.mark.parametrize("name", NAMES)
def test_one_table_for_both(path: Path, name: str) -> None:
    given = {n: o.to(path.device) if isinstance(o, Tensor) else o for n, o in CASES[name].usual(B=9, K=4, V=6).items()}
    grads = []
    for module in (functional, reference):
        table = tables()[0].to(path.device).requires_grad_()
        getattr(module, name)(table, table, **given | {"reduction": "sum"}).backward()
        grads.append(table.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", NAMES)
def test_drawn_negatives_are_the_samplers(path: Path, name: str) -> None:
    a, b = (t.float().to(path.device) for t in tables())
    sampler = NegativeSampler([0.0, 1.0, 5.0, 2.0, 3.0, 1.0]).to(path.device)
    center, target = torch.tensor([0, 3, 0], device=path.device), torch.tensor([1, 4, 4], device=path.device)

    def generator() -> torch.Generator:
        return torch.Generator(path.device).manual_seed(3)

    fn = getattr(functional, name)
    drawn = fn(a, b, center, target, sampler, num_negatives=7, generator=generator())
    given: dict[str, Any] = {"negatives": sampler.sample((3, 7), generator=generator())}
    if name in CORRECTED:
        given["log_q"] = sampler.log_prob(torch.arange(6, device=path.device))
    torch.testing.assert_close(drawn, fn(a, b, center, target, **given), rtol=0, atol=0)


@pytest.mark.parametrize("first", [1.0, math.inf, math.nan])
@pytest.mark.parametrize("R", [1, 3])
def test_no_row_is_nothing(path: Path, R: int, first: float) -> None:
    """Whatever the first row and the coefficients hold."""
    table = torch.tensor([[first, 2.0], [3.0, 4.0]], device=path.device)
    rows, times = torch.full((2, R), -1, device=path.device), torch.full((2, R), math.nan, device=path.device)
    rows[1, 0], times[1, 0] = 1, 2.0
    assert torch.ops.seqops.row_sums(table, rows, times, False).tolist() == [[0.0, 0.0], [6.0, 8.0]]
    index = torch.tensor([1, 0], device=path.device)
    scattered = torch.ops.seqops.row_sums_scatter(table, rows, times, index, 3, torch.float32)
    assert scattered.tolist() == [[6.0, 8.0], [0.0, 0.0], [0.0, 0.0]]
    scores = torch.ops.seqops.row_scores(torch.ones(2, 2, device=path.device), None, table, rows, False)
    assert scores.tolist() == [[0.0] * R, [7.0] + [0.0] * (R - 1)]


def test_no_source_scores_nothing(path: Path) -> None:
    source, table = torch.full((1, 2), math.nan, device=path.device), torch.ones(2, 2, device=path.device)
    index, rows = torch.tensor([-1], device=path.device), torch.tensor([[0, 1]], device=path.device)
    assert torch.ops.seqops.row_scores(source, index, table, rows, False).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (40, 3, 7, 13, 5), (9, 1, 3, 4, 20), (0, 2, 3, 4, 2)], ids=str)
def test_sums_are_scattered(path: Path, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    """Each item's weighted sum is added to the row that the item names; -1 names none, in both places."""
    N, R, V, D, U = sizes
    table, wide = randn(V, D, seed=1).to(dtype), torch.promote_types(dtype, torch.float32)
    rows, index = ids(N, R, below=V, seed=2, low=-1), ids(N, below=U, seed=3, low=-1)
    times = randn(N, R, seed=4).to(wide)
    truth = torch.zeros(U, D, dtype=torch.float64)
    for n, at in enumerate(index.tolist()):
        for r, row in enumerate(rows[n].tolist()):
            if at >= 0 and row >= 0:
                truth[at] += times[n, r].double() * table[row].double()
    given = [t.to(path.device) for t in (table, rows, times, index)]
    dense = torch.ops.seqops.row_sums_scatter(*given, U, dtype)
    used, values = torch.ops.seqops.row_sums_scatter_sparse(*given, U, dtype)
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 8 * R * N * torch.finfo(wide).eps}
    torch.testing.assert_close(dense.cpu().double(), truth, **close)
    assert used.tolist() == sorted(set(index.tolist()) - {-1})
    torch.testing.assert_close(values.cpu().double(), truth[used.cpu()], **close)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_learn(path: Path, name: str) -> None:
    """An empty batch, no negatives, pairs without a centre or a target."""
    a, b = (t.float().to(path.device).requires_grad_() for t in tables())
    fn: Callable[..., Tensor] = getattr(functional, name)
    extra = {"log_q": log_q(6).to(path.device)} if name in CORRECTED else {}
    none = torch.empty(0, dtype=torch.int64, device=path.device)
    assert fn(a, b, none, none, none[:, None], reduction="none", **extra).shape == (0,)
    out = torch.tensor([-1, 2], device=path.device)
    losses = fn(a, b, out, out.flip(0), out[:, None], reduction="none", **extra)
    assert not losses.any()
    losses.sum().backward()
    assert not a.grad.any()
    assert not b.grad.any()


@pytest.mark.parametrize("name", CORRECTED)
def test_what_is_refused(name: str) -> None:
    a, b = (t.float() for t in tables())
    fn, one = getattr(functional, name), torch.tensor([1])
    q = log_q(6)
    for match, kind, given in (
        (f"{name}: log_q must be given with negatives that are given", ValueError, {}),
        (f"{name}: log_q must have shape \\[6\\]", ValueError, {"log_q": q[:5]}),
        (f"{name}: log_q must be floating", TypeError, {"log_q": torch.zeros(6, dtype=torch.int64)}),
        (f"{name}: log_q must be finite .* class 1", ValueError, {"log_q": q.index_fill(0, one, -math.inf)}),
        (f"{name}: collision must be one of", ValueError, {"log_q": q, "collision": "redraw"}),
        (f"{name}: bias must have shape \\[6\\]", ValueError, {"log_q": q, "bias": b[:5, 0]}),
        (f"{name}: target must lie in -1..5, got 6..6", ValueError, {"log_q": q, "target": torch.tensor([6])}),
        (f"{name}: negatives must lie in -1..5", ValueError, {"log_q": q, "negatives": torch.tensor([[9]])}),
        (f"{name}: center must lie in -1..5", ValueError, {"log_q": q, "center": torch.tensor([-2])}),
        (f"{name}: negatives must be a Tensor or a NegativeSampler", TypeError, {"negatives": [1]}),
        (f"{name}: num_negatives must be at least 0", ValueError, {"negatives": NegativeSampler([1.0] * 6)}),
        (
            f"{name}: negatives must sample from 6",
            ValueError,
            {"negatives": NegativeSampler([1.0]), "num_negatives": 1},
        ),
    ):
        arguments = {"center": one, "target": one, "negatives": torch.tensor([[2]])} | given
        with pytest.raises(kind, match=f"^{match}"):
            fn(a, b, **arguments)


def test_what_in_batch_refuses() -> None:
    a, b = (t.float() for t in tables())
    for match, kind, given in (
        ("temperature must be above 0", ValueError, {"temperature": 0.0}),
        ("reduction must be one of", ValueError, {"reduction": "max"}),
        ("ids must be int32 or int64", TypeError, {"ids": torch.zeros(6)}),
        ("ids must have shape \\[6\\]", ValueError, {"ids": torch.zeros(5, dtype=torch.int64)}),
        ("log_q must have shape \\[6\\]", ValueError, {"log_q": torch.zeros(5)}),
    ):
        with pytest.raises(kind, match=f"^in_batch_softmax_loss: {match}"):
            functional.in_batch_softmax_loss(a, b, **given)
