"""Points in a plane: principal components against the covariance's; t-SNE's parts against what they mean."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seqops.embeddings import principal_components, projection, tsne

pytestmark = pytest.mark.usefixtures("cpu_path")


def clusters(groups: int = 4, size: int = 12, D: int = 10) -> tuple[Tensor, Tensor]:
    """Points [groups * size, D], and which cluster each is of. Their centres are as far from one another, all."""
    generator = torch.Generator().manual_seed(0)
    of = torch.arange(groups).repeat_interleave(size)
    return torch.eye(D)[of] + 0.15 * torch.randn(groups * size, D, generator=generator), of


def test_principal_components() -> None:
    points, _ = clusters()
    points = points.double()
    y = principal_components(points, 3)
    values, vectors = torch.linalg.eigh(torch.cov(points.t()))
    torch.testing.assert_close(torch.cov(y.t()), values.flip(0)[:3].diag(), atol=1e-12, rtol=1e-10)
    directions = vectors.flip(1)[:, :3]
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    torch.testing.assert_close(y, (points - points.mean(0)) @ directions)
    few = principal_components(points[:2, :1], 3)
    assert few.shape == (2, 3)
    assert not few[:, 1:].any()
    assert not principal_components(points[:1]).any()


@pytest.mark.parametrize(("perplexity", "scale"), [(5.0, 1.0), (30.0, 1e-6), (1.5, 1e6)])
def test_each_point_has_as_many_neighbours_as_asked(perplexity: float, scale: float) -> None:
    points = clusters()[0].double() * scale
    p = projection._joint(points, perplexity)
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.equal(p, p.t())
    assert not p.diagonal().any()
    rows = torch.zeros_like(p)
    for i in range(len(points)):
        others = torch.arange(len(points)) != i
        d = (points[others] - points[i]).square().sum(1) / scale**2
        low, high = 0.0, 1e4
        for _ in range(80):
            b = (low + high) / 2
            row = (-b * d).softmax(0)
            wide = float(torch.special.entr(row).sum()) > math.log(perplexity)
            low, high = (b, high) if wide else (low, b)
        rows[i, others] = row
    torch.testing.assert_close(p, (rows + rows.t()) / (2 * len(points)), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("cached", [1, 500, 2**17])
def test_gradient(monkeypatch: pytest.MonkeyPatch, cached: int) -> None:
    monkeypatch.setattr(projection, "CACHED", cached)
    p = projection._joint(clusters()[0].double(), 7.0)
    y = torch.randn(len(p), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    off = ~torch.eye(len(p), dtype=torch.bool)
    near = 1 / (1 + (y[:, None] - y).square().sum(2))[off]
    kl = (p[off] * (p[off] / (near / near.sum())).log()).sum()
    (expected,) = torch.autograd.grad(kl, y)
    torch.testing.assert_close(projection._gradient(p, y.detach()), expected)


def own_neighbours(y: Tensor, of: Tensor) -> float:
    """Of the points nearest to each, as many as its cluster has others, those of its cluster."""
    size = int((of == 0).sum()) - 1
    near = torch.cdist(y, y).fill_diagonal_(math.inf).topk(size, largest=False).indices
    return float((of[near] == of[:, None]).float().mean())


def test_clusters_come_apart() -> None:
    """In the plane of the principal components eight do not."""
    points, of = clusters(groups=8)
    y = tsne(points)  # in fewer steps chance decides whether a cluster stays in two
    assert y.shape == (96, 2)
    assert y.dtype == torch.float32
    assert float(y.mean(0).abs().max()) < 1e-4
    assert own_neighbours(y, of) > 0.99
    assert own_neighbours(principal_components(points), of) < 0.8


def test_the_seed_decides_and_equal_points_are_parted() -> None:
    points = torch.cat([clusters()[0], torch.zeros(4, 10)])
    first = tsne(points, steps=60, seed=3)
    assert torch.equal(tsne(points, steps=60, seed=3), first)
    assert not torch.equal(tsne(points, steps=60, seed=4), first)
    assert bool(first.isfinite().all())
    assert len(first.unique(dim=0)) == len(points)
    assert bool(tsne(torch.ones(6, 3), steps=30).isfinite().all())
    assert tsne(points.double()[:5], 3, steps=30).shape == (5, 3)


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (torch.randn(4, 3), {}, "there must be 5 points or more, got 4"),
        (torch.randn(9), {}, r"points must be floating \[N, D\], got torch.float32 \[9\]"),
        (torch.ones(9, 2, dtype=torch.int64), {}, "got torch.int64"),
        (torch.full((9, 2), math.nan), {}, "points must be finite"),
        (torch.randn(9, 2), {"dims": 0}, "dims must be 1 or more, got 0"),
        (torch.randn(9, 2), {"perplexity": 8}, "perplexity must be 1 or more and below 8 for 9 points, got 8"),
        (torch.randn(9, 2), {"perplexity": math.nan}, "perplexity must be 1 or more"),
        (torch.randn(9, 2), {"steps": 0}, "steps must be 1 or more, got 0"),
    ],
)
def test_errors(points: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"tsne: .*{message}"):
        tsne(points, **options)
