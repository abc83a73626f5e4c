"""Beam search over any step function, and the score that it would give to sequences that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..ops._checks import check_lengths, check_shape
from ..ops.beam_topk import beam_topk

__all__ = ["BeamSearchOutput", "beam_search", "score_sequences"]

# step(tokens[B,beam], state) -> (logits[B,beam,V], state)
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]

NEVER = float("-inf")
# On a GPU the host looks only so often whether all items are done: each look waits for the GPU.
STEPS_PER_LOOK = 8


class BeamSearchOutput(NamedTuple):
    """The best hypotheses of each item, best first; one that does not exist has length 0 and score -inf."""

    sequences: Tensor
    lengths: Tensor
    scores: Tensor
    log_probs: Tensor


@torch.no_grad()
def beam_search(
    step: Step,
    state: Any,
    *,
    batch_size: int,
    beam_size: int,
    bos: int | Tensor,
    eos: int | Sequence[int],
    max_length: int,
    length_penalty: float = 0.0,
    n_best: int = 1,
    pad: int | None = None,
    device: torch.device | str | None = None,
) -> BeamSearchOutput:
    """The most probable sequences that a beam of `beam_size` finds, under a model given as a step function.

    log_prob = sum_t log_softmax(logits_t)[token_t]
    score    = log_prob / length ** length_penalty

    Each step ranks an item's continuations. Those of the best `beam_size` that end are finished hypotheses, of which
    the best `beam_size` by score are kept; the best `beam_size` that do not end go on. An item is done when nothing
    that goes on can still enter its kept ones. What goes on at max_length is a hypothesis too, without an end. A beam
    of 1 without a length penalty is greedy search.

    Args:
        step: step(tokens [B, beam] int64, state) -> (logits [B, beam, V], state). Called once a token; what all beams
            of an item share and no step changes, such as encoder outputs, it should close over: that is never copied.
        state: any nesting of lists, tuples and dicts. Tensors have shape [B, ...]; `step` sees and returns them as
            [B, beam, ...], and between steps each beam's rows follow it. All else is passed on as it is.
        batch_size, beam_size: B and beam.
        bos: the first token fed to `step`, an int or an int tensor [B]. Not a part of the sequences.
        eos: the id or ids that end a sequence. The one that did is a part of it and of its length.
        max_length: the most tokens of a sequence.
        length_penalty: 0: the sum of log-probabilities, which favours short sequences; 1: their mean; between: some of
            both; negative favours shorter ones still.
        n_best: hypotheses an item, 1..beam_size.
        pad: what sequences hold beyond their length; the first eos unless given.
        device: of the tokens; unless given that of `bos` or of the first tensor in `state`, else the CPU.

    Returns:
        BeamSearchOutput: sequences [B, n_best, L] int64, L the longest; lengths [B, n_best] int64; scores and
        log_probs [B, n_best], fp32, or fp64 where logits are.

    Raises:
        ValueError: an argument, the state or what `step` returns does not fit. TypeError: a dtype does not fit.

    Source: Graves 2012, arXiv:1211.3711; the length penalty as in Ng's course on sequence models (Wu et al. 2016,
    arXiv:1609.08144, have ((5 + length) / 6) ** a).
    """
    B, beam = batch_size, beam_size
    for name, value in (("batch_size", B), ("beam_size", beam), ("max_length", max_length)):
        if value < 1:
            raise ValueError(f"beam_search: {name} must be at least 1, got {value}")
    if not 1 <= n_best <= beam:
        raise ValueError(f"beam_search: n_best must lie in 1..{beam}, the beam_size, got {n_best}")
    eos_ids = [eos] if isinstance(eos, int) else [int(e) for e in eos]
    if not eos_ids or min(eos_ids) < 0:
        raise ValueError(f"beam_search: eos must be one or more token ids, got {eos}")
    if pad is None:
        pad = eos_ids[0]
    leaves, tree = pytree.tree_flatten(state)
    if device is None:
        device = next((t.device for t in (bos, *leaves) if isinstance(t, Tensor)), torch.device("cpu"))
    device = torch.device(device)
    tokens = _first_tokens("beam_search", bos, B, device)[:, None].expand(B, beam).contiguous()
    for leaf in leaves:
        if isinstance(leaf, Tensor) and (leaf.dim() == 0 or leaf.shape[0] != B):
            raise ValueError(f"beam_search: state's tensors must have shape [{B}, ...], got {list(leaf.shape)}")
    state = pytree.tree_unflatten([_repeat(leaf, beam) if isinstance(leaf, Tensor) else leaf for leaf in leaves], tree)

    eos_tensor = torch.tensor(sorted(set(eos_ids)), device=device)
    ends = len(set(eos_ids))
    items = torch.arange(B, device=device)[:, None] * beam
    look = 1 if device.type == "cpu" else STEPS_PER_LOOK
    history: list[tuple[Tensor, Tensor]] = []
    for t in range(max_length):
        logits, state = step(tokens, state)
        check_shape("beam_search", "step's logits", logits, (B, beam, "V"))
        if t == 0:
            dtype = torch.promote_types(logits.dtype, torch.float32)
            # All beams of an item are alike as yet: only the first counts.
            live = torch.full((B, beam), NEVER, dtype=dtype, device=device)
            live[:, 0] = 0.0
            pool = _Pool.empty(B, beam, dtype, device)
            done = torch.zeros(B, 1, dtype=torch.bool, device=device)
        # So many that `beam` of them do not end, if there are as many.
        k = min((1 + ends) * beam, beam * logits.shape[2])
        log_probs, parents, tokens = beam_topk(logits, live, k)
        ended = (tokens[:, :, None] == eos_tensor).any(-1)
        scale = (t + 1.0) ** length_penalty
        finished = log_probs.masked_fill(~ended | done, NEVER)
        pool = pool.merged(finished[:, :beam], parents[:, :beam], tokens[:, :beam], scale, t + 1)

        # False sorts before True: the best that go on, in order.
        going = ended.sort(dim=1, stable=True).indices[:, :beam]
        live = log_probs.masked_fill(ended, NEVER).gather(1, going)
        parents, tokens = parents.gather(1, going), tokens.gather(1, going)
        history.append((parents, tokens))
        if t + 1 == max_length:
            pool = pool.merged(live.masked_fill(done, NEVER), parents, tokens, scale, t + 1)
            break
        # A log-probability only falls, and is divided by most at the greatest length, or at the next where the penalty
        # is negative. A tie does not enter: the earlier one stays.
        reach = (max_length if length_penalty > 0 else t + 2.0) ** length_penalty
        done = done | (live[:, :1] / reach <= pool.scores[:, -1:])
        if (t + 1) % look == 0 and bool(done.all()):
            break
        rows = (items + parents).flatten()
        state = pytree.tree_map_only(Tensor, partial(_reordered, rows=rows, B=B, beam=beam), state)
    return pool.output(n_best, history, pad)


@torch.no_grad()
def score_sequences(
    step: Step,
    state: Any,
    sequences: Tensor,
    lengths: Tensor,
    *,
    bos: int | Tensor,
    length_penalty: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The scores that `beam_search` would give to known sequences, by the same `step` with one beam.

    log_prob = sum_{t < length} log_softmax(logits_t)[sequence_t]
    score    = log_prob / length ** length_penalty

    Args:
        step, state, bos, length_penalty: as in `beam_search`.
        sequences: [B, L] int64 in 0..V-1, with the end token and without bos; beyond an item's length anything.
        lengths: [B] int32 or int64.

    Returns:
        scores [B] and log_probs [B], fp32, or fp64 where logits are; -inf for an item of length 0, which in
        `beam_search` is a hypothesis that does not exist.

    Raises:
        ValueError: a shape, a length or a token does not fit. TypeError: a dtype does not fit.
    """
    check_shape("score_sequences", "sequences", sequences, ("B", "L"))
    B, L = sequences.shape
    if sequences.dtype != torch.int64:
        raise TypeError(f"score_sequences: sequences must be int64, got {sequences.dtype}")
    lengths_ = check_lengths("score_sequences", lengths, B, L, sequences.device)
    if lengths_ is None:
        raise TypeError("score_sequences: lengths must be a Tensor, got None")
    active = torch.arange(L, device=sequences.device) < lengths_[:, None]
    sequences = torch.where(active, sequences, 0)
    tokens = _first_tokens("score_sequences", bos, B, sequences.device)
    state = pytree.tree_map_only(Tensor, lambda leaf: _repeat(leaf, 1), state)
    log_probs = torch.zeros(B, device=sequences.device)
    low, high = (int(x) for x in sequences.aminmax()) if sequences.numel() else (0, 0)
    for t in range(L):
        logits, state = step(tokens[:, None], state)
        check_shape("score_sequences", "step's logits", logits, (B, 1, "V"))
        V = logits.shape[2]
        if low < 0 or high >= V:
            raise ValueError(f"score_sequences: sequences must lie in 0..{V - 1}, got {low}..{high}")
        log_probs = log_probs.to(torch.promote_types(logits.dtype, torch.float32))
        log_p = torch.log_softmax(logits[:, 0].to(log_probs.dtype), -1)
        # A row that is all -inf is impossible, not NaN.
        log_p = log_p.masked_fill((logits[:, 0] == NEVER).all(-1, keepdim=True), NEVER)
        tokens = sequences[:, t]
        log_probs = log_probs + torch.where(active[:, t], log_p.gather(1, tokens[:, None])[:, 0], 0.0)
    log_probs = log_probs.masked_fill(lengths_ <= 0, NEVER)
    return log_probs / lengths_.clamp(min=1).to(log_probs.dtype) ** length_penalty, log_probs


class _Pool(NamedTuple):
    """An item's best hypotheses so far, best first, all [B,beam]. A slot whose log_prob is -inf is empty.

    A hypothesis is its last token and the beam that the token continued.
    """

    scores: Tensor
    log_probs: Tensor
    lengths: Tensor
    parents: Tensor
    tokens: Tensor

    @classmethod
    def empty(cls, B: int, beam: int, dtype: torch.dtype, device: torch.device) -> _Pool:
        nothing = torch.full((B, beam), NEVER, dtype=dtype, device=device)
        zeros = torch.zeros(B, beam, dtype=torch.int64, device=device)
        return cls(nothing, nothing, zeros, zeros, zeros)

    def merged(self, log_probs: Tensor, parents: Tensor, tokens: Tensor, scale: float, length: int) -> _Pool:
        """With new hypotheses of one length; of equal scores the earlier goes first."""
        new = (log_probs / scale, log_probs, torch.full_like(tokens, length), parents, tokens)
        joined = [torch.cat(pair, 1) for pair in zip(self, new, strict=True)]
        best, order = joined[0].sort(dim=1, descending=True, stable=True)
        beam = self.scores.shape[1]
        order = order[:, :beam]
        return _Pool(best[:, :beam], *(t.gather(1, order) for t in joined[1:]))

    def output(self, n_best: int, history: list[tuple[Tensor, Tensor]], pad: int) -> BeamSearchOutput:
        """Walks all hypotheses back from their last tokens at once."""
        scores, log_probs, lengths, parents, last = (t[:, :n_best] for t in self)
        lengths = lengths.masked_fill(log_probs == NEVER, 0)
        L = int(lengths.max())
        sequences = torch.full((*lengths.shape, L), pad, dtype=torch.int64, device=lengths.device)
        beams = parents
        for t in range(L - 1, -1, -1):
            step_parents, step_tokens = history[t]
            ends, within = lengths == t + 1, lengths > t
            tokens = torch.where(ends, last, step_tokens.gather(1, beams))
            sequences[:, :, t] = torch.where(within, tokens, pad)
            beams = torch.where(ends, parents, torch.where(within, step_parents.gather(1, beams), parents))
        return BeamSearchOutput(sequences, lengths, scores.contiguous(), log_probs.contiguous())


def _first_tokens(op: str, bos: int | Tensor, B: int, device: torch.device) -> Tensor:
    if not isinstance(bos, Tensor):
        return torch.full((B,), bos, dtype=torch.int64, device=device)
    if bos.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: bos must be int32 or int64, got {bos.dtype}")
    check_shape(op, "bos", bos, (B,))
    return bos.to(device=device, dtype=torch.int64)


def _repeat(leaf: Tensor, beam: int) -> Tensor:
    """[B,...] -> [B,beam,...], a copy: `step` may write into its state."""
    return leaf[:, None].repeat_interleave(beam, 1)


def _reordered(leaf: Tensor, rows: Tensor, B: int, beam: int) -> Tensor:
    if leaf.shape[:2] != (B, beam):
        raise ValueError(f"beam_search: step's state must have shape [{B}, {beam}, ...], got {list(leaf.shape)}")
    return leaf.flatten(0, 1).index_select(0, rows).unflatten(0, (B, beam))
