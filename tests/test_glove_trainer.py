"""GloVe's trainer: a step against autograd's gradient of the op's loss, resumption, what it learns."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from test_training import encoded, planted

from seqops.embeddings import GloveOptions, GloveTrainer, Progress, glove
from seqops.functional import glove_loss

pytestmark = pytest.mark.usefixtures("cpu_path")

OPTIONS = GloveOptions(dim=6, window=3, epochs=3, batch_pairs=50, x_max=20, lr=0.1)


def test_a_step_is_that_of_autograd() -> None:
    """Rows that occur many times change once; rows that do not occur stay as they are."""
    trainer = GloveTrainer(encoded(planted(groups=2, size=4, sentences=20)), OPTIONS)
    chosen = np.array([3, 0, 1, 3, 5, 4, 4])
    own = {"in": ([*range(7)], 7), "out": ([*range(6), 7], 6)}  # columns of vector and bias; the column of 1
    assert all(bool((trainer.tables[n][:, one] == 1).all()) for n, (_, one) in own.items())
    mine = {n: t.double()[:, own[n][0]] for n, t in trainer.tables.items()}
    parts = [t[:, s].clone().requires_grad_() for s in (slice(-1), -1) for t in mine.values()]
    i, j, x = (torch.from_numpy(a[chosen]) for a in trainer.counts)
    loss = glove_loss(*parts, i, j, x, x_max=20, reduction="sum") / 2
    gradients = torch.autograd.grad(loss, parts)
    before = {n: t.clone() for n, t in trainer.tables.items()}
    assert float(trainer._step(chosen)) == pytest.approx(float(loss.detach()) / 7, rel=1e-5)
    for at, (name, used) in enumerate((("in", i), ("out", j))):
        gradient = torch.cat([gradients[at], gradients[at + 2][:, None]], 1)
        state, columns = 1 + gradient.square(), own[name][0]
        torch.testing.assert_close(trainer.states[name][:, columns].double(), state, rtol=1e-5, atol=1e-6)
        rate = torch.tensor([0.1] * 6 + [1.0])  # of the bias 1, as in glove.c
        expected = mine[name] - rate * gradient / state.sqrt()
        torch.testing.assert_close(trainer.tables[name][:, columns].double(), expected, rtol=1e-5, atol=1e-6)
        assert bool((trainer.tables[name][:, own[name][1]] == 1).all())
        others = torch.tensor([r for r in range(8) if r not in used])
        assert len(others)
        assert torch.equal(trainer.tables[name][others], before[name][others])


def test_words_of_a_group_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss falls, progress rises, and the words nearest to each are of its group."""
    clock = itertools.count()
    monkeypatch.setattr(glove.time, "monotonic", lambda: float(next(clock)))
    told: list[Progress] = []
    vectors = GloveTrainer(encoded(planted()), dataclasses.replace(OPTIONS, epochs=30)).run(told.append)
    assert all(a.done < b.done <= 1 for a, b in itertools.pairwise(told))
    assert told[-1].loss < told[0].loss / 4
    assert all(p.words_per_second > 0 for p in told)
    right = [other[:2] == word[:2] for word in vectors.words for other, _ in vectors.nearest(word, 4)]
    assert np.mean(right) > 0.9


def test_the_defaults_learn_a_small_corpus() -> None:
    """As the other trainers do; the defaults but for size and passes."""
    corpus = encoded(planted())
    vectors = GloveTrainer(corpus, GloveOptions(dim=16, epochs=5)).run()
    right = [other[:2] == word[:2] for word in vectors.words for other, _ in vectors.nearest(word, 4)]
    assert np.mean(right) > 0.95
    slow = GloveTrainer(corpus, GloveOptions(dim=16, epochs=5, lr=0.003)).run()
    right = [other[:2] == word[:2] for word in slow.words for other, _ in slow.nearest(word, 4)]
    assert np.mean(right) < 0.5, "learnt by any training: the test says nothing"


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: pathlib.Path) -> None:
    corpus, path = encoded(planted(sentences=30)), tmp_path / "checkpoint.pt"
    whole = GloveTrainer(corpus, OPTIONS).run().vectors
    trainer = GloveTrainer(corpus, OPTIONS)
    step, done = trainer._step, itertools.count()

    def interrupted(chosen: np.ndarray) -> torch.Tensor:
        if next(done) == 7:
            raise KeyboardInterrupt
        return step(chosen)

    trainer._step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run(checkpoint=path, checkpoint_every=0)
    resumed = GloveTrainer(corpus, OPTIONS)
    assert torch.equal(resumed.run(checkpoint=path).vectors, whole)
    resumed.load(path)
    assert resumed.position == (3, 0)
    with pytest.raises(ValueError, match="of other options: epochs 3, not 4"):
        GloveTrainer(corpus, dataclasses.replace(OPTIONS, epochs=4)).run(checkpoint=path)
    with pytest.raises(ValueError, match="of another corpus"):
        GloveTrainer(encoded(planted(sentences=31)), OPTIONS).run(checkpoint=path)
    assert not torch.equal(GloveTrainer(corpus, dataclasses.replace(OPTIONS, seed=2)).run().vectors, whole)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 0}, "dim must be 1 or more, got 0"),
        ({"batch_pairs": 0}, "batch_pairs must be 1 or more"),
        ({"x_max": 0.0}, "x_max must be above 0, got 0.0"),
        ({"lr": float("nan")}, "lr must be above 0, got nan"),
        ({"alpha": -1.0}, "alpha must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_options_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GloveOptions(**wrong)


def test_a_corpus_without_pairs() -> None:
    with pytest.raises(ValueError, match="no word of the corpus has a neighbour"):
        GloveTrainer(encoded([["a"], ["b"]]), OPTIONS)
