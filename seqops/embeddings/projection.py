"""Points of many dimensions in a plane: principal components, and t-SNE over all pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["principal_components", "tsne"]

FEWEST = 5  # points of a t-SNE: fewer have no neighbourhoods
EXAGGERATION, EXAGGERATED = 12.0, 250  # of the attraction, in so many first steps: clusters find room
BISECTIONS = 64
CACHED = 2**17  # pairs that are looked at together
SPREAD = 1e-4  # standard deviation of the first step's places


def principal_components(points: Tensor, dims: int = 2) -> Tensor:
    """Coordinates of the points along the directions in which they vary most.

    points - mean = U S V^T;  y = the first `dims` columns of U S, of signs that make the largest entries of V positive

    Args:
        points: [N, D], floating.
        dims: columns; those beyond min(N, D) are 0.

    Returns:
        [N, dims], of the points' dtype.

    Raises:
        ValueError: shapes or values do not fit.
    """
    _check("principal_components", points, 1, dims)
    u, s, vt = torch.linalg.svd(points - points.mean(0), full_matrices=False)
    sign = vt.gather(1, vt.abs().argmax(1, keepdim=True))[:, 0].sign()
    return torch.nn.functional.pad(u * (s * sign), (0, dims))[:, :dims]


def tsne(points: Tensor, dims: int = 2, *, perplexity: float | None = None, steps: int = 1000, seed: int = 0) -> Tensor:
    """t-SNE: places at which near points are near, by gradient descent over all pairs; made for some thousand points.

    p[j|i] ~ exp(-b_i |x_i - x_j|^2), b_i such that the row's entropy is log perplexity;  p_ij = (p[j|i] + p[i|j]) / 2N
    q_ij   ~ 1 / (1 + |y_i - y_j|^2);  minimises KL(p || q), p times 12 in the first 250 steps

    Descent has momentum 0.5, then 0.8, a gain for each coordinate, and the rate max(50, N / 48). It begins at the
    principal components, made small. Distances between clusters, and their sizes, mean little.

    Args:
        points: [N, D], floating, N at least 5. Memory and time a step grow as N^2.
        dims: of the places.
        perplexity: how many neighbours count, 1 or more and below N - 1; None: 30, or (N - 1) / 3 if that is less.
        steps: 250 of which, or a quarter if that is less, exaggerate.
        seed: of the noise, a tenth of the first spread, that parts equal points. The same gives the same on a machine.

    Returns:
        fp32 [N, dims], of mean 0.

    Raises:
        ValueError: shapes or values do not fit, or there are too few points.

    Source: van der Maaten and Hinton 2008, JMLR 9, 2579-2605; the rate: Belkina et al. 2019,
    doi:10.1038/s41467-019-13055-y.
    """
    _check("tsne", points, FEWEST, dims)
    N = len(points)
    perplexity = min(30.0, (N - 1) / 3) if perplexity is None else perplexity
    if not 1 <= perplexity < N - 1:
        raise ValueError(f"tsne: perplexity must be 1 or more and below {N - 1} for {N} points, got {perplexity}")
    if steps < 1:
        raise ValueError(f"tsne: steps must be 1 or more, got {steps}")
    p = _joint(points.double(), perplexity).float()
    y = principal_components(points.float(), dims)
    y = y * (SPREAD / y[:, 0].std().clamp(min=1e-30))
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu")
    y += 0.1 * SPREAD * noise.to(y.device)
    rate, exaggerated = max(50.0, N / (4 * EXAGGERATION)), min(EXAGGERATED, steps // 4)
    move, gain = torch.zeros_like(y), torch.ones_like(y)
    for step in range(steps):
        early = step < exaggerated
        gradient = _gradient(p, y, EXAGGERATION if early else 1.0)
        # A coordinate that goes on in its direction goes faster.
        gain = torch.where(gradient * move < 0, gain + 0.2, gain * 0.8).clamp_(min=0.01)
        move = (0.5 if early else 0.8) * move - rate * gain * gradient
        y = y + move
        y -= y.mean(0)
    return y


def _check(op: str, points: Tensor, fewest: int, dims: int) -> None:
    if points.dim() != 2 or not points.shape[1] or not points.is_floating_point():
        raise ValueError(f"{op}: points must be floating [N, D], got {points.dtype} {list(points.shape)}")
    if len(points) < fewest:
        raise ValueError(f"{op}: there must be {fewest} points or more, got {len(points)}")
    if not bool(points.isfinite().all()):
        raise ValueError(f"{op}: points must be finite")
    if dims < 1:
        raise ValueError(f"{op}: dims must be 1 or more, got {dims}")


def _joint(points: Tensor, perplexity: float) -> Tensor:
    """p [N, N], whose sum is 1. Each row's width is found by bisection, all rows at once."""
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square_()
    distance /= distance.mean().clamp(min=1e-300)  # widths near 1, whatever the points' scale
    distance.fill_diagonal_(math.inf)
    distance -= distance.amin(1, keepdim=True)  # the nearest weighs 1
    others = distance.masked_fill(distance.isinf(), 0.0)
    low, high = torch.zeros_like(distance[:, :1]), torch.full_like(distance[:, :1], math.inf)
    b = torch.ones_like(low)
    for _ in range(BISECTIONS):
        weight = (-b * distance).exp_()
        total = weight.sum(1, keepdim=True)
        entropy = total.log() + b * (weight * others).sum(1, keepdim=True) / total
        wide = entropy > math.log(perplexity)
        low, high = torch.where(wide, b, low), torch.where(wide, high, b)
        b = torch.where(high.isinf(), 2 * b, (low + high) / 2)
    p = (-b * distance).exp_()
    p /= p.sum(1, keepdim=True)
    return (p + p.t()) / (2 * len(p))


def _gradient(p: Tensor, y: Tensor, exaggeration: float = 1.0) -> Tensor:
    """Of sum p log(p / q) for the places y: 4 sum over j of (p_ij - q_ij) (y_i - y_j) / (1 + |y_i - y_j|^2).

    p times `exaggeration`. Some rows at a time, which a cache holds.
    """
    square, ones = y.square().sum(1), torch.cat([y, torch.ones_like(y[:, :1])], 1)
    total, start = y.new_zeros(()), 0
    pulls: list[Tensor] = []
    pushes: list[Tensor] = []
    for part, own in zip(p.split(max(1, CACHED // len(p))), y.split(max(1, CACHED // len(p))), strict=True):
        near = torch.addmm(square[start : start + len(own), None] + square, own, y.t(), alpha=-2)
        near.clamp_(min=0).add_(1).reciprocal_().diagonal(start).zero_()
        total += near.sum()
        for forces, weight in ((pulls, part * near), (pushes, near.square_())):
            away = weight @ ones
            forces.append(away[:, -1:] * own - away[:, :-1])
        start += len(own)
    return 4 * (exaggeration * torch.cat(pulls) - torch.cat(pushes) / total)
