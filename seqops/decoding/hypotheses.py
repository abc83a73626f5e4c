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
    least, L = (int(n) for n in lengths.aminmax())
    # The beam that each token continued; beyond a hypothesis what its last token did.
    continued, after = history.parents.unbind(0), found.parents
    walked = [after]
    for t in range(L - 2, -1, -1):
        before = continued[t].gather(1, after)
        after = before if t + 1 < least else torch.where(lengths > t + 1, before, after)
        walked.append(after)
    beams = torch.stack(walked[::-1])[:L]
    steps = torch.arange(L, device=lengths.device)[:, None, None]
    last, within = lengths == steps + 1, lengths > steps
    # What the beam of each token held, from the next token on.
    held = beams.roll(-1, 0)
    tokens = torch.where(last, found.tokens, history.tokens[:L].gather(2, held))
    total = torch.where(last, found.log_probs, history.log_probs[:L].gather(2, held))
    own = total - torch.cat((torch.zeros_like(found.log_probs)[None], total[:-1]))
    alignments = None
    if history.attention is not None:
        T = history.attention.shape[3]
        at = history.attention[:L].gather(2, beams[..., None].expand(-1, -1, -1, T))
        alignments = torch.where(within[..., None], at, 0).permute(1, 2, 0, 3).contiguous()
    sequences, parents, token_log_probs = (
        torch.where(within, value, fill).permute(1, 2, 0).contiguous()
        for value, fill in ((tokens, pad), (beams, -1), (own, 0))
    )
    return BeamSearchOutput(sequences, lengths, found.scores, found.log_probs, token_log_probs, parents, alignments)
