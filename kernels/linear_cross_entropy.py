"""Cross entropy of a linear layer, in Triton between library products.

The three products that make the logits and take their gradients on are a library's. Between them one kernel turns a
chunk of logits into losses and, in place, into gradients: two reads and one write of what the cache may still hold.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cpu.linear_cross_entropy import by_chunks
from . import config
from .common import device_guard

__all__ = ["linear_cross_entropy_bwd", "linear_cross_entropy_fwd"]

MOST_THREADS = tl.constexpr(1024)  # of a program, on any GPU


@triton.jit
def softmax_rows_kernel(
    logits_ptr,
    target_ptr,
    own_ptr,
    whole_ptr,
    class_weight_ptr,
    scale_ptr,
    loss_ptr,
    share,
    V,
    GRADIENT: tl.constexpr,
    SMOOTHED: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Program n owns row n of the logits; walks it for maximum and sum, and again to write gradients in their place."""
    n = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + n * V
    target = tl.load(target_ptr + n)
    own = tl.load(own_ptr + n)
    whole = tl.load(whole_ptr + n)
    kept = target >= 0
    v = tl.arange(0, BLOCK_V)

    highest = tl.full([], float("-inf"), tl.float32)
    # The highest so far, but finite where all are -inf: inf - inf would be NaN.
    shift = tl.zeros([], tl.float32)
    total = tl.zeros([], tl.float32)
    spread = tl.zeros([BLOCK_V], tl.float32)
    for v0 in range(0, tl.where(kept, V, 0), BLOCK_V):
        x = tl.load(row_ptr + v0 + v, mask=v0 + v < V, other=float("-inf")).to(tl.float32)
        before = highest
        highest = tl.maximum(highest, tl.max(x, 0))
        shift = tl.where(highest == float("-inf"), 0.0, highest)
        total = total * tl.exp(before - shift) + tl.sum(tl.exp(x - shift), 0)
    chosen = tl.load(row_ptr + target, mask=kept, other=0.0).to(tl.float32)
    loss = whole * tl.log(total) - own * (chosen - shift)
    # No thread writes gradients before all have read the target's logit.
    tl.debug_barrier()

    scale = 1.0
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + n)
    if GRADIENT or SMOOTHED:
        for v0 in range(0, V, BLOCK_V):
            mask = v0 + v < V
            x = tl.load(row_ptr + v0 + v, mask=mask & kept, other=0.0).to(tl.float32) - shift
            g = whole * (tl.exp(x) / total)
            if SMOOTHED:
                shares = tl.where(mask, share, 0.0)
                if class_weight_ptr is not None:
                    shares = shares * tl.load(class_weight_ptr + v0 + v, mask=mask, other=0.0)
                spread += tl.where(mask, shares * x, 0.0)
                g -= shares
            if GRADIENT:
                if BLOCK_V < MOST_THREADS:
                    # Several threads hold an element, and one of them writes it.
                    tl.debug_barrier()
                g = tl.where(kept, (g - tl.where(v0 + v == target, own, 0.0)) * scale, 0.0)
                tl.store(row_ptr + v0 + v, g.to(logits_ptr.dtype.element_ty), mask=mask)
    tl.store(loss_ptr + n, tl.where(kept, loss - tl.sum(spread, 0), 0.0))


def softmax_rows(
    logits: Tensor,
    target: Tensor,
    own: Tensor,
    whole: Tensor,
    share: float,
    class_weight: Tensor | None,
    scale: Tensor | None,
    gradient: bool,
) -> Tensor:
    """See `seqops.cpu.linear_cross_entropy.SoftmaxRows`."""
    n, V = logits.shape
    loss = torch.empty_like(own)
    cfg = config.LINEAR_CROSS_ENTROPY
    block_v = min(cfg.block_v, triton.next_power_of_2(V))
    if share == 0:
        class_weight = None
    with device_guard(logits):
        softmax_rows_kernel[(n,)](
            logits,
            target,
            own,
            whole,
            class_weight,
            scale,
            loss,
            share,
            V,
            GRADIENT=gradient,
            SMOOTHED=share != 0,
            BLOCK_V=block_v,
            num_warps=cfg.num_warps,
        )
    return loss


def linear_cross_entropy_bwd(
    scale: Tensor | None,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    label_smoothing: float,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `seqops.ops.linear_cross_entropy`."""
    return by_chunks(
        softmax_rows, config.LINEAR_CROSS_ENTROPY.logits, scale, input, weight, bias, target, class_weight,
        label_smoothing, need_input, need_weight, need_bias,
    )  # fmt: skip


def linear_cross_entropy_fwd(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    label_smoothing: float,
    summed: bool,
) -> Tensor:
    """See `seqops.ops.linear_cross_entropy`."""
    given = input, weight, bias, target, class_weight, label_smoothing
    loss = linear_cross_entropy_bwd(None, *given, False, False, False)[0]
    return loss.sum() if summed else loss
