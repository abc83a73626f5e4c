"""Co-occurrence counts against a plain loop over the words of each sentence."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest

from seqops.embeddings import EncodedCorpus, Vocabulary, cooccurrence


def sentences(count: int, words: int, longest: int = 9, seed: int = 0) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[f"w{w}" for w in random.integers(words, size=random.integers(longest + 1))] for _ in range(count)]


def encoded(text: list[list[str]], min_count: int = 1) -> EncodedCorpus:
    return EncodedCorpus.encode(text, Vocabulary.from_corpus(text, min_count=min_count))


def plain(
    text: list[list[str]], index: dict[str, int], window: int, symmetric: bool, weighted: bool
) -> dict[tuple[int, int], float]:
    counts: Counter[tuple[int, int]] = Counter()
    for sentence in text:
        rows = [index[w] for w in sentence if w in index]
        for at, i in enumerate(rows):
            for d in range(1, min(window, at) + 1):
                j, x = rows[at - d], 1 / d if weighted else 1
                counts[i, j] += x  # type: ignore[assignment]
                if symmetric:
                    counts[j, i] += x  # type: ignore[assignment]
    return dict(counts)


@pytest.mark.parametrize("places", [1, 7, 64, 2**18])
@pytest.mark.parametrize(("window", "symmetric", "weighted"), [(1, True, True), (4, False, True), (20, True, False)])
def test_is_that_of_a_loop(
    monkeypatch: pytest.MonkeyPatch, places: int, window: int, symmetric: bool, weighted: bool
) -> None:
    """Whatever the pieces, shorter than the window too; sentences of no word and of one; words left out."""
    monkeypatch.setattr(sys.modules["seqops.embeddings.cooccurrence"], "PLACES", places)
    text = sentences(60, 11)
    corpus = encoded(text, min_count=25)
    expected = plain(text, corpus.vocabulary.index, window, symmetric, weighted)
    found = cooccurrence(corpus, window, symmetric=symmetric, weighted=weighted)
    assert (found.i.dtype, found.j.dtype, found.x.dtype) == (np.int32, np.int32, np.float32)
    assert list(zip(found.i.tolist(), found.j.tolist(), strict=True)) == sorted(expected)
    assert found.x.tolist() == pytest.approx([expected[k] for k in sorted(expected)], rel=1e-6)
    assert 1 < len(corpus.vocabulary) < 11


def test_small_corpora() -> None:
    """One word beside itself counts twice where both sides do; a window longer than the corpus."""
    assert [a.tolist() for a in cooccurrence(encoded([["a", "a"]]), 99)] == [[0], [0], [2.0]]
    assert [a.tolist() for a in cooccurrence(encoded([["b", "a"]]), 2**62, symmetric=False)] == [[0], [1], [1.0]]


def test_errors() -> None:
    corpus = encoded([["a"], ["b"]])
    with pytest.raises(ValueError, match="window must be 1 or more, got 0"):
        cooccurrence(corpus, 0)
    with pytest.raises(ValueError, match="no word of the corpus has a neighbour"):
        cooccurrence(corpus, 5)
    wide = Vocabulary({f"{n}": 1 for n in range(40)})
    wide.words = range(2**31)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="a window of 4 is too large for 2147483648 words"):
        cooccurrence(EncodedCorpus(np.zeros(5, np.int32), wide), 9)
