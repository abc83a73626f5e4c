"""What turns a hypothesis's log-probability into its score."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["LengthPenalty", "as_length_penalty", "coverage_penalty", "gnmt_length_penalty"]

# From lengths, floating, to what log-probabilities are divided by: above 0, and rising or falling all along.
LengthPenalty = Callable[[Tensor], Tensor]


def gnmt_length_penalty(alpha: float) -> LengthPenalty:
    """((5 + length) / 6) ** alpha, a `length_penalty` for `beam_search`. Source: Wu et al. 2016, arXiv:1609.08144."""
    return lambda length: ((5 + length) / 6) ** alpha


def as_length_penalty(op: str, penalty: float | LengthPenalty) -> LengthPenalty:
    """A number a stands for length ** a."""
    if callable(penalty):
        return penalty
    if isinstance(penalty, (int, float)) and not isinstance(penalty, bool):
        return lambda length: length**penalty
    raise TypeError(f"{op}: length_penalty must be a number or a function, got {type(penalty).__name__}")


def coverage_penalty(coverage: Tensor, source_lengths: Tensor | None, beta: float) -> Tensor:
    """beta * sum_t log(min(coverage[..., t], 1)) over the source's positions [..., T]; 0 where all got their share.

    A position that got nothing counts as if it had got the dtype's eps: its log would leave no hypothesis possible.
    Source: Wu et al. 2016, arXiv:1609.08144.
    """
    logs = coverage.clamp(min=torch.finfo(coverage.dtype).eps, max=1).log()
    if source_lengths is not None:
        within = torch.arange(coverage.shape[-1], device=coverage.device) < source_lengths[:, None]
        logs = torch.where(within[:, None], logs, 0)
    return beta * logs.sum(-1)
