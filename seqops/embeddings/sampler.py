"""Classes drawn by weight, from an alias table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ops._sampler import draw_seed

__all__ = ["NegativeSampler"]

# What a bucket of the alias table holds, in the units of a class's mass.
BUCKET = 2**32


class NegativeSampler(nn.Module):
    """Draws classes with replacement, each with probability proportional to weight^power, at one table entry a draw.

    p[v] = weights[v]^power / sum(weights^power)

    The table has 8 bytes a class. The draws are Philox4x32-10 by counter: draw number n of a seed is the same class on
    every device, whatever else is drawn. A class of weight 0 is never drawn, any other has at least 2^-32 / V. The
    module has no parameters; `.to(device)`, `state_dict` and pickle do what they do for a module.

    Args:
        weights: [V], counts or any weights >= 0, V in 1..2^31-1: a Tensor, an array or a list.
        power: 0.75 as in word2vec; 0 is uniform over the classes with a weight.

    Raises:
        ValueError: weights are not of one dimension, empty, negative, not finite, or all 0.

    Source: Mikolov et al. 2013, arXiv:1310.4546 (power 0.75); Walker 1977 (alias table); Salmon et al. 2011 (Philox).
    """

    threshold: Tensor
    alias: Tensor
    _mass: Tensor | None

    def __init__(
        self,
        weights: Tensor | np.ndarray | Sequence[float],
        power: float = 0.75,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.power = float(power)
        mass = _masses(_checked(weights), self.power)
        threshold, alias = _alias_table(mass)
        device = torch.get_default_device() if device is None else device
        # int32 bits of unsigned thresholds: torch has few ops for uint32.
        self.register_buffer("threshold", torch.from_numpy(threshold.view(np.int32)).to(device))
        self.register_buffer("alias", torch.from_numpy(alias).to(device))
        self.register_buffer("_mass", None, persistent=False)

    @property
    def num_classes(self) -> int:
        return self.threshold.shape[0]

    def sample(self, shape: int | Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        """Classes int64 of this shape, on the table's device; the seed comes from `generator`."""
        return self.draw(shape, draw_seed(self.threshold.device, generator))

    def draw(self, shape: int | Sequence[int], seed: Tensor | int, offset: int = 0) -> Tensor:
        """The draws numbered offset, offset + 1, ... of a seed, as classes int64 of this shape.

        `seed` may be an int64 Tensor [2], (seed, offset), which stays on its device.
        """
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not isinstance(seed, Tensor):
            key = (seed + 2**63) % 2**64 - 2**63
            # Filled where they are: a copy from the host would make it wait for a GPU.
            seed = torch.cat([self.alias.new_full((1,), n, dtype=torch.int64) for n in (key, offset)])
        count = int(np.prod(shape, dtype=np.int64))
        drawn: Tensor = torch.ops.seqops.alias_draw(self.threshold, self.alias, seed, count)
        return drawn.view(shape)

    def log_prob(self, classes: Tensor) -> Tensor:
        """log p of each class, as the table has it: fp32, the shape of `classes`; -inf for one that is never drawn."""
        if self._mass is None:
            # A bucket's threshold is its own class's; the rest is its alias'.
            own = self.threshold.to(torch.int64) & (BUCKET - 1)
            alias = self.alias.to(torch.int64)
            full = alias == torch.arange(self.num_classes, device=alias.device)
            own = own.masked_fill(full, BUCKET)
            self._mass = own.index_add(0, alias, BUCKET - own)
        mass = self._mass[classes].double()
        return (mass.log() - np.log(self.num_classes) - np.log(BUCKET)).float()

    def log_expected_count(self, classes: Tensor, num_samples: int) -> Tensor:
        """log of how often each class is drawn on average among `num_samples` draws."""
        return self.log_prob(classes) + float(np.log(num_samples))

    def extra_repr(self) -> str:
        return f"{self.num_classes}, power={self.power}"

    def _load_from_state_dict(self, *args: Any) -> None:
        self._mass = None
        super()._load_from_state_dict(*args)


def _checked(weights: Tensor | np.ndarray | Sequence[float]) -> np.ndarray:
    if isinstance(weights, Tensor):
        weights = weights.detach().cpu().double().numpy()
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 1 or not 0 < weights.size < 2**31:
        raise ValueError(f"NegativeSampler: weights must have shape [V], V in 1..2^31-1, got {list(weights.shape)}")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("NegativeSampler: weights must be finite and at least 0")
    if not weights.any():
        raise ValueError("NegativeSampler: at least one weight must be above 0")
    return weights


def _masses(weights: np.ndarray, power: float) -> np.ndarray:
    """p in units of 2^-32 / V, int64 [V]: sums to V * 2^32 exactly, 0 only where the weight is 0."""
    positive = weights > 0
    p = np.zeros_like(weights)
    # Of logarithms, which no power takes out of range before the largest is made 1.
    logs = power * np.log(weights[positive])
    p[positive] = np.exp(logs - logs.max())
    total = weights.size * BUCKET
    mass = np.rint(p * (total / p.sum())).astype(np.int64)
    mass[positive & (mass == 0)] = 1
    # What rounding has left over goes to the larger ones, by turns.
    while rest := total - int(mass.sum()):
        heavy = np.flatnonzero(mass >= min(BUCKET, int(mass.max())))
        share, few = divmod(abs(rest), heavy.size)
        step = np.full(heavy.size, share)
        step[:few] += 1
        mass[heavy] += step if rest > 0 else -np.minimum(step, mass[heavy] - 1)
    return mass


def _alias_table(mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """threshold uint32 and alias int32 [V]: bucket v gives v below its threshold, else its alias.

    The classes below a bucket's size, in order, take what they lack from those above, in order; one of those that has
    given too much takes it from the next. Where each begins and ends are prefix sums: all is exact, in whole units.
    """
    V = mass.size
    threshold = np.minimum(mass, BUCKET - 1).astype(np.uint32)
    alias = np.arange(V, dtype=np.int32)
    small, large = np.flatnonzero(mass < BUCKET), np.flatnonzero(mass >= BUCKET)
    lack, spare = np.cumsum(BUCKET - mass[small]), np.cumsum(mass[large] - BUCKET)
    before = np.concatenate((np.zeros(1, np.int64), lack[:-1]))[: small.size]
    alias[small] = large[np.searchsorted(spare, before, side="right")]
    if small.size:
        taken = lack[np.minimum(np.searchsorted(lack, spare), small.size - 1)] - spare
        short = np.flatnonzero(taken > 0)
        threshold[large[short]] = (BUCKET - taken[short]).astype(np.uint32)
        alias[large[short]] = large[short + 1]
    return threshold, alias
