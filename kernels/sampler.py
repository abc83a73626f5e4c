"""Draws from an alias table in Triton: the same classes as `seqops.cpu.sampler` from the same seed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import config
from .common import device_guard

__all__ = ["alias_draw"]


@triton.jit
def draw_class(threshold_ptr, alias_ptr, key, index, attempt, mask, V):
    """The class of each draw numbered `index` int64; `threshold` is read as unsigned.

    Block index // 2 of Philox has the words of two draws: a 64-bit number times V is the bucket, and its fraction.
    """
    block = index >> 1
    words_lo = block.to(tl.uint32)
    c0, c1, c2, c3 = tl.philox(key, words_lo, (block >> 32).to(tl.uint32), words_lo * 0 + attempt, words_lo * 0)
    second = (index & 1) != 0
    high = tl.where(second, c2, c0).to(tl.int64)
    low = tl.where(second, c3, c1).to(tl.int64)
    classes = tl.zeros_like(high) + V
    x = high * classes + ((low * classes) >> 32)
    bucket = x >> 32
    threshold = tl.load(threshold_ptr + bucket, mask=mask, other=0).to(tl.int64) & 0xFFFFFFFF
    other = tl.load(alias_ptr + bucket, mask=mask, other=0)
    return tl.where((x & 0xFFFFFFFF) < threshold, bucket.to(tl.int32), other)


@triton.jit(do_not_specialize=["count", "V"])
def alias_draw_kernel(threshold_ptr, alias_ptr, seed_ptr, out_ptr, count, V, BLOCK: tl.constexpr):
    """A program draws BLOCK classes. seed int64 [2]: the key, and the number of the first draw."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    index = tl.load(seed_ptr + 1) + i
    drawn = draw_class(threshold_ptr, alias_ptr, tl.load(seed_ptr), index, 0, mask, V)
    tl.store(out_ptr + i, drawn.to(tl.int64), mask=mask)


def alias_draw(threshold: Tensor, alias: Tensor, seed: Tensor, count: int) -> Tensor:
    """See `seqops.ops._sampler`."""
    out = torch.empty(count, dtype=torch.int64, device=seed.device)
    if count:
        cfg = config.ALIAS_DRAW
        with device_guard(seed):
            alias_draw_kernel[(triton.cdiv(count, cfg.block_n),)](
                threshold.contiguous(),
                alias.contiguous(),
                seed.contiguous(),
                out,
                count,
                threshold.shape[0],
                BLOCK=cfg.block_n,
                num_warps=cfg.num_warps,
            )
    return out
