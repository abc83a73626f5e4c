"""Hierarchical softmax against a composition over padded paths, with dense gradients, and torch.compile of it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seqops import functional
from seqops.bench.harness import Bench, Inputs, Problem, compiled, from_function
from seqops.bench.roofline import Work
from seqops.embeddings import HuffmanTree


def problem(V: int, D: int, B: int, quick: bool = False) -> Problem:
    return Problem((("V", V), ("D", D), ("B", B)), "float32", True, quick)


@functools.cache
def tree(V: int, device: torch.device) -> HuffmanTree:
    return HuffmanTree(1e6 / torch.arange(1, V + 1), device=device)


def inputs(p: Problem) -> Inputs:
    V, D, B = p.size.values()
    generator = torch.Generator().manual_seed(0)
    tables = {n: torch.randn(V - n.count("node"), D, generator=generator) * 0.1 for n in ("in_weight", "node_weight")}
    return tables | {n: torch.randint(V, (B,), generator=generator) for n in ("center", "target")}


def composition(in_weight: Tensor, node_weight: Tensor, center: Tensor, target: Tensor) -> Tensor:
    paths = tree(in_weight.shape[0], in_weight.device)
    place = paths.offsets[target][:, None] + torch.arange(paths.max_depth, device=target.device)
    inside = place < paths.offsets[target + 1][:, None]
    place = torch.where(inside, place, 0)
    scores = (F.embedding(paths.nodes[place], node_weight) @ F.embedding(center, in_weight)[:, :, None])[:, :, 0]
    return torch.where(inside, F.softplus(-paths.signs[place] * scores), 0).sum(1).mean()


def ours(in_weight: Tensor, node_weight: Tensor, center: Tensor, target: Tensor) -> Tensor:
    paths = tree(in_weight.shape[0], in_weight.device)
    return functional.hierarchical_softmax_loss(in_weight, node_weight, center, target, paths)


def work(p: Problem) -> Work:
    """Both tables read once and both gradients written once; three products with each of about log2 V nodes a path."""
    V, D, B = p.size.values()
    rows = B * V.bit_length()
    return Work(16 * V * D + 16 * B, flops=6 * rows * D, exp=rows)


BENCH = Bench(
    op="hierarchical_softmax_loss",
    family="embeddings",
    cpu=[problem(50000, 128, 4096), problem(5000, 100, 1024, quick=True)],
    gpu=[problem(1_000_000, D, 65536, quick=D == 128) for D in (128, 300)],
    inputs=inputs,
    reference=from_function(composition),
    providers={
        "seqops": from_function(ours),
        "eager": from_function(composition),
        "torch.compile": compiled(composition),
    },
    work=work,
)


def test_hierarchical_softmax_loss(timed: Callable[[], None]) -> None:
    timed()
