"""The hypotheses that a beam search has finished, and how their sequences are read back from its history."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BeamSearchOutput", "History", "Pool", "log_softmax", "read_back"]

NEVER = float("-inf")


def log_softmax(logits: Tensor) -> Tensor:
    """In fp32, or fp64 where logits are. A row that is all -inf, of which torch makes NaN, stays so."""
    log_p = torch.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return log_p.masked_fill_(logits.amax(-1, keepdim=True) == NEVER, NEVER)


class BeamSearchOutput(NamedTuple):
    """The best hypotheses of each item, best first; one that does not exist has length 0 and score -inf.

    sequences, lengths, scores, log_probs   as `beam_search` says
    token_log_probs [B, n_best, L]          each token's part of log_probs, 0 beyond the length
    parents [B, n_best, L] int64            the beam that each token continued, -1 beyond the length
    alignments [B, n_best, L, T]            the attention at each token, 0 beyond; None where `step` gives none
    """

    sequences: Tensor
    lengths: Tensor
    scores: Tensor
    log_probs: Tensor
    token_log_probs: Tensor
    parents: Tensor
    alignments: Tensor | None = None


class Pool(NamedTuple):
    """The best hypotheses so far of N groups of w beams, best first, all [N,w]; one whose log_prob is -inf is none.

    A hypothesis is its last token and the beam of the item that the token continued.
    """

    scores: Tensor
    log_probs: Tensor
    lengths: Tensor
    parents: Tensor
    tokens: Tensor

    @classmethod
    def empty(cls, N: int, w: int, dtype: torch.dtype, device: torch.device) -> Pool:
        nothing = (torch.full((N, w), NEVER, dtype=dtype, device=device) for _ in range(2))
        return cls(*nothing, *(torch.zeros(N, w, dtype=torch.int64, device=device) for _ in range(3)))

    def merge(self, new: Pool, beyond: Tensor | None) -> None:
        """Takes in new hypotheses [N,w]; of equal scores the earlier goes first. None is kept at places `beyond`."""
        joined = [torch.cat(pair, 1) for pair in zip(self, new, strict=True)]
        best, order = joined[0].sort(dim=1, descending=True, stable=True)
        w = self.scores.shape[1]
        order = order[:, :w]
        self.scores.copy_(best[:, :w])
        for kept, every in zip(self[1:], joined[1:], strict=True):
            torch.gather(every, 1, order, out=kept)
        if beyond is not None:
            self.scores.masked_fill_(beyond, NEVER)
            self.log_probs.masked_fill_(beyond, NEVER)

    def best(self, B: int, n_best: int) -> Pool:
        """The best of all groups of each of B items, [B,n_best]."""
        whole = [t.view(B, -1) for t in self]
        order = whole[0].sort(dim=1, descending=True, stable=True).indices[:, :n_best]
        return Pool(*(t.gather(1, order) for t in whole))


class History(NamedTuple):
    """What went on at each step, [L,B,beam]: the beam continued, the token, the log-probability with it.

    attention [L,B,beam,T]: of the beams before the step's choice.
    """

    parents: Tensor
    tokens: Tensor
    log_probs: Tensor
    attention: Tensor | None


def read_back(found: Pool, history: History, pad: int) -> BeamSearchOutput:
    """Walks all hypotheses [B,n] back from their last tokens at once."""
    lengths = found.lengths.masked_fill(found.log_probs == NEVER, 0)
    L = int(lengths.max())
    shape = (*lengths.shape, L)
    sequences = lengths.new_full(shape, pad)
    parents = lengths.new_full(shape, -1)
    token_log_probs = found.log_probs.new_zeros(shape)
    alignments = None
    if history.attention is not None:
        alignments = history.attention.new_zeros(*shape, history.attention.shape[3])
    beams, total = found.parents, found.log_probs
    for t in range(L - 1, -1, -1):
        last, within = lengths == t + 1, lengths > t
        parent = torch.where(last, found.parents, history.parents[t].gather(1, beams))
        before = history.log_probs[t - 1].gather(1, parent) if t else torch.zeros_like(total)
        sequences[:, :, t] = torch.where(
            within, torch.where(last, found.tokens, history.tokens[t].gather(1, beams)), pad
        )
        parents[:, :, t] = torch.where(within, parent, -1)
        token_log_probs[:, :, t] = torch.where(within, total - before, 0)
        if alignments is not None and history.attention is not None:
            rows = parent[:, :, None].expand(*parent.shape, alignments.shape[3])
            alignments[:, :, t] = torch.where(within[:, :, None], history.attention[t].gather(1, rows), 0)
        beams = torch.where(within, parent, beams)
        total = torch.where(within, before, total)
    return BeamSearchOutput(sequences, lengths, found.scores, found.log_probs, token_log_probs, parents, alignments)
