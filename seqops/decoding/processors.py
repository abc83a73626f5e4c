"""What changes log-probabilities before the best are chosen: functions of (sequences [R,n], log_probs [R,V]).

That is the signature of transformers' logits processors, which work here too. What is changed is not normalized again:
a ban raises no other token's score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["LogitsProcessor", "no_repeat_ngram", "repetition_penalty"]

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]


def no_repeat_ngram(n: int) -> LogitsProcessor:
    """No n tokens in a row come twice. Source: Paulus et al. 2018, arXiv:1705.04304."""

    def process(sequences: Tensor, log_probs: Tensor) -> Tensor:
        if sequences.shape[1] < n:
            return log_probs
        R, V = log_probs.shape
        ngrams = sequences.unfold(1, n, 1)
        now = sequences[:, sequences.shape[1] - n + 1 :]
        repeats = (ngrams[:, :, : n - 1] == now[:, None]).all(-1)
        # A column beyond the vocabulary for those that do not.
        banned = torch.zeros(R, V + 1, dtype=torch.bool, device=log_probs.device)
        banned.scatter_(1, torch.where(repeats, ngrams[:, :, n - 1], V), True)
        return log_probs.masked_fill(banned[:, :V], float("-inf"))

    return process


def repetition_penalty(penalty: float) -> LogitsProcessor:
    """Log-probabilities of tokens that a sequence holds are multiplied by the penalty; were one above 0, divided.

    Source: Keskar et al. 2019, arXiv:1909.05858.
    """

    def process(sequences: Tensor, log_probs: Tensor) -> Tensor:
        own = log_probs.gather(1, sequences)
        return log_probs.scatter(1, sequences, torch.where(own < 0, own * penalty, own / penalty))

    return process
