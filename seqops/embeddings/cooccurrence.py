"""How often words stand near one another, counted over a corpus of any length: what GloVe is trained on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .corpus import EncodedCorpus

__all__ = ["Cooccurrence", "cooccurrence"]

PLACES = 2**18  # of the corpus, that are counted at once


class Cooccurrence(NamedTuple):
    """Pairs of words that occur: i, j int32 [N], in the order of i, then of j, each once; x fp32 [N], above 0."""

    i: np.ndarray
    j: np.ndarray
    x: np.ndarray


def cooccurrence(
    corpus: EncodedCorpus, window: int = 10, *, symmetric: bool = True, weighted: bool = True
) -> Cooccurrence:
    """Counts the pairs of words that stand at most `window` places apart in a sentence.

    x[i, j] = sum over the places where word j stands d places before word i, 1 <= d <= window, of 1 / d

    Sums are fp64 until the end. The corpus is read in pieces: the memory grows with the different pairs, not with the
    corpus's length. Words outside the vocabulary take no place.

    Args:
        corpus: from `EncodedCorpus.encode`.
        window: 1 or more.
        symmetric: j counts before and behind i, so that x[i, j] = x[j, i].
        weighted: False: each occurrence counts 1 instead of 1 / d.

    Raises:
        ValueError: window is below 1, or so large that V^2 * window passes 2^63; no word has a neighbour.

    Source: Pennington, Socher and Manning 2014, doi:10.3115/v1/D14-1162, and their program's cooccur.c.
    """
    if window < 1:
        raise ValueError(f"cooccurrence: window must be 1 or more, got {window}")
    V = len(corpus.vocabulary)
    window = min(window, max(1, len(corpus) - 1))
    if V * V * window >= 2**63:
        raise ValueError(f"cooccurrence: a window of {window} is too large for {V} words")
    runs: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(corpus), PLACES):
        runs.append(
            _count(corpus.ids[max(0, start - window) : start + PLACES], min(start, window), window, V, weighted)
        )
        # As in a binary counter, a run meets one of about its size: each pair is merged log(pieces) times at most.
        while len(runs) > 1 and len(runs[-2][0]) <= 2 * len(runs[-1][0]):
            runs.append(_merge(runs.pop(), runs.pop()))
    while len(runs) > 1:
        runs.append(_merge(runs.pop(), runs.pop()))
    key, x = runs[0] if runs else (np.empty(0, np.int64), np.empty(0))
    if not len(key):
        raise ValueError("cooccurrence: no word of the corpus has a neighbour")
    if symmetric:
        i, j = np.divmod(key, V)
        order = np.argsort(j * V + i)
        key, x = _merge((key, x), ((j * V + i)[order], x[order]))
    i, j = np.divmod(key, V)
    return Cooccurrence(i.astype(np.int32), j.astype(np.int32), x.astype(np.float32))


def _count(ids: np.ndarray, first: int, window: int, V: int, weighted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys i * V + j and their counts, of the places from `first` on with those before them."""
    sentence = np.cumsum(ids < 0)
    rows = ids.astype(np.int64)
    parts = []
    for d in range(1, min(window, len(ids) - 1) + 1):
        begin = max(first, d)
        i, j = rows[begin:], rows[begin - d : len(rows) - d]
        near = (sentence[begin:] == sentence[begin - d : len(rows) - d]) & (i >= 0) & (j >= 0)
        parts.append((i[near] * V + j[near]) * window + (d - 1))
    keys = np.sort(np.concatenate([np.empty(0, np.int64), *parts]))
    key, distance = np.divmod(keys, window)
    return _sum(key, np.reciprocal(distance + 1.0) if weighted else np.ones(len(keys)))


def _merge(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    key = np.concatenate([a[0], b[0]])
    order = np.argsort(key, kind="stable")  # of two sorted runs: a merge
    return _sum(key[order], np.concatenate([a[1], b[1]])[order])


def _sum(key: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal keys, which are neighbours, become one."""
    if not len(key):
        return key, x
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    return key[starts], np.add.reduceat(x, starts)
