"""What zoneout and recurrent dropout draw, for layers and cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["changed", "check_heads", "check_rate", "drop", "recurrent_mask", "zoneout", "zoneouts"]


def check_rate(module: str, name: str, rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise ValueError(f"{module}: {name} must be a number in 0..1, got {rate!r}")
    return rate


def check_heads(module: str, num_heads: int, hidden_size: int) -> int:
    if isinstance(num_heads, bool) or not isinstance(num_heads, int) or num_heads < 1 or hidden_size % num_heads:
        raise ValueError(f"{module}: num_heads must divide hidden_size {hidden_size}, got {num_heads!r}")
    return num_heads


def zoneouts(module: str, rates: float | tuple[float, float], states: int) -> tuple[float, ...]:
    """The rate for each tensor of the state; a single number is h's."""
    given = tuple(rates) if isinstance(rates, (tuple, list)) else (rates, 0.0)[:states]
    if len(given) != states:
        what = "a number, or a pair of numbers," if states == 2 else "a number"
        raise ValueError(f"{module}: zoneout must be {what} in 0..1, got {rates!r}")
    return tuple(check_rate(module, "zoneout", rate) for rate in given)


def changed(module: torch.nn.Module, own: dict[str, Any]) -> str:
    """For a repr: the attributes that are not as in `own`."""
    return "".join(f", {name}={getattr(module, name)}" for name, plain in own.items() if getattr(module, name) != plain)


def _keep(rate: float, shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """1 / (1 - rate) with probability 1 - rate, else 0."""
    mask = like.new_empty(shape).bernoulli_(1 - rate, generator=generator)
    return mask if rate == 1 else mask.div_(1 - rate)


def drop(x: Tensor, rate: float, training: bool, generator: torch.Generator | None) -> Tensor:
    """Dropout, without a generator with torch's draws."""
    if generator is None or not training or not rate:
        return torch.nn.functional.dropout(x, rate, training)
    return x * _keep(rate, x.shape, x, generator)


def recurrent_mask(
    rate: float, shape: Sequence[int], like: Tensor, training: bool, generator: torch.Generator | None
) -> Tensor | None:
    return _keep(rate, shape, like, generator) if training and rate else None


def zoneout(
    rate: float, shape: Sequence[int], like: Tensor, training: bool, generator: torch.Generator | None
) -> Tensor | float | None:
    """Which units keep their old state; out of training the expectation of it."""
    if not training or not rate:
        return rate or None
    return like.new_empty(shape).bernoulli_(rate, generator=generator)
