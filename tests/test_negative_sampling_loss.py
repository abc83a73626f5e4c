"""negative_sampling_loss and nn.NegativeSampling: what only they promise."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from cases import ids, negative_sampling_usual
from cases import negative_sampling_loss as problem
from conftest import Path
from helpers import assert_as_accurate, randn
from torch import Tensor

from seqops import functional, nn, reference
from seqops.cpu.logistic import negative_sampling_fwd
from seqops.embeddings import NegativeSampler

# B, K, V, D: ones, several programs of pairs, more negatives than classes, several tiles of negatives and of features
SHAPES = [(1, 1, 1, 1), (37, 5, 11, 19), (3, 40, 2, 5), (5, 2, 300, 150)]


def check(path: Path, inputs: dict[str, Tensor], **options: Any) -> None:
    assert_as_accurate(
        functional.negative_sampling_loss, reference.negative_sampling_loss, inputs, device=path.device, **options
    )


def on(path: Path, *tensors: Tensor) -> list[Tensor]:
    return [t.to(path.device, torch.float32) if t.is_floating_point() else t.to(path.device) for t in tensors]


def tables(path: Path, V: int, D: int) -> list[Tensor]:
    return [t.requires_grad_() for t in on(path, randn(V, D, seed=1), randn(V, D, seed=2))]


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(path: Path, shape: tuple[int, int, int, int]) -> None:
    B, K, V, D = shape
    check(path, problem(B, K, V, D), **negative_sampling_usual(B, K, V))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("W", [None, 3])
def test_dtypes(path: Path, dtype: torch.dtype, W: int | None) -> None:
    usual = negative_sampling_usual(21, 3, 40, **({} if W is None else {"W": W}))
    check(path, problem(21, 3, 40, 33), dtype=dtype, **usual)


def test_half_precision_sums_are_not_in_half_precision(path: Path) -> None:
    """Many gradients of the same row: a sum in 16 bits would stand still, and a row is rounded once."""
    slow = path.kernels and path.device == "cpu"
    B = 270 if slow else 5000
    tables = {n: randn(2, 16, seed=s, scale=0.1) for n, s in (("in_weight", 1), ("out_weight", 2))}
    options = {"center": torch.zeros(B, dtype=torch.int64), "target": torch.ones(B, dtype=torch.int64)}
    options["negatives"] = torch.zeros(B, 1, dtype=torch.int64)
    for dtype in (torch.bfloat16,) if slow else (torch.bfloat16, torch.float16):
        leaves = [t.to(path.device, dtype).requires_grad_() for t in tables.values()]
        exact = [t.detach().cpu().double().requires_grad_() for t in leaves]
        moved = {n: o.to(path.device) for n, o in options.items()}
        loss = functional.negative_sampling_loss(*leaves, **moved, reduction="sum")
        truth = reference.negative_sampling_loss(*exact, **options, reduction="sum")
        for a, b in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(truth, exact), strict=True):
            bound = torch.finfo(dtype).eps / 2 * b.abs() + 1e-5 * b.abs().max()
            assert ((a.cpu().double() - b).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("score", [0.0, 17.0, 100.0, 1e4, -17.0, -100.0, -1e4])
def test_gradient_is_a_sigmoid_at_any_score(path: Path, score: float, dtype: torch.dtype) -> None:
    """Where log(sigmoid(x) + 1e-15) has a slope of 0, or exp overflows."""
    one = torch.ones(1, 1, device=path.device, dtype=dtype)
    scores = torch.tensor([[score]], device=path.device, dtype=dtype).double().item()
    index = torch.zeros(1, dtype=torch.int64, device=path.device)
    for positive, sign in ((1.0, -1), (0.0, 1)):
        given = torch.cat((one * 0, one * score)) if sign > 0 else one * score
        out_weight = given.detach().requires_grad_()
        negatives = index[:, None] + 1 if sign > 0 else index[:, None][:, :0]
        loss = functional.negative_sampling_loss(one, out_weight, index, index, negatives, positive_weight=positive)
        (grad,) = torch.autograd.grad(loss, out_weight)
        exact = torch.tensor(sign * scores, dtype=torch.float64)
        torch.testing.assert_close(loss.double().cpu(), -torch.nn.functional.logsigmoid(-exact), rtol=1e-6, atol=1e-30)
        slope = (sign * torch.sigmoid(exact)).to(dtype).double()
        torch.testing.assert_close(grad[-1, 0].double().cpu(), slope, rtol=2 * torch.finfo(dtype).eps, atol=1e-38)


def test_one_row_in_all_places(path: Path) -> None:
    """Tied tables, and a batch whose centres, targets and negatives are few: every gradient is one sum."""

    def tied(table: Tensor, op: Any = None, **options: Any) -> Tensor:
        return op(table, table, **options)

    inputs = {"table": randn(3, 7, seed=1)}
    options = {"center": ids(70, below=3, seed=1), "target": ids(70, below=3, seed=2)}
    options["negatives"] = ids(70, 4, below=3, seed=3)
    for collision in ("skip", "keep"):
        assert_as_accurate(
            lambda table, **o: tied(table, functional.negative_sampling_loss, **o),
            lambda table, **o: tied(table, reference.negative_sampling_loss, **o),
            inputs,
            device=path.device,
            collision=collision,
            **options,
        )


@pytest.mark.parametrize("mode", ["mean", "sum"])
@pytest.mark.parametrize("padding_idx", [None, 0, 6])
def test_padding(path: Path, padding_idx: int | None, mode: str) -> None:
    """-1 and padding_idx are none, in bags, targets and negatives; some bags are empty; positive_weight too."""
    center, target = ids(19, 4, below=7, low=-1, seed=1), ids(19, below=7, low=-1, seed=2)
    center[[2, 17]] = -1
    if padding_idx is not None:
        center[3] = padding_idx
    options = {"center": center, "target": target, "negatives": ids(19, 3, below=7, low=-1, seed=3)}
    for reduction in ("mean",) if path.kernels else ("none", "sum", "mean"):
        check(
            path,
            problem(19, 3, 7, 9),
            padding_idx=padding_idx,
            mode=mode,
            positive_weight=0.25,
            reduction=reduction,
            **options,
        )


def test_what_is_left_out_has_no_loss_and_no_gradient(path: Path) -> None:
    """Whatever the rows, the weights and the incoming gradients hold there."""
    a, b = (t.detach().clone() for t in tables(path, 6, 5))
    a[0], b[0] = torch.nan, torch.nan
    center, target = torch.tensor([1, 0, -1, 2, 5]), torch.tensor([0, 1, 2, -1, 4])
    negatives = torch.tensor([[1, 2], [3, 4], [1, 2], [3, 4], [0, -1]])
    leaves = [a.requires_grad_(), b.requires_grad_()]
    weight = torch.tensor([torch.nan] * 4 + [2.0], device=path.device, requires_grad=True)
    loss = functional.negative_sampling_loss(
        *leaves, *on(path, center, target, negatives), padding_idx=0, weight=weight, reduction="none"
    )
    assert loss[:4].tolist() == [0.0] * 4
    assert loss[4] > 0
    incoming = torch.tensor([1.0, 1.0, 1.0, 1.0, 3.0], device=path.device)
    da, db, dweight = torch.autograd.grad(loss, [*leaves, weight], incoming)
    assert da.isfinite().all()
    assert db.isfinite().all()
    assert da.any(1).nonzero().flatten().tolist() == [5]
    assert db.any(1).nonzero().flatten().tolist() == [4]
    assert dweight.any()
    assert not dweight[:4].any()


def test_nothing_to_average(path: Path) -> None:
    a, b = tables(path, 3, 4)
    center, target, negatives = on(path, torch.tensor([-1, 1]), torch.tensor([0, -1]), torch.zeros(2, 1).long())
    assert functional.negative_sampling_loss(a, b, center, target, negatives).isnan()
    assert functional.negative_sampling_loss(a, b, center, target, negatives, reduction="sum") == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("W", [None, 3])
def test_sparse_gradients_are_the_dense_ones(path: Path, W: int | None, dtype: torch.dtype) -> None:
    """Coalesced, with the rows that occur and no other."""
    V = 100
    usual = negative_sampling_usual(20, 3, V, **({} if W is None else {"W": W}))
    options = {n: o.to(path.device) if isinstance(o, Tensor) else o for n, o in usual.items()}
    leaves = [t.detach().to(dtype).requires_grad_() for t in tables(path, V, 9)]
    grads = []
    for sparse in (False, True):
        loss = functional.negative_sampling_loss(*leaves, **options, sparse=sparse)
        grads.append(torch.autograd.grad(loss.sum(), leaves))
    for dense, sparse_grad in zip(*grads, strict=True):
        assert sparse_grad.layout == torch.sparse_coo
        assert sparse_grad.is_coalesced()
        assert sparse_grad.dtype == dtype
        assert torch.equal(sparse_grad.to_dense(), dense)
        rows = sparse_grad.indices()[0]
        assert (rows.diff() > 0).all()
        assert 0 < rows.numel() < V
    assert grads[1][1].indices().shape[1] <= 20 * 4


def test_tied_tables_with_sparse_gradients(path: Path) -> None:
    table, _ = tables(path, 12, 5)
    options = [t.to(path.device) for t in (ids(9, below=12, seed=1), ids(9, below=12, seed=2))]
    negatives = ids(9, 2, below=12, seed=3).to(path.device)
    dense, sparse = (
        torch.autograd.grad(functional.negative_sampling_loss(table, table, *options, negatives, sparse=s), table)[0]
        for s in (False, True)
    )
    torch.testing.assert_close(sparse.to_dense(), dense)


@pytest.mark.parametrize("collision", ["skip", "redraw", "keep"])
def test_drawn_negatives(path: Path, collision: str) -> None:
    """As many as the sampler gives from the same generator; what collides is left out, drawn again or kept."""
    V, B, K = 6, 60, 3
    sampler = NegativeSampler(np.arange(V), device=path.device)
    a, b = tables(path, V, 5)
    center, target = on(path, ids(B, below=V, seed=1), ids(B, below=V, seed=2, low=-1))
    drawn = sampler.sample((B, K), generator=torch.Generator().manual_seed(5)).cpu()
    generator = torch.Generator().manual_seed(5)
    seed = torch.randint(-(2**63), 2**63 - 1, (1,), generator=torch.Generator().manual_seed(5))
    attempts = {"skip": 1, "redraw": 16, "keep": 0}[collision]
    _, _, rows = torch.ops.seqops.negative_sampling_fwd(
        *(a.detach(), center, b.detach(), target, None, sampler.threshold, sampler.alias),
        *(torch.cat((seed, seed * 0)).to(path.device), K, attempts, 4, 1.0, False),
    )
    rows, goal = rows.cpu().long(), target.cpu()[:, None]
    present = (goal >= 0).expand(B, K)
    assert torch.equal(rows[:, :1], goal)
    got = rows[:, 1:]
    assert (got[~present] == -1).all()
    banned = (drawn == 4) | ((drawn == goal) & (collision != "keep"))
    assert banned[present].any()
    assert torch.equal(got[present & ~banned], drawn[present & ~banned])
    if collision == "redraw":
        # Of 16 draws in a row none fails.
        assert ((got[present] >= 1) & (got[present] != 4) & (got != goal)[present]).all()
    else:
        assert (got[present & banned] == -1).all()
    loss = functional.negative_sampling_loss(
        *(a, b, center, target, sampler), num_negatives=K, padding_idx=4, collision=collision, generator=generator
    )
    same = torch.where(target == 4, -1, target)
    given = functional.negative_sampling_loss(
        *(a, b, torch.where(center == 4, -1, center), same, got.to(path.device)), collision="keep"
    )
    # Where the target is padding the pair is out; the rest draws the same.
    torch.testing.assert_close(loss, given)
    for x, y in zip(torch.autograd.grad(loss, [a, b]), torch.autograd.grad(given, [a, b]), strict=True):
        torch.testing.assert_close(x, y)


def test_same_draws_on_every_path(path: Path) -> None:
    """With collisions that are drawn again several times."""
    sampler = NegativeSampler([1, 30, 1, 2, 0], device=path.device)
    on_cpu = NegativeSampler([1, 30, 1, 2, 0])
    target = ids(40, below=5, seed=2)
    table = torch.zeros(5, 2)
    seed = torch.tensor([1234567, 2**33 + 1])
    arguments = [table, None, table, target, None, sampler.threshold, sampler.alias, seed]
    tensors = [t.to(path.device) if isinstance(t, Tensor) else t for t in arguments]
    tensors[0] = torch.zeros(40, 2, device=path.device)
    _, _, rows = torch.ops.seqops.negative_sampling_fwd(*tensors, 21, 16, -1, 1.0, False)
    arguments[0], arguments[5], arguments[6] = torch.zeros(40, 2), on_cpu.threshold, on_cpu.alias
    _, _, expected = negative_sampling_fwd(*arguments, 21, 16, -1, 1.0, False)
    assert torch.equal(rows.cpu(), expected)
    assert not (rows[:, 1:] == rows[:, :1]).any()
    assert not (rows[:, 1:] == 4).any()


def test_two_classes_leave_one_negative(path: Path) -> None:
    a, b = tables(path, 2, 3)
    sampler = NegativeSampler([1, 1], device=path.device)
    center, target = on(path, torch.tensor([0, 1, 0]), torch.tensor([1, 0, 0]))
    loss = functional.negative_sampling_loss(
        a, b, center, target, sampler, num_negatives=3, collision="redraw", reduction="none"
    )
    given = (1 - target)[:, None].expand(3, 3)
    torch.testing.assert_close(loss, functional.negative_sampling_loss(a, b, center, target, given, reduction="none"))
    # Where the only other class is padding none is left.
    loss = functional.negative_sampling_loss(
        *(a, b, center[:1], target[:1] * 0, sampler), num_negatives=3, collision="redraw", padding_idx=1
    )
    torch.testing.assert_close(loss, torch.nn.functional.softplus(-(a[0] @ b[0])))


def test_each_call_draws_anew(cpu_path: None) -> None:
    a, b = tables(Path("cpu", False), 50, 4)
    sampler, center = NegativeSampler(torch.ones(50)), torch.arange(20)
    call = lambda **o: functional.negative_sampling_loss(a, b, center, center, sampler, num_negatives=3, **o)  # noqa: E731
    assert call() != call()
    torch.manual_seed(3)
    first = call()
    torch.manual_seed(3)
    assert call() == first
    generator = torch.Generator().manual_seed(9)
    first, second = call(generator=generator), call(generator=generator)
    assert first != second
    assert call(generator=torch.Generator().manual_seed(9)) == first


@pytest.mark.parametrize("which", ["center", "target", "negatives"])
@pytest.mark.parametrize("value", [-2, 4, 2**31 - 1, 2**40])
def test_ids_out_of_range(path: Path, which: str, value: int) -> None:
    """Refused on a CPU; in kernels left out, as to look would make the host wait."""
    given = {"center": torch.tensor([1, 2]), "target": torch.tensor([3, 0]), "negatives": torch.tensor([[1], [2]])}
    bad = {n: t.clone() for n, t in given.items()}
    bad[which][1] = value
    none = {n: t.clone() for n, t in given.items()}
    none[which][1] = -1
    a, b = tables(path, 4, 3)
    call = lambda options: functional.negative_sampling_loss(  # noqa: E731
        a, b, **{n: t.to(path.device) for n, t in options.items()}, reduction="none"
    )
    if not path.kernels:
        with pytest.raises(ValueError, match=rf"^negative_sampling_loss: {which} must lie in -1\.\.3, got "):
            call(bad)
        return
    results = []
    for options in (bad, none):
        loss = call(options)
        results.append([loss, *torch.autograd.grad(loss.sum(), [a, b])])
    for x, y in zip(*results, strict=True):
        assert torch.equal(x, y)


def test_gradcheck(cpu_path: None) -> None:
    inputs = [t.requires_grad_() for t in problem(6, 2, 5, 3).values()]
    usual = negative_sampling_usual(6, 2, 5, W=2)
    torch.autograd.gradcheck(
        lambda a, b, w: functional.negative_sampling_loss(a, b, weight=w, positive_weight=0.7, **usual), inputs
    )


def good(**changes: Any) -> dict[str, Any]:
    return {
        "in_weight": torch.zeros(4, 3),
        "out_weight": torch.zeros(5, 3),
        "center": torch.zeros(2, dtype=torch.int64),
        "target": torch.zeros(2, dtype=torch.int64),
        "negatives": torch.zeros(2, 6, dtype=torch.int64),
    } | changes


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"in_weight": torch.zeros(4)}, ValueError, r"in_weight must have shape \[V, D\], got \[4\]"),
        ({"in_weight": torch.zeros(4, 3).long()}, TypeError, "in_weight must be float16, .* got torch.int64"),
        ({"out_weight": torch.zeros(5, 4)}, ValueError, r"out_weight must have shape \[V, 3\], got \[5, 4\]"),
        ({"center": torch.zeros(2)}, TypeError, "center must be int32 or int64, got torch.float32"),
        ({"center": [0, 0]}, TypeError, "center must be a Tensor, got list"),
        ({"center": torch.zeros(2, 2, 2).long()}, ValueError, r"center must have shape \[B\], got \[2, 2, 2\]"),
        ({"target": torch.zeros(3).long()}, ValueError, r"target must have shape \[2\], got \[3\]"),
        ({"target": torch.zeros(2).short()}, TypeError, "target must be int32 or int64, got torch.int16"),
        ({"negatives": torch.zeros(2).long()}, ValueError, r"negatives must have shape \[2, K\], got \[2\]"),
        ({"negatives": [[0], [0]]}, TypeError, "negatives must be a Tensor or a NegativeSampler, got list"),
        ({"num_negatives": 4}, ValueError, r"negatives must have shape \[2, 4\], got \[2, 6\]"),
        (
            {"negatives": NegativeSampler([1, 1])},
            ValueError,
            "num_negatives must be at least 0 with a sampler, got Non",
        ),
        (
            {"negatives": NegativeSampler([1, 1]), "num_negatives": -1},
            ValueError,
            "num_negatives must be at least 0 with a sampler, got -1",
        ),
        (
            {"negatives": NegativeSampler([1, 1]), "num_negatives": 2},
            ValueError,
            "negatives must sample from 5 classes, got 2",
        ),
        ({"collision": "drop"}, ValueError, "collision must be one of 'skip', 'redraw', 'keep', got 'drop'"),
        ({"collision": "redraw"}, ValueError, "collision must be 'skip' or 'keep' where the negatives are given"),
        ({"mode": "max"}, ValueError, "mode must be one of 'mean', 'sum', got 'max'"),
        ({"reduction": "avg"}, ValueError, "reduction must be one of 'none', 'mean', 'sum', got 'avg'"),
        ({"weight": torch.ones(3)}, ValueError, r"weight must have shape \[2\], got \[3\]"),
        ({"weight": torch.ones(2).half()}, TypeError, "weight must be torch.float32, got torch.float16"),
        (
            {"target": torch.zeros(2, device="meta").long()},
            ValueError,
            "target must be on the device of in_weight, cpu",
        ),
    ],
)
def test_bad_arguments(cpu_path: None, change: dict[str, Any], error: type[Exception], message: str) -> None:
    functional.negative_sampling_loss(**good())
    with pytest.raises(error, match=f"^negative_sampling_loss: {message}"):
        functional.negative_sampling_loss(**good(**change))


@pytest.mark.parametrize("tied", [False, True])
def test_module_learns(cpu_path: None, tied: bool) -> None:
    torch.manual_seed(0)
    module = nn.NegativeSampling(12, 8, range(1, 13), num_negatives=3, padding_idx=0, tied=tied)
    assert (module.out_weight is module.in_weight) == tied
    assert not module.in_weight[0].any()
    assert 0 < module.in_weight.abs().max() <= 1 / 16
    assert module.sampler.log_prob(torch.tensor([0])) == -torch.inf
    center = torch.arange(1, 12).repeat(4)
    target = (center + 1) % 12
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0 if tied else 10.0)
    losses = []
    for _ in range(60):
        loss = module(center, target)
        optimizer.zero_grad()
        loss.backward()
        assert all(not p.grad[0].any() for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < (0.93 if tied else 0.75) * losses[0]
    assert not module.in_weight[0].any()


def test_module_and_sparse_optimizer(cpu_path: None) -> None:
    torch.manual_seed(0)
    module = nn.NegativeSampling(40, 8, num_negatives=3, sparse=True)
    dense = copy.deepcopy(module)
    dense.sparse = False
    for m in (module, dense):
        optimizer = torch.optim.Adagrad(m.parameters(), lr=0.1)
        torch.manual_seed(1)
        for _ in range(3):
            loss = m(torch.arange(10), torch.arange(10, 20))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for a, b in zip(module.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_module_options(cpu_path: None) -> None:
    torch.manual_seed(0)
    module = nn.NegativeSampling(9, 4, collision="redraw", mode="sum", reduction="sum", positive_weight=0.5)
    with torch.no_grad():
        module.out_weight.normal_()
    center, target, negatives = ids(5, 3, below=9, seed=1), ids(5, below=9, seed=2), ids(5, 2, below=9, seed=3)
    weight = torch.rand(5)
    expected = reference.negative_sampling_loss(
        *(module.in_weight, module.out_weight, center, target, negatives),
        mode="sum",
        reduction="sum",
        positive_weight=0.5,
        weight=weight,
    )
    torch.testing.assert_close(module(center, target, negatives, weight=weight), expected)
    other = nn.NegativeSampling(9, 4, torch.arange(9), mode="sum", reduction="sum", positive_weight=0.5)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(center, target, negatives, weight=weight), expected)
    assert "9, 4, num_negatives=5" in repr(module)
    assert set(module.state_dict()) == {"in_weight", "out_weight", "sampler.threshold", "sampler.alias"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_embeddings": 0}, ValueError, "num_embeddings must be above 0, got 0"),
        ({"embedding_dim": 2.0}, TypeError, "embedding_dim must be an int, got float"),
        ({"padding_idx": 5}, ValueError, r"padding_idx must lie in 0\.\.4, got 5"),
        ({"counts": [1, 2]}, ValueError, r"counts must have shape \[5\], got \[2\]"),
    ],
)
def test_module_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^NegativeSampling: {message}"):
        nn.NegativeSampling(**({"num_embeddings": 5, "embedding_dim": 3} | arguments))


def test_compiled_loss_with_drawn_negatives(cpu_path: None) -> None:
    torch.manual_seed(0)
    module = nn.NegativeSampling(30, 4, num_negatives=2)
    with torch.no_grad():
        module.out_weight.normal_()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    losses = [compiled(torch.arange(n), torch.arange(n)) for n in (5, 5, 8)]
    assert losses[0] != losses[1]
    losses[-1].backward()
    assert all(p.grad is not None for p in module.parameters())
    sparse = nn.NegativeSampling(30, 4, sparse=True)
    with pytest.raises(Exception, match="sparse=True cannot be compiled"):
        torch.compile(sparse, fullgraph=True, backend="eager")(torch.arange(3), torch.arange(3))
