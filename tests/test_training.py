"""Word-vector trainers: each step against a plain loop over pairs in float64, resumption, sharding, learning."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sharded_training
import torch
import torch.multiprocessing as mp
from helpers import OTHER_DEFAULTS
from torch import Tensor

from seqops.embeddings import (
    EncodedCorpus,
    GloveOptions,
    GloveTrainer,
    Progress,
    Trainer,
    TrainingOptions,
    Vocabulary,
    WordVectors,
    evaluate_pairs,
    pairs,
    training,
)

pytestmark = pytest.mark.usefixtures("cpu_path")


def planted(groups: int = 6, size: int = 5, sentences: int = 400, length: int = 12, seed: int = 0) -> list[list[str]]:
    """Sentences of words of one group each."""
    random = np.random.default_rng(seed)
    of = random.integers(groups, size=sentences)
    return [[f"g{g}w{w}" for w in random.integers(size, size=length)] for g in of]


def encoded(text: list[list[str]]) -> EncodedCorpus:
    return EncodedCorpus.encode(text, Vocabulary.from_corpus(text, min_count=1))


OPTIONS = TrainingOptions(dim=8, window=3, epochs=1, tile=4, batch_words=8, shared_negatives=6, sample=None)
KINDS = list(itertools.product(("sg", "cbow"), ("negative", "hierarchical", "softmax")))


def plain_loss(
    trainer: Trainer, tables: dict[str, Tensor], rows: Tensor, near: Tensor, negatives: Tensor | None
) -> Tensor:
    """The loss of a batch by a loop over its pairs."""
    o, W, T = trainer.options, trainer.options.window, near.shape[1]
    total = tables["in"].new_zeros(())
    for tile in range(len(rows)):
        for t in range(T):
            word = int(rows[tile, W + t])
            contexts = [int(rows[tile, t + s]) for s in range(2 * W + 1) if near[tile, t, s]]
            if o.model == "cbow":
                pairs = [(tables["in"][contexts].mean(0), word)] if contexts else []
            elif o.loss == "hierarchical":
                pairs = [(tables["in"][c], word) for c in contexts]
            else:
                pairs = [(tables["in"][word], c) for c in contexts]
            for u, target in pairs:
                scores = tables["out"] @ u
                if o.loss == "softmax":
                    total = total + scores.logsumexp(0) - scores[target]
                elif o.loss == "hierarchical":
                    tree = trainer._tree
                    path = slice(int(tree.offsets[target]), int(tree.offsets[target + 1]))
                    s = scores[tree.nodes[path].long()] * tree.signs[path]
                    total = total - torch.nn.functional.logsigmoid(s).sum()
                else:
                    assert negatives is not None
                    others = scores[[n for n in negatives[tile].tolist() if n != target]]
                    share = o.negative / o.shared_negatives
                    total = total - torch.nn.functional.logsigmoid(scores[target])
                    total = total - share * torch.nn.functional.logsigmoid(-others).sum()
    return total


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd", "clipped sgd"])
@pytest.mark.parametrize(("model", "loss"), KINDS)
def test_a_step_is_that_of_autograd(model: str, loss: str, optimizer: str) -> None:
    """Tables and states after a step, where words are there many times, as contexts, as words and as negatives."""
    o = dataclasses.replace(OPTIONS, model=model, loss=loss, optimizer=optimizer.split()[-1])
    if "clipped" in optimizer:
        o = dataclasses.replace(o, clip=0.05)
    trainer = Trainer(encoded(planted(groups=2, size=3, sentences=3, length=7)), o)
    generator = torch.Generator().manual_seed(5)
    for name in trainer.tables:
        trainer.tables[name] = torch.randn(trainer.tables[name].shape, generator=generator)
        if name in trainer.states:
            trainer.states[name].copy_(torch.rand(len(trainer.states[name]), generator=generator))
    block = trainer.corpus.block(0, window=3, keep=None, seed=0, epoch=0)
    windows = training._Windows(block.rows, block.sentence, block.reach, trainer._tile_words, 3, "cpu")
    rows, near = windows.rows[[0, 2]], windows.near[[0, 2]]
    tables = {n: t.double().requires_grad_() for n, t in trainer.tables.items()}
    negatives = trainer._negatives(77, 3, 2) if loss == "negative" else None
    expected_loss = plain_loss(trainer, tables, rows, near, negatives)
    grads = torch.autograd.grad(expected_loss, list(tables.values()))
    before = {n: t.clone() for n, t in trainer.states.items()}
    result = trainer._step(rows, near, negatives, 0.1, True)
    assert result is not None
    assert float(result[0]) == pytest.approx(float(expected_loss.detach()), rel=1e-5)
    for (name, table), grad in zip(tables.items(), grads, strict=True):
        if o.optimizer == "adagrad":
            state = before[name].double() + grad.square().mean(1)
            torch.testing.assert_close(trainer.states[name].double(), state, rtol=1e-5, atol=1e-6)
            change = grad / (state.sqrt() + 1e-10)[:, None]
        else:
            norm = grad.norm(dim=1, keepdim=True)
            change = grad if o.clip is None else grad * (o.clip / norm.clamp(min=o.clip))
            assert o.clip is None or bool((norm > o.clip).any())
        torch.testing.assert_close(trainer.tables[name].double(), table - 0.1 * change, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tile", [1, 3, 7, 50])
def test_windows_are_the_pairs_of_the_corpus(tile: int) -> None:
    corpus = encoded(planted(sentences=9, length=4))
    block = corpus.block(0, window=3, keep=None, seed=3, epoch=0)
    windows = training._Windows(block.rows, block.sentence, block.reach, tile, 3, "cpu")
    expected = [(block.rows[i], block.rows[j]) for c, d in pairs(block, 3) for i, j in zip(c, d, strict=True)]
    got = [(int(windows.rows[n, 3 + t]), int(windows.rows[n, t + s])) for n, t, s in windows.near.nonzero().tolist()]
    assert got == expected


@pytest.mark.parametrize(("model", "loss"), KINDS)
def test_learns_what_was_planted(model: str, loss: str) -> None:
    """The nearest words are those of the same group; the loss falls."""
    text = planted()
    o = TrainingOptions(model=model, loss=loss, dim=16, window=4, epochs=6, sample=None)
    vectors = Trainer(encoded(text), o).run()
    right = [w[:2] == v[:2] for w in vectors.words for v, _ in vectors.nearest(w, 4)]
    assert np.mean(right) > 0.95  # by chance 4 in 29


def test_a_large_batch_stays_finite() -> None:
    """All of the corpus in one step, a row many times in it: V = 2, fewer words than negatives."""
    text = [["a", "b"] * 50] * 20
    for optimizer, clip in (("adagrad", None), ("sgd", 1.0)):
        o = TrainingOptions(dim=4, epochs=3, batch_words=10**6, sample=None, optimizer=optimizer, clip=clip)
        trainer = Trainer(encoded(text), o)
        vectors = trainer.run()
        assert vectors.vectors.isfinite().all()
        assert vectors.vectors.norm(dim=1).max() < 10
        # No more is drawn than the corpus needs.
        assert trainer._drawn is not None
        assert trainer._drawn[2].shape[1] == -(-len(trainer.corpus) // o.tile)


def interrupted(trainer: Trainer, after: int, **arguments: Any) -> None:
    steps = 0
    original: Callable[..., Any] = trainer._step

    def step(*given: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > after:
            raise KeyboardInterrupt
        return original(*given)

    trainer._step = step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run(**arguments)


@pytest.mark.parametrize(
    ("model", "loss", "optimizer"), [("sg", "negative", "adagrad"), ("cbow", "hierarchical", "sgd")]
)
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    model: str, loss: str, optimizer: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "DRAWS", 1536)  # those of 3 steps: training ends, and goes on, inside such a group
    corpus = encoded(planted(sentences=60))
    o = TrainingOptions(
        model=model, loss=loss, optimizer=optimizer, dim=8, epochs=3, batch_words=64, tile=8, sample=0.05
    )
    path = tmp_path / "checkpoint.pt"
    expected = Trainer(corpus, o).run()
    interrupted(Trainer(corpus, o), 4, checkpoint=path, checkpoint_every=0.0)
    interrupted(Trainer(corpus, o), 9, checkpoint=path, checkpoint_every=0.0)
    again = Trainer(corpus, o)
    got = again.run(checkpoint=path)
    assert torch.equal(got.vectors, expected.vectors)
    # A training that has ended is not done again.
    interrupted_never = Trainer(corpus, o)
    assert torch.equal(interrupted_never.run(checkpoint=path).vectors, expected.vectors)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_that_does_not_fit(tmp_path: pathlib.Path) -> None:
    corpus, o = encoded(planted(sentences=5)), TrainingOptions(dim=4, epochs=1)
    path = tmp_path / "checkpoint.pt"
    Trainer(corpus, o).run(checkpoint=path)
    with pytest.raises(ValueError, match=r"of other options: epochs 1, not 2"):
        Trainer(corpus, dataclasses.replace(o, epochs=2)).run(checkpoint=path)
    with pytest.raises(ValueError, match="of another corpus"):
        Trainer(encoded(planted(sentences=6)), o).run(checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="no checkpoint of a training, or a broken one"):
        Trainer(corpus, o).run(checkpoint=path)
    with pytest.raises(FileNotFoundError):
        Trainer(corpus, o).run(checkpoint=tmp_path / "nowhere" / "c.pt")


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(clock)))
    told: list[Progress] = []
    Trainer(encoded(planted()), TrainingOptions(dim=8, epochs=4, batch_words=256)).run(told.append)
    assert all(a.done < b.done <= 1 for a, b in itertools.pairwise(told))
    assert all(a.lr > b.lr for a, b in itertools.pairwise(told))
    assert told[0].loss == pytest.approx((1 + 5) * math.log(2), rel=0.2)  # all scores begin at 0
    assert told[-1].loss < told[0].loss
    assert all(p.words_per_second > 0 for p in told)


def test_the_same_seed_gives_the_same_vectors() -> None:
    corpus, o = encoded(planted(sentences=20)), TrainingOptions(dim=4, epochs=1)
    first, again = (Trainer(corpus, o).run().vectors for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, Trainer(corpus, dataclasses.replace(o, seed=2)).run().vectors)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "glove"}, "model must be one of sg, cbow, got 'glove'"),
        ({"loss": "x"}, "loss must be one of"),
        ({"optimizer": "adam"}, "optimizer must be one of"),
        ({"dim": 0}, "dim must be 1 or more, got 0"),
        ({"window": 256}, "window must be 255 at most"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"clip": 0.0, "optimizer": "sgd"}, "clip must be above 0"),
        ({"clip": 1.0}, "clip is for sgd"),
        ({"sample": -1.0}, "sample must be 0 or more"),
        ({"accumulator": -1.0}, "accumulator must be 0 or more, got -1.0"),
        ({"accumulator": math.nan}, "accumulator must be 0 or more, got nan"),
    ],
)
def test_options_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**wrong)


def test_where_the_sums_of_adagrad_begin_and_the_rate() -> None:
    corpus = encoded(planted(sentences=5))
    for o, begin, rate in (
        (TrainingOptions(dim=4), 0.0, 0.2),
        (TrainingOptions(dim=4, loss="hierarchical"), 10.0, 0.4),
        (TrainingOptions(dim=4, loss="hierarchical", lr=0.3), 10.0, 0.3),
        (TrainingOptions(dim=4, loss="hierarchical", model="cbow"), 0.0, 0.2),
        (TrainingOptions(dim=4, loss="hierarchical", accumulator=0.5), 0.5, 0.2),
    ):
        trainer = Trainer(corpus, o)
        assert [state.unique().tolist() for state in trainer.states.values()] == [[begin]] * 2
        assert trainer.options.first_rate == rate
    assert TrainingOptions(loss="hierarchical", optimizer="sgd").first_rate == 0.025


def test_a_vocabulary_of_one_word() -> None:
    corpus = encoded([["a", "a", "a"]])
    assert Trainer(corpus, TrainingOptions(dim=2)).run().vectors.isfinite().all()
    with pytest.raises(ValueError, match="needs 2 words or more"):
        Trainer(corpus, TrainingOptions(loss="hierarchical"))


def test_two_processes_with_half_the_columns_each(tmp_path: pathlib.Path) -> None:
    """As one process, to rounding; what they save, one process takes up."""
    text = planted(sentences=30)
    o = dataclasses.replace(OPTIONS, batch_words=64, tile=8, epochs=2)
    kinds = [dataclasses.replace(o, model=model, loss=loss) for model, loss in KINDS]
    kinds += [dataclasses.replace(o, optimizer="sgd", clip=0.5, lr=1.0)]
    mp.spawn(sharded_training.train, args=(str(tmp_path / "meeting"), text, kinds, str(tmp_path)), nprocs=2)
    for number, kind in enumerate(kinds):
        expected = Trainer(encoded(text), kind).run().vectors
        got = torch.load(tmp_path / f"{number}.pt")
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(got, Trainer(encoded(text), kind).vectors().vectors, atol=1e-2)
        taken_up = Trainer(encoded(text), kind).run(checkpoint=tmp_path / f"{number}.checkpoint")
        assert torch.equal(taken_up.vectors, got)


def test_columns_that_processes_cannot_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.dist, "get_world_size", lambda group: 3)
    monkeypatch.setattr(training.dist, "get_rank", lambda group: 0)
    with pytest.raises(ValueError, match="dim must be divisible by the 3 processes, got 8"):
        Trainer(encoded(planted(sentences=5)), OPTIONS, group=object())  # type: ignore[arg-type]


def test_beside_gensim_on_its_corpus() -> None:
    """300 news articles that gensim ships are too few for good vectors; ours know at least what gensim's know."""
    gensim = pytest.importorskip("gensim.models")
    from gensim.test.utils import datapath

    path = datapath("lee_background.cor")
    known = Vocabulary.from_corpus(path, lowercase=True)
    corpus = EncodedCorpus.encode(path, known, lowercase=True)
    ours = Trainer(corpus, TrainingOptions(dim=50)).run()
    sentences = [line.lower().split() for line in pathlib.Path(path).read_text().splitlines()]
    model = gensim.Word2Vec(sentences, vector_size=50, sg=1, min_count=5, workers=1, seed=1)
    theirs = WordVectors(model.wv.index_to_key, model.wv.vectors)
    assert set(ours.words) == set(theirs.words)
    rho = [evaluate_pairs(v, datapath("wordsim353.tsv")).spearman for v in (ours, theirs)]
    assert rho[0] > max(0.1, rho[1])


@pytest.mark.parametrize("kind", [*map(" ".join, KINDS), "glove"])
def test_other_defaults_change_nothing(kind: str) -> None:
    corpus = encoded(planted(sentences=20))

    def results() -> tuple[Tensor, list[list[tuple[str, float]]]]:
        if kind == "glove":
            vectors = GloveTrainer(corpus, GloveOptions(dim=8, epochs=1)).run()
        else:
            model, loss = kind.split()
            vectors = Trainer(corpus, dataclasses.replace(OPTIONS, model=model, loss=loss)).run()
        a, b, c = vectors.words[:3]
        return vectors.vectors, [vectors.nearest(a), vectors.nearest(vectors[a]), vectors.analogy(a, b, c)]

    trained, answers = results()
    for other in OTHER_DEFAULTS:
        with other():
            got, same = results()
        assert torch.equal(got, trained)
        assert same == answers
