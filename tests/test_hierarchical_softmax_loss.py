"""hierarchical_softmax_loss and nn.HierarchicalSoftmax: what only they promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import center_and_target, hierarchical_softmax_usual, ids, with_tree
from cases import hierarchical_softmax_loss as problem
from conftest import Path
from helpers import assert_as_accurate, randn
from torch import Tensor

from seqops import functional, nn, reference
from seqops.embeddings import HuffmanTree

OP, REFERENCE = with_tree(functional.hierarchical_softmax_loss), with_tree(reference.hierarchical_softmax_loss)


def check(path: Path, inputs: dict[str, Tensor], **options: Any) -> None:
    assert_as_accurate(OP, REFERENCE, inputs, device=path.device, **options)


# B, V, D: one class, two, several programs of pairs and tiles of features
@pytest.mark.parametrize("shape", [(3, 1, 4), (5, 2, 3), (37, 13, 19), (4, 40, 150)])
def test_values_and_gradients(path: Path, shape: tuple[int, int, int]) -> None:
    B, V, D = shape
    check(path, problem(B, V, D), **hierarchical_softmax_usual(B, V))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(path: Path, dtype: torch.dtype) -> None:
    check(path, problem(9, 20, 33), dtype=dtype, **hierarchical_softmax_usual(9, 20, W=3))


def test_paths_longer_than_a_tile(path: Path) -> None:
    """Powers of 2 make the deepest tree: a path of V - 1 nodes."""
    V = 21
    check(
        path,
        problem(5, V, 4),
        **center_and_target(5, V) | {"target": torch.tensor([0, 1, 2, 19, 20])},
        counts=[2**v for v in range(V)],
    )


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_padding_and_bags(path: Path, padding_idx: int | None) -> None:
    options = hierarchical_softmax_usual(19, 7, W=4)
    options["center"][[2, 17]] = -1
    for mode, reduction in (("sum", "mean"), ("mean", "sum")):
        check(path, problem(19, 7, 5), **options | {"reduction": reduction}, padding_idx=padding_idx, mode=mode)


def test_probabilities_sum_to_one(path: Path) -> None:
    V = 23
    a, nodes = (t.to(path.device, torch.float32) for t in (randn(3, 6, seed=1), randn(V - 1, 6, seed=2)))
    tree = HuffmanTree(torch.arange(V), device=path.device)
    center, target = torch.arange(3).repeat_interleave(V), torch.arange(V).repeat(3)
    loss = functional.hierarchical_softmax_loss(
        a, nodes, center.to(path.device), target.to(path.device), tree, reduction="none"
    )
    torch.testing.assert_close((-loss).exp().view(3, V).sum(1).cpu(), torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparse_gradients_are_the_dense_ones(path: Path, dtype: torch.dtype) -> None:
    V = 60
    leaves = [t.to(path.device, dtype).requires_grad_() for t in (randn(V, 5, seed=1), randn(V - 1, 5, seed=2))]
    tree = HuffmanTree(torch.arange(1, V + 1), device=path.device)
    center, target = ids(6, below=V, seed=3).to(path.device), ids(6, below=V, seed=4).to(path.device)
    grads = []
    for sparse in (False, True):
        loss = functional.hierarchical_softmax_loss(*leaves, center, target, tree, sparse=sparse)
        grads.append(torch.autograd.grad(loss, leaves))
    for dense, sparse_grad in zip(*grads, strict=True):
        assert sparse_grad.is_coalesced()
        assert sparse_grad.dtype == dtype
        assert sparse_grad.indices().shape[1] < V - 1
        assert torch.equal(sparse_grad.to_dense(), dense)


@pytest.mark.parametrize("score", [100.0, 1e4])
def test_large_scores(path: Path, score: float) -> None:
    """The loss of the right branch is 0, of the wrong one the score, and the slope a sigmoid."""
    one = torch.ones(1, 1, device=path.device)
    node = torch.full((1, 1), score, device=path.device, requires_grad=True)
    tree = HuffmanTree([1, 2], device=path.device)
    losses, grads = [], []
    for target in (0, 1):
        index = torch.tensor([0], device=path.device)
        loss = functional.hierarchical_softmax_loss(one, node, index, index + target, tree)
        losses.append(loss.item())
        grads.append(torch.autograd.grad(loss, node)[0].item())
    assert sorted(losses) == pytest.approx([0.0, score], abs=1e-40)
    assert sorted(abs(g) for g in grads) == pytest.approx([0.0, 1.0], abs=1e-40)


@pytest.mark.parametrize("which", ["center", "target"])
@pytest.mark.parametrize("value", [-2, 4, 2**40])
def test_ids_out_of_range(path: Path, which: str, value: int) -> None:
    """Refused on a CPU; in kernels left out."""
    tree = HuffmanTree([1, 2, 3, 4], device=path.device)
    a, nodes = (t.to(path.device, torch.float32) for t in (randn(4, 3, seed=1), randn(3, 3, seed=2)))
    given = {"center": torch.tensor([1, 2]), "target": torch.tensor([3, 0])}
    given[which][1] = value
    call = lambda: functional.hierarchical_softmax_loss(  # noqa: E731
        a, nodes, *(t.to(path.device) for t in given.values()), tree, reduction="none"
    )
    if path.kernels:
        loss = call()
        assert loss[0] > 0
        assert loss[1] == 0
    else:
        with pytest.raises(ValueError, match=rf"^hierarchical_softmax_loss: {which} must lie in -1\.\.3, got "):
            call()


def test_gradcheck(cpu_path: None) -> None:
    inputs = [t.requires_grad_() for t in problem(6, 5, 3).values()]
    options = hierarchical_softmax_usual(6, 5, W=2)
    tree = HuffmanTree(options.pop("counts"))
    torch.autograd.gradcheck(
        lambda a, b, w: functional.hierarchical_softmax_loss(a, b, tree=tree, weight=w, **options), inputs
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tree": [0, 1]}, TypeError, "tree must be a HuffmanTree, got list"),
        ({"tree": HuffmanTree([1, 2])}, ValueError, r"node_weight must have shape \[1, 3\], got \[4, 3\]"),
        ({"node_weight": torch.zeros(4, 2)}, ValueError, r"node_weight must have shape \[4, 3\], got \[4, 2\]"),
        ({"node_weight": torch.zeros(4, 3).half()}, TypeError, "node_weight must have the dtype of in_weight"),
        ({"tree": HuffmanTree([1] * 5, device="meta")}, ValueError, "tree must be on the device of in_weight, cpu, go"),
        ({"mode": "max"}, ValueError, "mode must be one of 'mean', 'sum', got 'max'"),
        ({"reduction": ""}, ValueError, "reduction must be one of 'none', 'mean', 'sum', got ''"),
    ],
)
def test_bad_arguments(cpu_path: None, change: dict[str, Any], error: type[Exception], message: str) -> None:
    index = torch.zeros(2, dtype=torch.int64)
    arguments: dict[str, Any] = {"in_weight": torch.zeros(5, 3), "node_weight": torch.zeros(4, 3), "center": index}
    arguments |= {"target": index, "tree": HuffmanTree([1] * 5)}
    functional.hierarchical_softmax_loss(**arguments)
    with pytest.raises(error, match=f"^hierarchical_softmax_loss: {message}"):
        functional.hierarchical_softmax_loss(**arguments | change)


@pytest.mark.parametrize("sparse", [False, True])
def test_module_learns(cpu_path: None, sparse: bool) -> None:
    torch.manual_seed(0)
    module = nn.HierarchicalSoftmax(range(1, 9), 6, num_embeddings=10, padding_idx=9, sparse=sparse)
    assert module.in_weight.shape == (10, 6)
    assert module.node_weight.shape == (7, 6)
    assert not module.in_weight[9].any()
    center, target = torch.tensor([[0, 9], [1, 9], [2, 3], [9, 9]]), torch.tensor([1, 2, 3, 4])
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    losses = []
    for _ in range(60):
        loss = module(center, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert not module.in_weight[9].any()
    other = nn.HierarchicalSoftmax(range(1, 9), 6, num_embeddings=10, padding_idx=9)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(center, target), module(center, target))
    assert "10, 6" in repr(module)


def test_module_bad_arguments() -> None:
    for arguments, error, message in (
        ({"embedding_dim": 0}, ValueError, "embedding_dim must be above 0, got 0"),
        ({"num_embeddings": 2.5}, TypeError, "num_embeddings must be an int, got float"),
        ({"padding_idx": 3}, ValueError, r"padding_idx must lie in 0\.\.2, got 3"),
    ):
        with pytest.raises(error, match=f"^HierarchicalSoftmax: {message}"):
            nn.HierarchicalSoftmax(**({"counts": [1, 2, 3], "embedding_dim": 4} | arguments))
