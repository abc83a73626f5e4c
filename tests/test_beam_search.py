"""beam_search against a search over Python lists, against all sequences, and against greedy search."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import pytest
import torch
from helpers import OTHER_DEFAULTS, randn
from torch import Tensor

from seqops import BeamSearchOutput, beam_search, exact_search, score_sequences

pytestmark = pytest.mark.usefixtures("cpu_path")

INF = float("inf")
PENALTIES = [0.0, 1.0, 0.6, 1.7, -0.8]


def models(B: int, V: int, T: int = 12, seed: int = 0) -> Tensor:
    """A Markov model an item and step: log-probabilities [B,T,V,V] of the next token.

    Unlike at each step, for else sequences of the same transitions in another order tie but for rounding.
    """
    return torch.log_softmax(randn(B, T, V, V, seed=seed, scale=1.5), -1)


def markov(tokens: Tensor, state: tuple[Tensor, int]) -> tuple[Tensor, tuple[Tensor, int]]:
    """The state holds each beam's own models, [B,beam,T,V,V], and the step."""
    table, t = state
    rows = tokens[:, :, None, None].expand(*tokens.shape, 1, table.shape[-1])
    return table[:, :, t].gather(2, rows)[:, :, 0], (table, t + 1)


Hypothesis = tuple[float, float, list[int]]


def search_lists(
    table: list[list[list[float]]], beam: int, bos: int, eos: set[int], max_length: int, penalty: float
) -> list[Hypothesis]:
    """One item, by lists: (score, log_prob, tokens), best first. Never stops early."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    pool: list[Hypothesis] = []

    def add(log_prob: float, tokens: list[int]) -> None:
        pool.append((log_prob / len(tokens) ** penalty, log_prob, tokens))

    for t in range(max_length):
        candidates = []
        for log_prob, tokens in live:
            row = table[t][tokens[-1] if tokens else bos]
            candidates += [(log_prob + p, [*tokens, v]) for v, p in enumerate(row) if p > -INF]
        candidates.sort(key=lambda c: -c[0])
        candidates = candidates[: (1 + len(eos)) * beam]
        for log_prob, tokens in candidates[:beam]:
            if tokens[-1] in eos:
                add(log_prob, tokens)
        live = [c for c in candidates if c[1][-1] not in eos][:beam]
        if t + 1 == max_length:
            for log_prob, tokens in live:
                add(log_prob, tokens)
        pool.sort(key=lambda h: -h[0])
        pool = pool[:beam]
    return pool


def assert_same(got: BeamSearchOutput, b: int, expected: list[Hypothesis], pad: int) -> None:
    n_best, L = got.sequences.shape[1:]
    for n in range(n_best):
        score, log_prob, tokens = expected[n] if n < len(expected) else (-INF, -INF, [])
        assert got.lengths[b, n] == len(tokens)
        assert got.sequences[b, n].tolist() == tokens + [pad] * (L - len(tokens))
        assert got.scores[b, n].item() == pytest.approx(score, abs=1e-9)
        assert got.log_probs[b, n].item() == pytest.approx(log_prob, abs=1e-9)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(
    ("V", "beam", "eos", "max_length"),
    [(5, 3, [0], 7), (7, 4, [2, 5], 9), (4, 6, [1, 3], 5), (3, 1, [2], 6), (1, 2, [0], 3), (3, 2, [0, 1, 2], 4)],
)
def test_against_lists(V: int, beam: int, eos: list[int], max_length: int, penalty: float) -> None:
    B = 12
    table = models(B, V, seed=V)
    table[:3].masked_fill_(randn(3, 12, V, V, seed=50) > 0.3, -INF)  # few ways on, or none
    got = beam_search(
        markov, (table, 0), batch_size=B, beam_size=beam, bos=V - 1, eos=eos, max_length=max_length, n_best=beam,
        length_penalty=penalty, pad=0,
    )  # fmt: skip
    assert got.scores.dtype == torch.float64
    assert got.sequences.shape[2] == got.lengths.max()
    for b in range(B):
        # The model's own log_softmax renormalizes what was masked.
        rows = torch.log_softmax(table[b], -1).nan_to_num(nan=-INF, neginf=-INF)
        expected = search_lists(rows.tolist(), beam, V - 1, set(eos), max_length, penalty)
        assert_same(got, b, expected, pad=0)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_wide_beam_searches_all(penalty: float) -> None:
    B, V, L, bos, eos = 4, 3, 4, 1, 0
    table = models(B, V, seed=9)
    beam = V ** (L - 1)
    got = beam_search(
        markov,
        (table, 0),
        batch_size=B,
        beam_size=beam,
        bos=bos,
        eos=eos,
        max_length=L,
        n_best=5,
        length_penalty=penalty,
    )
    for b in range(B):
        every = []
        for length in range(1, L + 1):
            for tokens in itertools.product(range(V), repeat=length):
                if eos in tokens[:-1] or (tokens[-1] != eos and length < L):
                    continue
                log_prob = sum(
                    table[b, t, i, j].item() for t, (i, j) in enumerate(zip((bos, *tokens), tokens, strict=False))
                )
                every.append((log_prob / length**penalty, log_prob, list(tokens)))
        assert_same(got, b, sorted(every, key=lambda h: -h[0]), pad=eos)


@pytest.mark.parametrize("penalty", [0.0, -0.8])
def test_one_beam_is_greedy(penalty: float) -> None:
    B, V, L, eos = 12, 4, 10, 0
    table = models(B, V, seed=3)
    got = beam_search(
        markov, (table, 0), batch_size=B, beam_size=1, bos=1, eos=eos, max_length=L, length_penalty=penalty
    )
    lengths = set()
    for b in range(B):
        tokens = [1]
        while len(tokens) <= L and (len(tokens) == 1 or tokens[-1] != eos):
            tokens.append(int(table[b, len(tokens) - 1, tokens[-1]].argmax()))
        length = int(got.lengths[b, 0])
        assert got.sequences[b, 0, :length].tolist() == tokens[1:]
        lengths.add(length)
    assert min(lengths) < L  # some ended


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_an_item_alone_equals_it_in_a_batch(penalty: float) -> None:
    B, V = 6, 9
    table = models(B, V, seed=11).float()
    table[..., 0] += torch.arange(B)[:, None, None]  # ends at different times
    options: dict[str, Any] = {"beam_size": 3, "eos": 0, "max_length": 12, "n_best": 3, "length_penalty": penalty}
    together = beam_search(markov, (table, 0), batch_size=B, bos=torch.arange(1, B + 1), **options)
    assert together.lengths[:, 0].unique().numel() > 1
    for b in range(B):
        alone = beam_search(markov, (table[b : b + 1], 0), batch_size=1, bos=b + 1, **options)
        L = alone.sequences.shape[2]
        assert torch.equal(alone.sequences[0], together.sequences[b, :, :L])
        assert (together.sequences[b, :, L:] == 0).all()
        for name in ("lengths", "scores", "log_probs"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[b])


def test_stops_when_all_items_are_done() -> None:
    calls = []

    def step(tokens: Tensor, state: None) -> tuple[Tensor, None]:
        calls.append(tokens)
        logits = torch.zeros(*tokens.shape, 4)
        logits[..., 2] = 12.0  # ends at once
        return logits, None

    beam_search(step, None, batch_size=2, beam_size=2, bos=0, eos=2, max_length=50)
    assert 1 < len(calls) < 10


def test_the_state_follows_its_beam() -> None:
    B, V, beam = 3, 5, 4
    table = models(B, V, T=1, seed=21)[:, 0]
    marker = object()

    def step(tokens: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        assert state["other"][0] is marker
        assert state["other"][1] == "text"
        assert tokens.shape == state["item"].shape == (B, beam)
        # What the state remembers of its own beam is all that the model sees.
        seen = torch.cat((state["seen"][0][:, :, 1:], tokens[:, :, None]), 2)
        assert torch.equal(state["item"], torch.arange(B)[:, None].expand(B, beam))
        logits = table[state["item"], tokens] + table[state["item"], seen[:, :, -2]].roll(1, -1)
        return logits, {"seen": (seen,), "item": state["item"], "other": state["other"]}

    state = {"seen": (torch.zeros(B, 6, dtype=torch.int64),), "item": torch.arange(B), "other": [marker, "text"]}
    got = beam_search(step, state, batch_size=B, beam_size=beam, bos=0, eos=4, max_length=6, n_best=beam)

    for b in range(B):
        for n in range(beam):
            tokens = [0, 0, *got.sequences[b, n, : got.lengths[b, n]].tolist()]
            log_prob = 0.0
            for t in range(2, len(tokens)):
                row = table[b, tokens[t - 1]] + table[b, tokens[t - 2]].roll(1, -1)
                log_prob += torch.log_softmax(row, -1)[tokens[t]].item()
            assert got.log_probs[b, n].item() == pytest.approx(log_prob, abs=1e-9)


def test_a_step_may_write_into_its_state() -> None:
    count = torch.zeros(2, 1)

    def step(tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state += 1
        return torch.zeros(*tokens.shape, 3), state

    beam_search(step, count, batch_size=2, beam_size=3, bos=0, eos=0, max_length=3)
    assert not count.any()


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_score_sequences_agrees(penalty: float) -> None:
    B, V, beam = 4, 6, 3
    table = models(B, V, seed=31).float()
    table[0, :, :, 1:] = -INF  # one hypothesis alone
    options: dict[str, Any] = {"bos": 5, "length_penalty": penalty}
    got = beam_search(
        markov, (table, 0), batch_size=B, beam_size=beam, eos=0, max_length=6, n_best=beam, pad=9, **options
    )
    assert got.lengths[0].tolist() == [1, 0, 0]
    for n in range(beam):
        scores, log_probs = score_sequences(markov, (table, 0), got.sequences[:, n], got.lengths[:, n], **options)
        torch.testing.assert_close(scores, got.scores[:, n])
        torch.testing.assert_close(log_probs, got.log_probs[:, n])


def test_other_defaults_change_nothing() -> None:
    table, found = models(2, 5, seed=3).float(), []
    options: dict[str, Any] = {"bos": 4, "length_penalty": 0.5}
    searched = {"batch_size": 2, "eos": 0, "max_length": 4, **options}
    for default in (contextlib.nullcontext, *OTHER_DEFAULTS):
        with default():
            beams = beam_search(markov, (table, 0), beam_size=3, forced_tokens={0: 2}, min_length=2, **searched)
            scored = score_sequences(markov, (table, 0), beams.sequences[:, 0], beams.lengths[:, 0], **options)
            exact = exact_search(markov, (table, 0), **searched)
        found.append([t for t in (*beams, *scored, *exact) if t is not None])
        for a, b in zip(found[-1], found[0], strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def test_an_impossible_row_ends_a_beam() -> None:
    table = torch.full((1, 3, 3, 3), -INF)
    table[0, :, 0] = torch.tensor([-INF, math.log(0.5), math.log(0.5)])
    table[0, :, 1, 2] = 0.0  # 0 -> 1 -> 2; from 2 nothing follows, and nothing ends
    got = beam_search(markov, (table, 0), batch_size=1, beam_size=2, bos=0, eos=7, max_length=3, n_best=2)
    assert got.sequences.shape == (1, 2, 0)
    assert got.lengths.tolist() == [[0, 0]]
    assert (got.scores == -INF).all()
    got = beam_search(markov, (table, 0), batch_size=1, beam_size=2, bos=0, eos=7, max_length=2, n_best=2)
    assert got.sequences.tolist() == [[[1, 2], [7, 7]]]
    assert got.scores[0, 0].item() == pytest.approx(math.log(0.5))


def test_nan_shows() -> None:
    table = models(1, 4)
    table[0, 0, 2, 1] = float("nan")
    got = beam_search(markov, (table, 0), batch_size=1, beam_size=2, bos=2, eos=0, max_length=3)
    assert got.scores.isnan().all()


def test_half_precision_logits_are_summed_in_fp32() -> None:
    table = models(2, 5).bfloat16()
    got = beam_search(markov, (table, 0), batch_size=2, beam_size=2, bos=0, eos=1, max_length=4)
    assert got.scores.dtype == torch.float32
    exact = beam_search(markov, (table.double(), 0), batch_size=2, beam_size=2, bos=0, eos=1, max_length=4)
    torch.testing.assert_close(got.scores.double(), exact.scores, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"beam_size": 0}, "beam_size must be at least 1, got 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"n_best": 3}, "n_best must lie in 1..2, the beam_size, got 3"),
        ({"eos": []}, r"eos must be one or more token ids, got \[\]"),
        ({"eos": -1}, "eos must be one or more token ids, got -1"),
        ({"bos": torch.zeros(3, dtype=torch.int64)}, r"bos must have shape \[2\], got \[3\]"),
        ({"state": [torch.zeros(3, 4)]}, r"state's tensors must have shape \[2, ...\], got \[3, 4\]"),
        ({"step": lambda t, s: (torch.zeros(2, 5), s)}, r"step's logits must have shape \[2, 2, V\], got \[2, 5\]"),
        (
            {"step": lambda t, s: (torch.zeros(2, 2, 5), torch.zeros(2, 3))},
            r"step's state must have shape \[2, 2, ...\], got \[2, 3\]",
        ),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"batch_size": 2, "beam_size": 2, "bos": 0, "eos": 1, "max_length": 3}
    options |= {"step": markov, "state": (models(2, 5), 0)} | change
    with pytest.raises(ValueError, match="^beam_search: " + message):
        beam_search(options.pop("step"), options.pop("state"), **options)


def test_bad_types() -> None:
    with pytest.raises(TypeError, match=r"beam_search: bos must be int32 or int64, got torch.float32"):
        beam_search(markov, (models(2, 5), 0), batch_size=2, beam_size=2, bos=torch.zeros(2), eos=1, max_length=3)
    with pytest.raises(TypeError, match=r"score_sequences: sequences must be int64, got torch.float32"):
        score_sequences(markov, (models(2, 5), 0), torch.zeros(2, 3), torch.tensor([1, 2]), bos=0)
    with pytest.raises(ValueError, match=r"score_sequences: sequences must lie in 0..4, got 0..5"):
        score_sequences(markov, (models(2, 5), 0), torch.tensor([[0, 5], [1, 2]]), torch.tensor([2, 2]), bos=0)
    with pytest.raises(ValueError, match=r"score_sequences: lengths must lie in 0..3, got 1..4"):
        score_sequences(markov, (models(2, 5), 0), torch.zeros(2, 3).long(), torch.tensor([1, 4]), bos=0)
