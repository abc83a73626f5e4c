"""Draws from an alias table in plain torch: Philox by counter, so that the kernels draw the same."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["alias_draw", "draw_at", "philox"]

LOW = 0xFFFFFFFF


def philox(key: Tensor, counters: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al. 2011) of 64-bit keys and four words; every word lies in int64 as 0..2^32-1."""
    c0, c1, c2, c3 = counters
    k0, k1 = key & LOW, (key >> 32) & LOW
    for _ in range(10):
        # A product wraps at 2^64; its bits are those of the unsigned one.
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0 = (b >> 32).bitwise_and_(LOW).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (a >> 32).bitwise_and_(LOW).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = b.bitwise_and_(LOW), a.bitwise_and_(LOW)
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return c0, c1, c2, c3


def _look_up(threshold: Tensor, alias: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """The classes of 64-bit random numbers: x = number * V / 2^64; floor(x) is the bucket, the rest is compared."""
    V = threshold.shape[0]
    x = high * V + ((low * V) >> 32)
    bucket = x >> 32
    own = (x & LOW) < (threshold[bucket].to(torch.int64) & LOW)
    return torch.where(own, bucket, alias[bucket].to(torch.int64))


def draw_at(threshold: Tensor, alias: Tensor, key: Tensor, index: Tensor, attempt: int) -> Tensor:
    """The classes of the draws numbered `index` [N] int64; `attempt` counts from 0, each gives another class."""
    block = index >> 1
    zero = torch.zeros_like(block)
    words = philox(key, (block & LOW, (block >> 32) & LOW, zero + attempt, zero))
    second = (index & 1).bool()
    return _look_up(threshold, alias, torch.where(second, words[2], words[0]), torch.where(second, words[3], words[1]))


def alias_draw(threshold: Tensor, alias: Tensor, seed: Tensor, count: int) -> Tensor:
    """See `seqops.ops._sampler`. A Philox block has the words of two draws."""
    key, start = seed[:1], seed[1:]
    odd = start & 1
    block = (start >> 1) + torch.arange(count // 2 + 1, device=seed.device)
    zero = torch.zeros_like(block)
    c0, c1, c2, c3 = philox(key, (block & LOW, (block >> 32) & LOW, zero, zero))
    high, low = torch.stack((c0, c2), 1).flatten(), torch.stack((c1, c3), 1).flatten()
    own = odd + torch.arange(count, device=seed.device)
    return _look_up(threshold, alias, high[own], low[own])
