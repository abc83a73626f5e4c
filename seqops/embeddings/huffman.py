"""The Huffman tree of a hierarchical softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["HuffmanTree"]


class HuffmanTree(nn.Module):
    """The binary tree over V classes with the least mean depth, for `hierarchical_softmax_loss`.

    Each of the V - 1 inner nodes decides between two branches. Node 0 is the root; nodes lie in the order of their
    counts, the largest first. The module has no parameters; `.to(device)`, `state_dict` and pickle work.

    Args:
        counts: [V], >= 0, V >= 1: a Tensor, an array or a list.

    Buffers:
        nodes: int32 [P], the paths of all classes, from the root, one behind the other.
        signs: int8 [P], +1 where the path takes a node's first branch, -1 its second.
        offsets: int64 [V + 1]: class v has the path offsets[v] .. offsets[v + 1].

    Raises:
        ValueError: counts are not of one dimension, empty, negative or not finite.

    Source: Morin and Bengio 2005; Mikolov et al. 2013, arXiv:1310.4546 (Huffman coding).
    """

    nodes: Tensor
    signs: Tensor
    offsets: Tensor

    def __init__(
        self, counts: Tensor | np.ndarray | Sequence[float], *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        if isinstance(counts, Tensor):
            counts = counts.detach().cpu().double().numpy()
        counts = np.asarray(counts, dtype=np.float64)
        if counts.ndim != 1 or not 0 < counts.size < 2**31:
            raise ValueError(f"HuffmanTree: counts must have shape [V], V in 1..2^31-1, got {list(counts.shape)}")
        if not (np.isfinite(counts).all() and (counts >= 0).all()):
            raise ValueError("HuffmanTree: counts must be finite and at least 0")
        nodes, signs, offsets = _paths(*_merge(counts))
        device = torch.get_default_device() if device is None else device
        self.register_buffer("nodes", torch.from_numpy(nodes).to(device))
        self.register_buffer("signs", torch.from_numpy(signs).to(device))
        self.register_buffer("offsets", torch.from_numpy(offsets).to(device))
        self.max_depth = int(np.diff(offsets).max())

    @property
    def num_classes(self) -> int:
        return self.offsets.shape[0] - 1

    def extra_repr(self) -> str:
        return f"{self.num_classes}, max_depth={self.max_depth}"


def _merge(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parent of each class and node, [2V - 1], and which is a second branch; class v is v, node n is V + n.

    Two queues, both sorted: the classes, and the nodes as they are made. While all that is left weighs at least as much
    as the next node, whatever weighs no more can be joined in pairs at once: each round takes the least weight up to
    twice itself, so there are few.
    """
    V = counts.size
    order = np.argsort(counts, kind="stable")
    leaf_weights = counts[order]
    parent, second = np.zeros(2 * V - 1, np.int64), np.zeros(2 * V - 1, bool)
    inner = np.zeros(0, np.int64)  # the nodes that have no parent yet, and their weights
    inner_weights = np.zeros(0)
    leaf = made = 0
    while made < V - 1:
        # The least four hold the least two, whichever queue they lie in.
        least = np.sort(np.concatenate((leaf_weights[leaf : leaf + 2], inner_weights[:2])))
        limit = least[0] + least[1]
        leaves = leaf + int(np.searchsorted(leaf_weights[leaf:], limit, side="right"))
        ready = int(np.searchsorted(inner_weights, limit, side="right"))
        ids = np.concatenate((order[leaf:leaves], V + inner[:ready]))
        weights = np.concatenate((leaf_weights[leaf:leaves], inner_weights[:ready]))
        by_weight = np.argsort(weights, kind="stable")
        if by_weight.size % 2:
            # The heaviest waits.
            if by_weight[-1] < leaves - leaf:
                leaves -= 1
            else:
                ready -= 1
            by_weight = by_weight[:-1]
        pairs, sums = ids[by_weight].reshape(-1, 2), weights[by_weight].reshape(-1, 2).sum(1)
        new = made + np.arange(len(pairs))
        parent[pairs] = new[:, None]
        second[pairs[:, 1]] = True
        inner, inner_weights = np.concatenate((inner[ready:], new)), np.concatenate((inner_weights[ready:], sums))
        leaf, made = leaves, made + len(pairs)
    return parent, second


def _paths(parent: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """nodes, signs and offsets of a tree whose nodes are numbered as they were made, the root last."""
    V = (parent.size + 1) // 2
    root = V - 2
    depths = np.zeros(V, np.int64)
    rising, at = np.arange(V if V > 1 else 0), np.arange(V if V > 1 else 0)
    levels = []  # of those still below the root, from the leaves up: class, node, sign
    while rising.size:
        node = parent[at]
        depths[rising] += 1
        levels.append((rising, node, second[at]))
        below = node != root
        rising, at = rising[below], V + node[below]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(depths)))
    nodes, signs = np.zeros(offsets[-1], np.int32), np.zeros(offsets[-1], np.int8)
    for height, (classes, node, is_second) in enumerate(levels):
        place = offsets[classes + 1] - 1 - height
        nodes[place] = root - node
        signs[place] = np.where(is_second, -1, 1)
    return nodes, signs, offsets
