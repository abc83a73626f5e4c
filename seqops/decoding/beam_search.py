"""Beam search over any step function, and the score that it would give to sequences that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..ops._checks import check_lengths, check_shape
from .beams import BeamSearch, first_tokens
from .hypotheses import NEVER, BeamSearchOutput, log_softmax
from .penalties import LengthPenalty, as_length_penalty

__all__ = ["beam_search", "check_state", "device_of", "score_sequences"]

# step(tokens[B,beam], state) -> (logits[B,beam,V], state) or (logits, state, attention[B,beam,T])
Step = Callable[[Tensor, Any], tuple[Any, ...]]

# On a GPU the host looks only so often whether all items are done: each look waits for the GPU.
STEPS_PER_LOOK = 8


@torch.no_grad()
def beam_search(
    step: Step,
    state: Any,
    *,
    batch_size: int,
    beam_size: int | Sequence[int],
    bos: int | Tensor,
    eos: int | Sequence[int] | None,
    max_length: int | Tensor,
    reorder: Callable[[Any, Tensor], Any] | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> BeamSearchOutput:
    """The most probable sequences that a beam of `beam_size` finds, under a model given as a step function.

    log_prob = sum_t log_softmax(logits_t)[token_t]
    score    = log_prob / length ** length_penalty + coverage_penalty * sum_j log(min(sum_t attention_t[j], 1))

    Each step ranks an item's continuations. Those of the best `beam_size` that end are finished hypotheses, of which
    the best `beam_size` by score are kept; the best `beam_size` that do not end go on. What goes on at max_length is a
    hypothesis too, without an end. A beam of 1 without a length penalty is greedy search. An item's result does not
    depend on the batch around it.

    Args:
        step: step(tokens [B, beam] int64, state) -> (logits [B, beam, V], state), or (logits, state, attention
            [B, beam, T]). Called once a token; what all beams of an item share and no step changes, such as encoder
            outputs, it should close over: that is never copied. Tokens are a buffer: copy what is to be kept.
        state: any nesting of lists, tuples and dicts. Tensors have shape [B, ...]; `step` sees and returns them as
            [B, beam, ...], and between steps each beam's rows follow it. All else is passed on as it is.
        batch_size: B.
        beam_size: one for all items, or one for each; beam is the largest.
        bos: the first token fed to `step`, an int or an int tensor [B]. Not a part of the sequences. Or a prompt
            [B, P], of which `step` is fed the last, and processors see all.
        eos: the id or ids that end a sequence. The one that did is a part of it and of its length. None: nothing does.
        max_length: the most tokens of a sequence, an int or a tensor [B], such as a ratio to the source:
            (1.2 * source_lengths + 5).long().
        reorder: reorder(state, rows [B*beam] int64) -> state, in place of moving each beam's rows: row i of all items'
            beams goes on with what row rows[i] had. A cache can keep its rows, and reorder a table that says where a
            beam's past lies. The state is then passed to `step` as it is given.
        device: of the tokens; unless given that of `bos` or of the first tensor in `state`, else the CPU.

    Options:
        length_penalty: 0.0: the sum of log-probabilities, which favours short sequences; 1: their mean; between: some
            of both; negative favours shorter ones still. Or a function of lengths: `gnmt_length_penalty(alpha)`.
        coverage_penalty: 0.0; needs attention. source_lengths: int [B], of which positions it counts; None: all.
        early_stopping: when an item is done. "never": when nothing that goes on can still enter its kept hypotheses.
            False: when nothing could, were the present length the last. True: as False, and when `beam_size`
            hypotheses have finished, or `patience` times as many. As in transformers.
        min_length: so many tokens come before an end; an int or a tensor [B].
        prefix: int [B, P]: each sequence begins with it. prefix_lengths: int [B]; None: all of P.
        forced_tokens: {step: token}, where the prefix says nothing; step -1 is the last of max_length.
        banned_tokens: ids that never come, unless forced.
        no_repeat_ngram_size: n tokens in a row never come twice; 0: they may. bos counts as a token.
        repetition_penalty: 1.0; above 1 what a sequence has already becomes less probable.
        processors: functions of (sequences [B*beam, n], log_probs [B*beam, V]) that give log_probs; transformers' work.
        stopping_criteria: functions of (sequences [R, n], None) that give bool [R]: those that end.
        groups, diversity: diverse beam search: the beams are divided into groups, and what a group chooses costs the
            groups after it `diversity` in their choice. It is no part of the scores.
        n_best: hypotheses an item, 1..beam_size.
        pad: what sequences hold beyond their length; the first eos unless given.

    Prefix, bans and processors change no other token's log-probability: a sequence keeps the score that
    `score_sequences` gives it, but for what processors themselves have changed.

    Returns:
        BeamSearchOutput: sequences [B, n_best, L] int64, L the longest; lengths [B, n_best] int64; scores and
        log_probs [B, n_best], fp32, or fp64 where logits are; the tokens' own log-probabilities, parents, alignments.

    Raises:
        ValueError: an argument, the state or what `step` returns does not fit. TypeError: a dtype does not fit.

    Source: Graves 2012, arXiv:1211.3711; the length penalty as in Ng's course on sequence models; coverage: Wu et al.
    2016, arXiv:1609.08144; patience: Kasai et al. 2022, arXiv:2204.05424; groups: Vijayakumar et al. 2016,
    arXiv:1610.02424.
    """
    leaves, tree = pytree.tree_flatten(state)
    device = device_of(device, bos, leaves)
    search = BeamSearch(
        batch_size=batch_size,
        beam_size=beam_size,
        bos=bos,
        eos=eos,
        max_length=max_length,
        device=device,
        **options,
    )
    B, beam = search.tokens.shape
    if reorder is None:
        check_state("beam_search", leaves, B)
        repeated = [_repeat(leaf, beam) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        state = pytree.tree_unflatten(repeated, tree)
        reorder = partial(_reorder, B=B, beam=beam)
    look = 1 if search.device.type == "cpu" else STEPS_PER_LOOK
    while True:
        logits, state, *attention = step(search.tokens, state)
        rows = search.advance(logits, *attention)
        if search.steps == search.max_length or (search.steps % look == 0 and search.finished()):
            return search.output()
        state = reorder(state, rows)


@torch.no_grad()
def score_sequences(
    step: Step,
    state: Any,
    sequences: Tensor,
    lengths: Tensor,
    *,
    bos: int | Tensor,
    length_penalty: float | LengthPenalty = 0.0,
) -> tuple[Tensor, Tensor]:
    """The scores that `beam_search` would give to known sequences, by the same `step` with one beam.

    log_prob = sum_{t < length} log_softmax(logits_t)[sequence_t]
    score    = log_prob / length ** length_penalty, or log_prob / length_penalty(length); no penalty for coverage

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
    tokens = first_tokens("score_sequences", bos, B, sequences.device)
    state = pytree.tree_map_only(Tensor, lambda leaf: _repeat(leaf, 1), state)
    log_probs = torch.zeros(B, dtype=torch.float32, device=sequences.device)
    low, high = (int(x) for x in sequences.aminmax()) if sequences.numel() else (0, 0)
    for t in range(L):
        logits, state, *_ = step(tokens[:, None], state)
        check_shape("score_sequences", "step's logits", logits, (B, 1, "V"))
        V = logits.shape[2]
        if low < 0 or high >= V:
            raise ValueError(f"score_sequences: sequences must lie in 0..{V - 1}, got {low}..{high}")
        log_p = log_softmax(logits[:, 0])
        tokens = sequences[:, t]
        log_probs = log_probs + torch.where(active[:, t], log_p.gather(1, tokens[:, None])[:, 0], 0.0)
    log_probs = log_probs.masked_fill(lengths_ <= 0, NEVER)
    penalty = as_length_penalty("score_sequences", length_penalty)
    return log_probs / penalty(lengths_.clamp(min=1).to(log_probs.dtype)), log_probs


def device_of(device: torch.device | str | None, bos: int | Tensor, leaves: Sequence[Any]) -> torch.device:
    """That which is given, or else that of the first tensor."""
    if device is None:
        return next((t.device for t in (bos, *leaves) if isinstance(t, Tensor)), torch.device("cpu"))
    return torch.device(device)


def check_state(op: str, leaves: Sequence[Any], B: int) -> None:
    """Each tensor of a state has a row for each of B items."""
    for leaf in leaves:
        if isinstance(leaf, Tensor) and (leaf.dim() == 0 or leaf.shape[0] != B):
            raise ValueError(f"{op}: state's tensors must have shape [{B}, ...], got {list(leaf.shape)}")


def _repeat(leaf: Tensor, beam: int) -> Tensor:
    """[B,...] -> [B,beam,...], a copy: `step` may write into its state."""
    return leaf[:, None].repeat_interleave(beam, 1)


def _reorder(state: Any, rows: Tensor, B: int, beam: int) -> Any:
    def move(leaf: Tensor) -> Tensor:
        if leaf.shape[:2] != (B, beam):
            raise ValueError(f"beam_search: step's state must have shape [{B}, {beam}, ...], got {list(leaf.shape)}")
        return leaf.flatten(0, 1).index_select(0, rows).view(leaf.shape)

    if isinstance(state, Tensor):
        return move(state)
    return pytree.tree_map_only(Tensor, move, state)
