"""Every option of beam_search against a search over Python lists, and its steps: no waiting, buffers that stay."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import randn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqops import BeamSearch, BeamSearchOutput, beam_search, gnmt_length_penalty, score_sequences

pytestmark = pytest.mark.usefixtures("cpu_path")

INF = float("inf")
B, V, T, S = 5, 6, 9, 4  # items, vocabulary, most steps, source positions
BOS, EOS = 5, 0


def tables(seed: int) -> tuple[Tensor, Tensor]:
    """A Markov model an item and step, unlike at each, and the attention [B,T,V,S] that it pays after each token."""
    log_p = torch.log_softmax(randn(B, T, V, V, seed=seed, scale=1.5), -1)
    return log_p, torch.softmax(randn(B, T, V, S, seed=seed + 1, scale=2.0), -1)


def model(tokens: Tensor, state: tuple[Tensor, Tensor, int]) -> tuple[Tensor, Any, Tensor]:
    """log_p [B,beam,T,V,V] and attention [B,beam,T,V,S] of each beam, and the step."""
    log_p, attention, t = state
    items, beams = (torch.arange(n) for n in tokens.shape)
    rows = (items[:, None], beams, t, tokens)
    return log_p[rows], (log_p, attention, t + 1), attention[rows]


def rules(sequence: list[int], row: list[float], ngram: int, penalty: float) -> list[float]:
    row = [p * penalty if v in sequence else p for v, p in enumerate(row)]
    if ngram:
        ngrams = {tuple(sequence[i : i + ngram]) for i in range(len(sequence) - ngram + 1)}
        before = sequence[len(sequence) - ngram + 1 :]
        row = [-INF if (*before, v) in ngrams else p for v, p in enumerate(row)]
    return row


def search_lists(
    log_p: list[Any],
    attention: list[Any],
    b: int,
    *,
    beam_size: Any,
    eos: set[int],
    max_length: Any,
    min_length: Any = 0,
    length_penalty: Any = 0.0,
    coverage_penalty: float = 0.0,
    source_lengths: Any = None,
    early_stopping: Any = "never",
    patience: float = 1.0,
    prefix: Any = None,
    prefix_lengths: Any = None,
    forced_tokens: Any = None,
    banned_tokens: Any = (),
    no_repeat_ngram_size: int = 0,
    repetition_penalty: float = 1.0,
    groups: int = 1,
    diversity: float = 0.0,
) -> list[tuple[float, float, list[int]]]:
    """Item b: (score, log_prob, tokens), best first."""

    def of_item(value: Any) -> Any:
        return value[b] if isinstance(value, (list, Tensor)) else value

    longest = max(max_length.tolist()) if isinstance(max_length, Tensor) else max_length
    beam, most, least = (int(of_item(v)) for v in (beam_size, max_length, min_length))
    w, widest = beam // groups, (max(beam_size) if isinstance(beam_size, list) else beam_size) // groups
    source = S if source_lengths is None else int(source_lengths[b])
    forced = {t if t >= 0 else longest + t: v for t, v in (forced_tokens or {}).items()}
    if prefix is not None:
        P = prefix.shape[1] if prefix_lengths is None else int(prefix_lengths[b])
        forced |= dict(enumerate(prefix[b, :P].tolist()))

    def divisor(length: int) -> float:
        if callable(length_penalty):
            return float(length_penalty(torch.tensor(float(length), dtype=torch.float64)))
        return float(length) ** length_penalty

    def score(log_prob: float, tokens: list[int]) -> float:
        value = log_prob / divisor(len(tokens))
        if coverage_penalty:
            fed = [BOS, *tokens[:-1]]
            sums = [sum(attention[t][v][j] for t, v in enumerate(fed)) for j in range(source)]
            value += coverage_penalty * sum(math.log(min(1.0, s)) for s in sums)
        return value

    live: list[Any] = [[(0.0, [])] for _ in range(groups)]
    pools: list[Any] = [[] for _ in range(groups)]
    counts, done = [0] * groups, [False] * groups
    for t in range(most):
        chosen = [0] * V
        for g in range(groups):
            candidates = []
            for log_prob, tokens in live[g]:
                row = rules(
                    [BOS, *tokens], log_p[t][tokens[-1] if tokens else BOS], no_repeat_ngram_size, repetition_penalty
                )
                for v, p in enumerate(row):
                    banned = v in banned_tokens or (v in eos and t < least)
                    if forced.get(t, v) == v and (t in forced or not banned) and p > -INF:
                        candidates.append((log_prob + p - diversity * chosen[v], log_prob + p, [*tokens, v]))
            candidates.sort(key=lambda c: -c[0])
            ends = [tokens[-1] in eos or t + 1 == most for _, _, tokens in candidates]
            new = [(score(p, tokens), p, tokens) for (_, p, tokens), end in zip(candidates, ends, strict=True)]
            finished = [n for n, end in zip(new[:w], ends, strict=False) if end and not done[g]]
            counts[g] += len(finished)
            pools[g] = sorted(pools[g] + finished, key=lambda h: -h[0])[:w]
            kept = (1 + len(eos)) * widest
            going = [c for c, end in zip(candidates[:kept], ends, strict=False) if not end][:w]
            live[g] = [(p, tokens) for _, p, tokens in going]
            for tokens in (tokens for _, tokens in live[g]):
                chosen[tokens[-1]] += 1
            best = max((p for p, _ in live[g]), default=-INF)
            reach = max(divisor(t + 2), divisor(most)) if early_stopping == "never" else divisor(t + 1)
            worst = pools[g][w - 1][0] if len(pools[g]) == w else -INF
            full = early_stopping is True and counts[g] >= max(1, math.ceil(patience * w))
            done[g] = done[g] or full or best / reach <= worst
    return sorted(itertools.chain(*pools), key=lambda h: -h[0])


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mean": {"length_penalty": 1.0},
    "GNMT": {"length_penalty": gnmt_length_penalty(0.8)},
    "coverage": {"coverage_penalty": 0.4, "length_penalty": 0.6},
    "coverage of a part": {"coverage_penalty": 0.7, "source_lengths": torch.tensor([4, 1, 3, 2, 4])},
    "early": {"early_stopping": True},
    "early, mean": {"early_stopping": True, "length_penalty": 1.3},
    "no heuristic": {"early_stopping": False, "length_penalty": 2.0},
    "no heuristic, negative": {"early_stopping": False, "length_penalty": -1.0},
    "patient": {"early_stopping": True, "patience": 2.0, "length_penalty": 1.0},
    "impatient": {"early_stopping": True, "patience": 0.4},
    "min length": {"min_length": 3},
    "lengths an item": {
        "min_length": torch.tensor([0, 2, 4, 1, 3]),
        "max_length": torch.tensor([1, 5, 9, 4, 7]),
        "length_penalty": 0.8,
    },
    "several ends": {"eos": [0, 3, 4]},
    "no end": {"eos": None, "pad": 1},
    "prefix": {"prefix": torch.tensor([[1, 2]] * 3 + [[3, 3], [4, 0]]), "length_penalty": 0.5},
    "prefix an item": {
        "prefix": torch.tensor([[1, 2, 3], [9, 9, 9], [4, 9, 9], [0, 9, 9], [3, 1, 9]]),
        "prefix_lengths": torch.tensor([3, 0, 1, 1, 2]),
    },
    "forced": {"forced_tokens": {0: 4, -1: 0}, "banned_tokens": [4]},
    "banned": {"banned_tokens": {1, 3}},
    "banned and least": {"banned_tokens": [2], "min_length": 4},
    "no repeats": {"no_repeat_ngram_size": 1},
    "no pair repeats": {"no_repeat_ngram_size": 2, "length_penalty": 1.0},
    "repetition": {"repetition_penalty": 1.7},
    "repetition and pairs": {"repetition_penalty": 0.6, "no_repeat_ngram_size": 3, "banned_tokens": [1]},
    "widths": {"beam_size": [1, 4, 2, 3, 4], "n_best": 1, "length_penalty": 0.7},
    "groups": {"groups": 2, "diversity": 0.0},
    "diverse": {"groups": 2, "diversity": 1.5, "length_penalty": 1.0},
    "diverse, of one beam": {"groups": 4, "diversity": 0.7, "early_stopping": True},
    "diverse, least": {
        "groups": 2, "diversity": 5.0, "min_length": torch.tensor([0, 2, 4, 1, 3]), "banned_tokens": [2],
    },
    "all": {
        "length_penalty": gnmt_length_penalty(1.2), "coverage_penalty": 0.3, "early_stopping": True, "patience": 1.5,
        "min_length": 2, "eos": [0, 1], "prefix": torch.tensor([[2]] * 5), "banned_tokens": [3],
        "no_repeat_ngram_size": 2, "repetition_penalty": 1.2,
    },
}  # fmt: skip


def searched(options: dict[str, Any], seed: int = 0) -> tuple[BeamSearchOutput, dict[str, Any], tuple[Tensor, Tensor]]:
    log_p, attention = tables(seed)
    options = {"beam_size": 4, "eos": EOS, "max_length": T, "n_best": 4} | options
    return beam_search(model, (log_p, attention, 0), batch_size=B, bos=BOS, **options), options, (log_p, attention)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_against_lists(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, as_on_gpu in ((0, False), (10, False), (20, True)):
        if as_on_gpu:
            monkeypatch.setattr(BeamSearch, "on_host", False)
        got, options, (log_p, attention) = searched(options, seed)
        n_best, pad = options["n_best"], options.get("pad", options["eos"])
        pad = pad[0] if isinstance(pad, list) else pad
        eos = options["eos"]
        plain = {n: o for n, o in options.items() if n not in ("n_best", "pad")}
        plain["eos"] = set() if eos is None else {eos} if isinstance(eos, int) else set(eos)
        for b in range(B):
            expected = search_lists(log_p[b].tolist(), attention[b].tolist(), b, **plain)
            for n in range(n_best):
                score, log_prob, tokens = expected[n] if n < len(expected) else (-INF, -INF, [])
                length = len(tokens)
                assert got.sequences[b, n].tolist() == tokens + [pad] * (got.sequences.shape[2] - length)
                assert got.lengths[b, n] == length
                assert got.scores[b, n].item() == pytest.approx(score, abs=1e-9)
                assert got.log_probs[b, n].item() == pytest.approx(log_prob, abs=1e-9)


@pytest.mark.parametrize("label", ["plain", "diverse", "widths", "all"])
def test_what_each_token_adds(label: str) -> None:
    """Token scores, the beams that they continue, and the attention paid, along each hypothesis."""
    got, options, (log_p, attention) = searched(OPTIONS[label])
    assert got.alignments is not None
    for b, n in itertools.product(range(B), range(options["n_best"])):
        length, fed = int(got.lengths[b, n]), [BOS, *got.sequences[b, n].tolist()]
        for t in range(got.sequences.shape[2]):
            if t >= length:
                assert got.token_log_probs[b, n, t] == 0
                assert got.parents[b, n, t] == -1
                assert not got.alignments[b, n, t].any()
                continue
            row = log_p[b, t, fed[t]].tolist()
            if label == "all":
                row = rules(fed[: t + 1], row, options["no_repeat_ngram_size"], options["repetition_penalty"])
            assert got.token_log_probs[b, n, t].item() == pytest.approx(row[fed[t + 1]], abs=1e-9)
            assert torch.equal(got.alignments[b, n, t], attention[b, t, fed[t]])
            assert 0 <= got.parents[b, n, t] < 4
        assert got.token_log_probs[b, n].sum().item() == pytest.approx(got.log_probs[b, n].item(), abs=1e-9)
    assert not got.parents[:, :, 0].clamp(min=0).remainder(4 // options.get("groups", 1)).any()  # beam 0 of its group


def test_processors_and_stopping_criteria_have_transformers_signature() -> None:
    seen = []

    def ban(sequences: Tensor, log_probs: Tensor) -> Tensor:
        seen.append((tuple(sequences.shape), tuple(log_probs.shape)))
        assert sequences[:, 0].eq(BOS).all()
        # What follows 1 is not 2.
        return log_probs.masked_fill((sequences[:, -1:] == 1) & (torch.arange(V) == 2), -INF)

    def stop(sequences: Tensor, scores: None) -> Tensor:
        assert scores is None
        return sequences[:, -2:].sum(1) == 7  # after 3 and 4, in any order

    got, *_ = searched({"processors": [ban], "stopping_criteria": [stop]})
    assert seen[0] == ((B * 4, 1), (B * 4, V))
    for b, n in itertools.product(range(B), range(4)):
        tokens = got.sequences[b, n, : got.lengths[b, n]].tolist()
        pairs = list(itertools.pairwise([BOS, *tokens]))
        assert (1, 2) not in pairs
        assert all(sum(p) != 7 for p in pairs[:-1])
        assert tokens[-1] == EOS or sum([BOS, *tokens][-2:]) == 7 or len(tokens) == T


def test_a_prompt_is_seen_by_processors() -> None:
    prompts = torch.tensor([[1, 2, BOS], [3, 3, BOS], [1, 1, BOS], [2, 4, BOS], [4, 3, BOS]])
    log_p, attention = tables(0)
    got = beam_search(
        model, (log_p, attention, 0), batch_size=B, beam_size=4, bos=prompts, eos=EOS, max_length=5, n_best=4,
        no_repeat_ngram_size=1,
    )  # fmt: skip
    for b in range(B):
        assert not set(prompts[b].tolist()) & set(got.sequences[b].flatten().tolist()) - {EOS}


@pytest.mark.parametrize("label", ["mean", "several ends", "all"])
def test_an_item_does_not_depend_on_its_batch(label: str) -> None:
    """Nor on items that end sooner or later."""
    got, options, (log_p, attention) = searched(OPTIONS[label])
    for b in range(B):
        own = {n: o[b : b + 1] if isinstance(o, Tensor) else o for n, o in options.items()}
        alone = beam_search(model, (log_p[b : b + 1], attention[b : b + 1], 0), batch_size=1, bos=BOS, **own)
        L = alone.sequences.shape[2]
        assert torch.equal(alone.sequences[0], got.sequences[b, :, :L])
        assert torch.equal(alone.scores[0], got.scores[b])


def test_a_wide_beam() -> None:
    """512 beams, most of them empty at first; all sequences of up to 4 tokens are found."""
    log_p, attention = tables(3)
    got = beam_search(
        model, (log_p[:2], attention[:2], 0), batch_size=2, beam_size=512, bos=BOS, eos=EOS, max_length=4, n_best=512
    )
    ending = sum(5**n for n in range(4))  # n tokens, then the end
    assert (got.lengths > 0).sum(1).tolist() == [min(512, ending + 5**4)] * 2
    rows = {tuple(s[:n].tolist()) for s, n in zip(got.sequences[0], got.lengths[0], strict=True)}
    assert len(rows) == 512
    assert (got.scores.diff() <= 0).all()
    scores, _ = score_sequences(
        model, (log_p[:2], attention[:2], 0), got.sequences[:, 400], got.lengths[:, 400], bos=BOS
    )
    torch.testing.assert_close(scores, got.scores[:, 400])


def test_pad_0_is_no_missing_pad() -> None:
    got, *_ = searched({"eos": 3, "pad": 0})
    short = got.lengths < got.sequences.shape[2]
    assert short.any()
    assert (got.sequences[short][:, -1] == 0).all()


def test_all_candidates_end() -> None:
    """Then nothing goes on, and no candidate is counted twice."""
    got, *_ = searched({"eos": list(range(V))})
    assert (got.lengths == 1).all()
    assert all(len(set(row)) == 4 for row in got.sequences[:, :, 0].tolist())


def test_an_end_ranked_between_beam_and_k_is_no_hypothesis() -> None:
    """As in transformers: only ends among the best `beam_size` candidates count."""
    log_p = torch.log(torch.tensor([0.1, 0.5, 0.4])).expand(1, 2, 3, 3).contiguous()

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return log_p[:, 0, 0].expand(1, 2, 3), state

    got = beam_search(step, None, batch_size=1, beam_size=2, bos=0, eos=0, max_length=1, n_best=2)
    assert got.sequences.tolist() == [[[1], [2]]]


class Looks(TorchDispatchMode):
    """Counts how often the host asks for a tensor's value."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal")
        self.count += func.overloadpacket.__name__ in waits
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("label", OPTIONS)
def test_a_step_does_not_wait(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU: no value is asked for, but by finished and output."""
    monkeypatch.setattr(BeamSearch, "on_host", False)
    options = {"beam_size": 4, "eos": EOS, "max_length": T, "n_best": 1, "batch_size": B, "bos": BOS} | OPTIONS[label]
    search = BeamSearch(**options)
    logits, attention = torch.randn(B, 4, V), torch.rand(B, 4, S)
    search.advance(logits, attention)
    with Looks() as looks:
        for _ in range(T - 1):
            search.advance(logits, attention)
        assert looks.count == 0
        search.finished()
        search.output()
    assert looks.count


def test_looks_are_counted_and_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with Looks() as looks:
        torch.ones(1).item()
        assert looks.count == 1
    log_p, attention = tables(0)
    asked = []
    monkeypatch.setattr(BeamSearch, "finished", lambda self: asked.append(self.steps) or False)
    beam_search(model, (log_p, attention, 0), batch_size=B, beam_size=2, bos=BOS, eos=EOS, max_length=T)
    assert asked == list(range(1, T))


def test_buffers_stay_where_they_are() -> None:
    """So that a step can be captured and replayed: only contents change, the number of the step with them."""
    search = BeamSearch(batch_size=B, beam_size=4, bos=BOS, eos=EOS, max_length=T, length_penalty=1.0)
    logits, attention = torch.randn(B, 4, V), torch.rand(B, 4, S)
    search.advance(logits, attention)
    places = [t.data_ptr() for t in search.buffers()]
    before = [t.clone() for t in search.buffers()]
    for _ in range(2):
        search.advance(logits, attention)
    assert [t.data_ptr() for t in search.buffers()] == places
    expected, rows = search.output(), search.tokens.clone()
    # A copy of the buffers is the state: set back, the steps come out the same.
    for buffer, old in zip(search.buffers(), before, strict=True):
        buffer.copy_(old)
    for _ in range(2):
        search.advance(logits, attention)
    assert torch.equal(search.tokens, rows)
    for got, want in zip(search.output(), expected, strict=True):
        assert torch.equal(got, want)


def test_a_cache_that_does_not_move() -> None:
    """`reorder` moves a table of where each beam's past lies; the cache [T,B,beam,V] stays."""
    log_p, _ = tables(7)

    def from_cache(cache: Tensor, table: Tensor, t: int) -> Tensor:
        """Sum over the past of what was written, by way of the table [B,beam,T]."""
        past = [cache[s].gather(1, table[:, :, s, None].expand(B, 4, V)) for s in range(t + 1)]
        return torch.stack(past).sum(0)

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        cache, table, t = state
        cache[t] = log_p[torch.arange(B)[:, None], t, tokens]
        table[:, :, t] = torch.arange(4)
        return from_cache(cache, table, t), (cache, table, t + 1)

    def reorder(state: Any, rows: Tensor) -> Any:
        cache, table, t = state
        return cache, table.flatten(0, 1)[rows].view_as(table), t

    def moving(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        sums, t = state
        sums = sums + log_p[torch.arange(B)[:, None], t, tokens]
        return sums, (sums, t + 1)

    options: dict[str, Any] = {"batch_size": B, "beam_size": 4, "bos": BOS, "eos": EOS, "max_length": T, "n_best": 4}
    cache = torch.full((T, B, 4, V), float("nan"), dtype=torch.float64)
    table = torch.zeros(B, 4, T, dtype=torch.int64)
    got = beam_search(step, (cache, table, 0), reorder=reorder, **options)
    expected = beam_search(moving, (torch.zeros(B, V, dtype=torch.float64), 0), **options)
    assert torch.equal(got.sequences, expected.sequences)
    torch.testing.assert_close(got.scores, expected.scores)


def test_numbers_of_numpy_count() -> None:
    usual, *_ = searched({"n_best": 3, "beam_size": 3, "eos": 1, "banned_tokens": [2], "forced_tokens": {0: 4}})
    whole = np.int64
    change = {
        "n_best": 3,
        "beam_size": whole(3),
        "eos": whole(1),
        "banned_tokens": np.array([2]),
        "forced_tokens": {0: whole(4)},
    }
    assert torch.equal(searched(change)[0].sequences, usual.sequences)
    several = {"beam_size": np.array([3] * B), "eos": np.array([1, 1])}
    assert torch.equal(searched(change | several)[0].sequences, usual.sequences)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam_size": [1, 2]}, "beam_size must be an int or 5 of them, got 2"),
        ({"beam_size": [1, 2, 0, 2, 2]}, "beam_size must be at least 1, got 0"),
        ({"groups": 3}, "groups must divide one beam_size for all, got 3 and 4"),
        ({"groups": 2, "beam_size": [2, 2, 2, 2, 4]}, "groups must divide one beam_size for all"),
        ({"early_stopping": "always"}, "early_stopping must be True, False or 'never', got 'always'"),
        ({"patience": 2.0}, "patience must be above 0, and 1 unless early_stopping is True, got 2"),
        ({"early_stopping": True, "patience": 0.0}, "patience must be above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0, got -1"),
        ({"min_length": -1}, "min_length must be at least 0, got -1"),
        ({"min_length": T + 1}, "min_length must be at most max_length, got 10"),
        ({"max_length": torch.tensor([1, 2, 3, 4, 0])}, "max_length must be at least 1, got 0"),
        ({"max_length": torch.tensor([1, 2])}, r"max_length must have shape \[5\], got \[2\]"),
        ({"prefix": torch.zeros(2, 3).long()}, r"prefix must have shape \[5, P\], got \[2, 3\]"),
        ({"forced_tokens": {T: 1}}, "forced_tokens must lie within 9 steps, got step 9"),
        ({"forced_tokens": {0: V}}, r"prefix and forced_tokens must lie in 0..5, got \[6\]"),
        ({"forced_tokens": {0: -1}}, r"prefix and forced_tokens must lie in 0..5, got \[-1\]"),
        ({"prefix": torch.full((B, 2), V)}, r"prefix and forced_tokens must lie in 0..5, got \[6\]"),
        ({"banned_tokens": [V]}, r"banned_tokens must lie in 0..5, got \[6\]"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^beam_search: " + message):
        searched({"n_best": 1} | change)


def test_bad_types_and_attention() -> None:
    with pytest.raises(TypeError, match="beam_search: length_penalty must be a number or a function, got str"):
        searched({"length_penalty": "1"})
    with pytest.raises(TypeError, match=r"beam_search: max_length must be int32 or int64, got torch.float32"):
        searched({"max_length": torch.ones(B)})
    with pytest.raises(TypeError, match=r"beam_search: prefix must be int32 or int64, got torch.float32"):
        searched({"prefix": torch.ones(B, 2)})
    with pytest.raises(TypeError, match=r"beam_search: eos must be an int or a sequence of them, got 1\.5"):
        searched({"eos": 1.5})
    with pytest.raises(TypeError, match="beam_search: beam_size must be an int or a sequence of them, got '4'"):
        searched({"beam_size": "4"})
    search = BeamSearch(batch_size=1, beam_size=2, bos=0, eos=1, max_length=1, coverage_penalty=0.5)
    with pytest.raises(ValueError, match="beam_search: a coverage_penalty needs attention from step"):
        search.advance(torch.zeros(1, 2, 3))
    search = BeamSearch(batch_size=1, beam_size=2, bos=0, eos=1, max_length=1)
    with pytest.raises(ValueError, match="beam_search: no step has been made"):
        search.output()
    search.advance(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="beam_search: all 1 steps have been made"):
        search.advance(torch.zeros(1, 2, 3))
