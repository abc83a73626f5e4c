"""Logistic losses over gathered rows in Triton: negative sampling and hierarchical softmax.

A program owns a block of items. It finds their rows, given, drawn or on a tree's paths; scores them; and turns the
scores into losses and slopes together. Rows and slopes are what backward needs: beside the rows of D features that are
read they are small, and backward sorts the rows anyway, so nothing is drawn twice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import config
from .common import device_guard, sigmoid, softplus
from .rows import item_index, item_scores
from .sampler import draw_class

__all__ = ["block_r", "hierarchical_softmax_fwd", "negative_sampling_fwd"]


@triton.jit
def loss_terms(slopes_ptr, places, mask, rows, sign, factor):
    """Of a tile of scores in `slopes`: the sum of its terms factor * softplus(-sign * score); puts their slopes there.

    What is absent counts 0.
    """
    x = -sign * tl.load(slopes_ptr + places, mask=mask, other=0.0)
    # Of a small tile several threads hold an element, and one of them writes it: not before all have read.
    tl.debug_barrier()
    tl.store(slopes_ptr + places, tl.where(rows < 0, 0.0, -sign * factor * sigmoid(x)), mask=mask)
    return tl.sum(tl.where(rows < 0, 0.0, factor * softplus(x)), 1)


@triton.jit(do_not_specialize=["B", "M", "V", "R", "padding_idx"])
def negative_sampling_fwd_kernel(
    source_ptr,
    index_ptr,
    weight_ptr,
    target_ptr,
    negatives_ptr,
    threshold_ptr,
    alias_ptr,
    seed_ptr,
    loss_ptr,
    slopes_ptr,
    rows_ptr,
    B,
    M,
    V,
    R,
    padding_idx,
    positive_weight,
    D: tl.constexpr,
    ATTEMPTS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program owns BLOCK_B pairs; walks their R rows, the target first, BLOCK_R at once but for the scores.

    source [M,D], weight [V,D]; negatives [B,R-1], or drawn where None: what is the target, or padding, at most ATTEMPTS
    times, then left out; with ATTEMPTS 0 the target may be a negative. loss [B], slopes and rows [B,R].
    """
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    item_mask = b < B
    items, present = item_index(index_ptr, b, B, M)
    target = tl.load(target_ptr + b, mask=item_mask, other=-1).to(tl.int64)
    present &= (target >= 0) & (target < V)

    for r0 in range(0, R, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)[None, :]
        places = b[:, None] * R + r
        mask = item_mask[:, None] & (r < R)
        negative = mask & (r > 0)
        number = b[:, None] * (R - 1) + (r - 1)
        if negatives_ptr is not None:
            row = tl.load(negatives_ptr + number, mask=negative, other=-1).to(tl.int64)
            banned = (row < 0) | (row >= V) | (row == padding_idx)
            if ATTEMPTS > 0:
                banned |= row == target[:, None]
        else:
            key, first = tl.load(seed_ptr), tl.load(seed_ptr + 1)
            row = draw_class(threshold_ptr, alias_ptr, key, first + number, 0, negative, V).to(tl.int64)
            banned = row == padding_idx
            if ATTEMPTS > 0:
                banned |= row == target[:, None]
            if ATTEMPTS > 1:
                attempt = 1
                again = banned & negative & present[:, None]
                while (attempt < ATTEMPTS) & (tl.max(tl.max(again.to(tl.int32), 1), 0) > 0):
                    new = draw_class(threshold_ptr, alias_ptr, key, first + number, attempt, again, V).to(tl.int64)
                    row = tl.where(again, new, row)
                    banned = (row == padding_idx) | (row == target[:, None])
                    again = banned & negative & present[:, None]
                    attempt += 1
        row = tl.where(banned, -1, row)
        row = tl.where(r == 0, target[:, None], row)
        row = tl.where(present[:, None], row, -1)
        tl.store(rows_ptr + places, row.to(tl.int32), mask=mask)

    # What follows reads what other threads of this program have stored; so does the walk behind the scores.
    tl.debug_barrier()
    item_scores(source_ptr, items, present, weight_ptr, rows_ptr, slopes_ptr, b, item_mask, V, R, D, BLOCK_B, BLOCK_D)
    tl.debug_barrier()
    loss = tl.zeros([BLOCK_B], tl.float32)
    for r0 in range(0, R, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)[None, :]
        places = b[:, None] * R + r
        mask = item_mask[:, None] & (r < R)
        rows = tl.load(rows_ptr + places, mask=mask, other=-1)
        sign = tl.where(r == 0, 1.0, -1.0)
        factor = tl.where(r == 0, positive_weight, 1.0)
        loss += loss_terms(slopes_ptr, places, mask, rows, sign, factor)
    tl.store(loss_ptr + b, loss, mask=item_mask)


@triton.jit(do_not_specialize=["B", "M", "V", "R", "classes"])
def hierarchical_softmax_fwd_kernel(
    source_ptr,
    index_ptr,
    weight_ptr,
    target_ptr,
    nodes_ptr,
    signs_ptr,
    offsets_ptr,
    loss_ptr,
    slopes_ptr,
    rows_ptr,
    B,
    M,
    V,
    R,
    classes,
    D: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program owns BLOCK_B pairs, and walks the paths of their targets, R nodes at most.

    source [M,D], weight [V,D] of the nodes; the paths as in `seqops.embeddings.HuffmanTree`. loss [B], slopes and
    rows [B,R].
    """
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    item_mask = b < B
    items, present = item_index(index_ptr, b, B, M)
    target = tl.load(target_ptr + b, mask=item_mask, other=-1).to(tl.int64)
    present &= (target >= 0) & (target < classes)
    target = tl.where(present, target, 0)
    start = tl.load(offsets_ptr + target, mask=present, other=0)
    length = tl.load(offsets_ptr + target + 1, mask=present, other=0) - start

    for r0 in range(0, R, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)[None, :]
        mask = item_mask[:, None] & (r < R)
        row = tl.load(nodes_ptr + start[:, None] + r, mask=mask & (r < length[:, None]), other=-1)
        tl.store(rows_ptr + b[:, None] * R + r, tl.where(row < V, row, -1), mask=mask)

    tl.debug_barrier()
    item_scores(source_ptr, items, present, weight_ptr, rows_ptr, slopes_ptr, b, item_mask, V, R, D, BLOCK_B, BLOCK_D)
    tl.debug_barrier()
    loss = tl.zeros([BLOCK_B], tl.float32)
    for r0 in range(0, R, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)[None, :]
        places = b[:, None] * R + r
        mask = item_mask[:, None] & (r < R)
        rows = tl.load(rows_ptr + places, mask=mask, other=-1)
        sign = tl.load(signs_ptr + start[:, None] + r, mask=mask & (rows >= 0), other=0).to(tl.float32)
        loss += loss_terms(slopes_ptr, places, mask, rows, sign, 1.0)
    tl.store(loss_ptr + b, loss, mask=item_mask)


def _outputs(target: Tensor, R: int) -> tuple[Tensor, Tensor, Tensor]:
    B, device = target.shape[0], target.device
    return (
        torch.empty(B, dtype=torch.float32, device=device),
        torch.empty((B, R), dtype=torch.float32, device=device),
        torch.empty((B, R), dtype=torch.int32, device=device),
    )


def block_r(block_b: int, R: int) -> int:
    """How many of each item's R rows are found at once: few where there are many items, as a draw takes registers."""
    return min(triton.next_power_of_2(R), 16, max(1, 128 // block_b))


def _plain(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


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
    """See `seqops.ops.negative_sampling_loss`. One launch."""
    B, R, D = target.shape[0], 1 + num_negatives, weight.shape[1]
    loss, slopes, rows = _outputs(target, R)
    if B == 0:
        return loss, slopes, rows
    cfg = config.rows(D)
    with device_guard(weight):
        negative_sampling_fwd_kernel[(triton.cdiv(B, cfg.block_b),)](
            source.contiguous(),
            _plain(index),
            weight.contiguous(),
            target.contiguous(),
            _plain(negatives),
            _plain(threshold),
            _plain(alias),
            _plain(seed),
            loss,
            slopes,
            rows,
            B,
            source.shape[0],
            weight.shape[0],
            R,
            padding_idx,
            positive_weight,
            D=D,
            ATTEMPTS=attempts,
            BLOCK_B=cfg.block_b,
            BLOCK_R=block_r(cfg.block_b, R),
            BLOCK_D=cfg.block_d,
            num_warps=cfg.num_warps,
        )
    return loss, slopes, rows


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
    """See `seqops.ops.hierarchical_softmax_loss`. One launch."""
    B, D = target.shape[0], weight.shape[1]
    loss, slopes, rows = _outputs(target, depth)
    if B * depth == 0:
        return loss.zero_(), slopes, rows
    cfg = config.rows(D)
    with device_guard(weight):
        hierarchical_softmax_fwd_kernel[(triton.cdiv(B, cfg.block_b),)](
            source.contiguous(),
            _plain(index),
            weight.contiguous(),
            target.contiguous(),
            nodes.contiguous(),
            signs.contiguous(),
            offsets.contiguous(),
            loss,
            slopes,
            rows,
            B,
            source.shape[0],
            weight.shape[0],
            depth,
            offsets.shape[0] - 1,
            D=D,
            BLOCK_B=cfg.block_b,
            BLOCK_R=block_r(cfg.block_b, depth),
            BLOCK_D=cfg.block_d,
            num_warps=cfg.num_warps,
        )
    return loss, slopes, rows
