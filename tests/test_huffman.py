"""HuffmanTree: no tree is better, its paths are one tree's, and they lie as they are documented."""

from __future__ import annotations

import heapq
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from seqops.embeddings import HuffmanTree


def least_cost(counts: np.ndarray) -> float:
    """The sum of counts times depths of the best tree, by a heap."""
    heap, total = sorted(counts.tolist()), 0.0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


COUNTS = {
    "small counts": lambda V, rng: rng.integers(0, 4, V),
    "large counts": lambda V, rng: rng.integers(0, 10**6, V),
    "zipf": lambda V, rng: 1e6 // np.arange(1, V + 1),
    "equal": lambda V, rng: np.ones(V),
    "none": lambda V, rng: np.zeros(V),
    "a long branch": lambda V, rng: 1.6 ** np.minimum(np.arange(V), 60),
}


@pytest.mark.parametrize("V", [1, 2, 3, 4, 5, 9, 64, 501])
@pytest.mark.parametrize("kind", COUNTS)
def test_tree(kind: str, V: int) -> None:
    counts = np.asarray(COUNTS[kind](V, np.random.default_rng(V)), dtype=np.float64)
    tree = HuffmanTree(counts)
    offsets, nodes, signs = (t.numpy() for t in (tree.offsets, tree.nodes, tree.signs))
    depths = np.diff(offsets)
    assert (tree.nodes.dtype, tree.signs.dtype, tree.offsets.dtype) == (torch.int32, torch.int8, torch.int64)
    assert tree.max_depth == depths.max()
    assert tree.num_classes == V
    best = least_cost(counts)
    assert abs((depths * counts).sum() - best) <= 1e-9 * best
    # Each node is reached by one way, and both its branches lead somewhere: a binary tree with V leaves.
    ways: dict[int, set[tuple[tuple[int, int], ...]]] = {}
    branches = set()
    leaves = set()
    for v in range(V):
        own = slice(offsets[v], offsets[v + 1])
        path = list(zip(nodes[own].tolist(), signs[own].tolist(), strict=True))
        leaves.add(tuple(path))
        for i, step in enumerate(path):
            ways.setdefault(step[0], set()).add(tuple(path[:i]))
            branches.add(step)
    assert set(ways) == set(range(V - 1))
    assert all(len(way) == 1 for way in ways.values())
    assert branches == {(n, s) for n in range(V - 1) for s in (1, -1)}
    assert len(leaves) == V
    if V > 1:
        assert set(nodes[offsets[:-1]]) == {0}
        weights = np.bincount(nodes, weights=np.repeat(counts, depths), minlength=V - 1)
        assert (np.diff(weights) <= 1e-9 * best).all()


def test_pickles_moves_and_takes_tensors() -> None:
    counts = torch.tensor([5, 1, 9, 2])
    tree = HuffmanTree(counts)
    clone = pickle.loads(pickle.dumps(HuffmanTree(counts.tolist())))
    for a, b in zip(tree.buffers(), clone.buffers(), strict=True):
        assert torch.equal(a, b)
    assert tree.to("meta").nodes.device.type == "meta"
    assert "4, max_depth=3" in repr(clone)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], r"counts must have shape \[V\], V in 1\.\.2\^31-1, got \[0\]"),
        ([[1.0]], r"counts must have shape \[V\], .* got \[1, 1\]"),
        ([1.0, -1.0], "counts must be finite and at least 0"),
        ([1.0, float("inf")], "counts must be finite and at least 0"),
    ],
)
def test_bad_counts(counts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^HuffmanTree: {message}"):
        HuffmanTree(counts)
