"""Exact search against all sequences there are."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from seqops import beam_search, exact_search, gnmt_length_penalty, score_sequences

pytestmark = pytest.mark.usefixtures("cpu_path")

B, V, L, BOS, EOS = 3, 4, 5, 2, 0


def model(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Logits of the next token by step and last token [B,L,V,V]."""
    return (torch.randn(B, L, V, V, generator=torch.Generator().manual_seed(seed)).double() * 2).to(dtype)


def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The sums are a tensor that moves with a prefix; the number of the step is none."""
    table, sums, t = state["table"], state["sums"], state["t"]
    items, beams = torch.arange(tokens.shape[0])[:, None], torch.arange(tokens.shape[1])
    return table[items, beams, t, tokens] + sums, {"table": table, "sums": sums + tokens[:, :, None] / 7, "t": t + 1}


def start(table: Tensor) -> dict[str, Any]:
    return {"table": table, "sums": torch.zeros(B, V, dtype=table.dtype) + torch.arange(V) / 9, "t": 0}


def every(ends: set[int]) -> list[tuple[int, ...]]:
    """All sequences: with an end at the last place only, or without one where they are the longest."""
    words = (s for n in range(1, L + 1) for s in itertools.product(range(V), repeat=n))
    return [s for s in words if not set(s[:-1]) & ends and (s[-1] in ends or len(s) == L)]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -0.7, gnmt_length_penalty(0.8)])
@pytest.mark.parametrize("eos", [EOS, [0, 3]])
@pytest.mark.parametrize("width", [1, 5])
def test_finds_the_best_of_all(penalty: Any, eos: Any, width: int) -> None:
    table = model(1)
    common: dict[str, Any] = {"batch_size": B, "bos": BOS, "eos": eos, "max_length": L, "length_penalty": penalty}
    got = exact_search(step, start(table), width=width, **common)
    sequences = every({eos} if isinstance(eos, int) else set(eos))
    scores = []
    for s in sequences:
        rows = torch.tensor([s]).expand(B, -1)
        lengths = torch.full((B,), len(s))
        scores.append(score_sequences(step, start(table), rows, lengths, bos=BOS, length_penalty=penalty)[0])
    best, which = torch.stack(scores).max(0)
    torch.testing.assert_close(got.scores, best)
    assert got.complete.all()
    for b in range(B):
        assert tuple(got.sequences[b, : got.lengths[b]].tolist()) == sequences[int(which[b])]
        assert (got.sequences[b, got.lengths[b] :] == EOS).all()


def test_a_beams_result_bounds_the_search() -> None:
    missed, saved = 0, 0
    for seed in range(8):
        table = model(seed, torch.float32)
        common: dict[str, Any] = {"batch_size": B, "bos": BOS, "eos": EOS, "max_length": L}
        found = beam_search(step, start(table), beam_size=1, **common)
        alone, bounded = (exact_search(step, start(table), found=f, **common) for f in (None, found))
        torch.testing.assert_close(alone.scores, bounded.scores)
        assert torch.equal(alone.lengths, bounded.lengths)
        assert (bounded.nodes <= alone.nodes).all()
        saved += int((alone.nodes - bounded.nodes).sum())
        wide = beam_search(step, start(table), beam_size=V**L, **common)
        torch.testing.assert_close(wide.scores[:, 0], bounded.scores)
        better = bounded.scores > found.scores[:, 0]
        same = (bounded.sequences[:, :1] == found.sequences[:, 0, :1]).all(1) & (bounded.lengths == found.lengths[:, 0])
        # Where the search has missed nothing the beam's own result comes back, with its very score.
        assert torch.equal(bounded.scores[~better], found.scores[~better, 0])
        assert same[~better].all()
        missed += int(better.sum())
    assert missed
    assert saved


def test_nodes_run_out() -> None:
    common: dict[str, Any] = {"batch_size": B, "bos": BOS, "eos": EOS, "max_length": L}
    got = exact_search(step, start(model(2)), max_nodes=2, **common)
    assert (got.nodes <= 2).all()
    assert (got.complete == (got.nodes < 2)).all()
    assert not got.complete.all()
    enough = exact_search(
        step, start(model(2)), max_nodes=int(exact_search(step, start(model(2)), **common).nodes.max()), **common
    )
    assert enough.complete.all()


def test_nothing_is_possible() -> None:
    def never(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return torch.full((*tokens.shape, V), float("-inf")), state

    got = exact_search(never, None, batch_size=2, bos=0, eos=1, max_length=3)
    assert got.lengths.tolist() == [0, 0]
    assert (got.scores == float("-inf")).all()
    assert got.sequences.shape == (2, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"max_nodes": 0}, "max_nodes must be at least 1, got 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"eos": V}, r"eos must lie in 0..3, got \[4\]"),
        ({"state": torch.zeros(2)}, r"state's tensors must have shape \[3, ...\], got \[2\]"),
        (
            {"step": lambda tokens, s: (torch.full((*tokens.shape, V), float("nan")), s)},
            "step's logits must be numbers",
        ),
        ({"step": lambda tokens, s: (torch.zeros(1, 1, V), s)}, "step's logits must have shape"),
        (
            {"step": lambda tokens, s: (torch.zeros(*tokens.shape, V), torch.zeros(1, 1))},
            "step's state must have shape",
        ),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"step": step, "state": start(model(0)), "batch_size": B, "bos": BOS, "eos": EOS}
    with pytest.raises(ValueError, match="^exact_search: " + message):
        exact_search(**(arguments | {"max_length": L} | change))
