"""The registration of the draws from an alias table, and the seeds of the ops that draw."""

from __future__ import annotations

import torch
from torch import Tensor

from ._register import register
from ._transfer import to_device

__all__ = ["draw_seed"]


def draw_seed(device: torch.device, generator: torch.Generator | None) -> Tensor:
    """int64 [2] on `device`: a key from `generator` or torch's default, and 0, the number of the first draw."""
    at = device if generator is None else generator.device
    key = torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=at, generator=generator)
    return to_device(torch.cat((key, torch.zeros_like(key))), device)


def _draw_fake(threshold: Tensor, alias: Tensor, seed: Tensor, count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int64, device=seed.device)


# threshold int32 [V], read as unsigned, and alias int32 [V]: `seqops.embeddings.NegativeSampler`; seed as above. Gives
# the classes int64 [count] of the draws numbered seed[1], seed[1] + 1, ...
register(
    "alias_draw(Tensor threshold, Tensor alias, Tensor seed, int count) -> Tensor",
    "sampler",
    _draw_fake,
    lambda *_: True,
)
