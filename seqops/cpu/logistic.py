"""Logistic losses over gathered rows in plain torch: negative sampling, hierarchical softmax."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dtypes import compute_dtype
from .rows import absent_of, check_range, scores_of, sources_of
from .sampler import alias_draw, draw_at

__all__ = ["hierarchical_softmax_fwd", "negative_sampling_fwd"]


def _items(op: str, source: Tensor, index: Tensor | None, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The items' own vectors, any where an item is left out, and their targets int64, there -1."""
    check_range(op, "target", target, classes, low=-1)
    source, absent = sources_of(op, "center", source, index)
    target = target.to(torch.int64)
    if absent is not None:
        target = target.masked_fill(absent, -1)
    return source.to(compute_dtype(source.dtype)), target


def negative_sampling_fwd(
    source: Tensor,
    index: Tensor | None,
    weight: Tensor,
    target: Tensor,
    negatives: Tensor | None,
    threshold: Tensor | None,
    alias: Tensor | None,
    seed: Tensor | None,
    num_negatives: int,
    attempts: int,
    padding_idx: int,
    positive_weight: float,
    sparse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.negative_sampling_loss`."""
    op, V = "negative_sampling_loss", weight.shape[0]
    hidden, target = _items(op, source, index, target, V)
    target = target[:, None]
    rows = target.new_empty(target.shape[0], 1 + num_negatives, dtype=torch.int32)
    rows[:, :1] = target
    if threshold is not None and alias is not None and seed is not None:
        drawn = _drawn(threshold, alias, seed, target, num_negatives, attempts, padding_idx)
    elif negatives is not None:
        check_range(op, "negatives", negatives, V, low=-1)
        drawn = negatives
    else:
        raise ValueError(f"{op}: neither negatives nor a sampler")
    rows[:, 1:] = drawn
    drawn = rows[:, 1:]
    banned = drawn == rows[:, :1] if attempts else None
    if padding_idx >= 0:
        banned = drawn == padding_idx if banned is None else banned.logical_or_(drawn == padding_idx)
    if banned is not None:
        drawn.masked_fill_(banned, -1)
    rows.masked_fill_(target < 0, -1)
    # softplus(x) of x = -s for the target, s for a negative; its slope in s is sigmoid(x), of x's sign.
    absent, scores = _scores(hidden, weight, rows)
    scores[:, 0].neg_()
    loss, slopes = _logistic(scores, absent)
    slopes[:, 0].neg_()
    if positive_weight != 1:
        loss[:, 0] *= positive_weight
        slopes[:, 0] *= positive_weight
    return loss.sum(1), slopes, rows


def _drawn(
    threshold: Tensor,
    alias: Tensor,
    seed: Tensor,
    target: Tensor,
    num_negatives: int,
    attempts: int,
    padding_idx: int,
) -> Tensor:
    """Negatives [B,K]; where one is the target, or padding, the next attempt's, until there are no more attempts."""
    drawn = alias_draw(threshold, alias, seed, target.shape[0] * num_negatives).view(-1, num_negatives)
    for attempt in range(1, attempts):
        b, k = ((drawn == target) | (drawn == padding_idx)).nonzero(as_tuple=True)
        if not b.numel():
            break
        drawn[b, k] = draw_at(threshold, alias, seed[:1], seed[1:] + b * num_negatives + k, attempt)
    return drawn


def hierarchical_softmax_fwd(
    source: Tensor,
    index: Tensor | None,
    weight: Tensor,
    target: Tensor,
    nodes: Tensor,
    signs: Tensor,
    offsets: Tensor,
    depth: int,
    sparse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.hierarchical_softmax_loss`."""
    hidden, target = _items("hierarchical_softmax_loss", source, index, target, offsets.shape[0] - 1)
    own = target.clamp(min=0)
    start, end = offsets[own], torch.where(target >= 0, offsets[own + 1], 0)
    place = start[:, None] + torch.arange(depth, device=target.device)
    inside = place < end[:, None]
    if not depth or not nodes.numel():
        rows = place.fill_(-1).to(torch.int32)
        zeros = hidden.new_zeros(rows.shape)
        return zeros.sum(1), zeros, rows
    place = place.masked_fill_(~inside, 0)
    rows = nodes[place].masked_fill_(~inside, -1).to(torch.int32)
    sign = signs[place].to(hidden.dtype)
    absent, scores = _scores(hidden, weight, rows)
    loss, slopes = _logistic(scores.mul_(sign).neg_(), absent)
    return loss.sum(1), slopes.mul_(sign).neg_(), rows


def _scores(hidden: Tensor, weight: Tensor, rows: Tensor) -> tuple[Tensor | None, Tensor]:
    """Where rows are absent, and the scores, there of any row."""
    absent = absent_of(rows)
    return absent, scores_of(hidden, weight, rows if absent is None else rows.clamp(min=0))


def _logistic(scores: Tensor, absent: Tensor | None) -> tuple[Tensor, Tensor]:
    """softplus, and its slope in the place of the scores; what is absent counts 0."""
    if absent is not None:
        scores.masked_fill_(absent, -math.inf)
    return F.softplus(scores, threshold=50.0), scores.sigmoid_()
