"""The words of a corpus with their counts, gathered in one pass over files of any size."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np

from ._files import StrPath, read_pieces

__all__ = ["Corpus", "Vocabulary", "read_words"]

# Files of text, or sentences that are lists of words.
Corpus = StrPath | Sequence[StrPath] | Iterable[Sequence[str]]

# Ends a sentence where words are read; no word of a text can be it, for words have no white space in them.
END = "\n"
_MARK = " \0 "


def _split(corpus: Corpus) -> tuple[list[StrPath], Iterable[Sequence[str]]]:
    """The files of a corpus, or its sentences."""
    if isinstance(corpus, (str, os.PathLike)):
        return [corpus], []
    if isinstance(corpus, (list, tuple)) and all(isinstance(c, (str, os.PathLike)) for c in corpus):
        return list(corpus), []
    return [], cast("Iterable[Sequence[str]]", corpus)


def read_words(corpus: Corpus, *, encoding: str = "utf-8", lowercase: bool = False) -> Iterator[list[str]]:
    """The corpus's words, some millions at a time; `END` stands behind each line or sentence.

    A file is read in pieces, so neither it nor a line of it has to fit in memory. Words are what white space parts.

    Raises:
        OSError: a file cannot be read. ValueError: its bytes are not of this encoding.
    """
    paths, sentences = _split(corpus)
    words: list[str] = []
    for sentence in sentences:
        if isinstance(sentence, str):
            raise TypeError("corpus: a sentence must be a list of words, got a str")
        words.extend(w.lower() for w in sentence) if lowercase else words.extend(sentence)
        words.append(END)
        if len(words) > 2**20:
            yield words
            words = []
    if words:
        yield words
    for path in paths:
        for text in read_pieces(path, encoding):
            text = text.lower() if lowercase else text
            yield [END if w == "\0" else w for w in text.replace(END, _MARK).split()] if "\n" in text else text.split()
        yield [END]


class Vocabulary:
    """Words, the most frequent first, and how often each occurs.

    Args:
        counts: how often each word occurs.
        min_count: rarer words are left out.
        max_size: only the most frequent words are kept, this many.
        raw_words: words of the corpus, those left out too; by default the sum of all counts.

    Attributes:
        words: list of str; ties of counts are in the order of the words. counts: int64 [V]. index: word -> row.

    Raises:
        ValueError: no word is left. TypeError: a word is no str.
    """

    def __init__(
        self, counts: dict[str, int], *, min_count: int = 1, max_size: int | None = None, raw_words: int | None = None
    ) -> None:
        if min_count < 1 or (max_size is not None and max_size < 1):
            raise ValueError(f"Vocabulary: min_count and max_size must be 1 or more, got {min_count} and {max_size}")
        other = next((w for w in counts if not isinstance(w, str)), None)
        if other is not None:
            raise TypeError(f"Vocabulary: words must be str, got {other!r}")
        kept = sorted((w for w, c in counts.items() if c >= min_count), key=lambda w: (-counts[w], w))[:max_size]
        if not kept:
            raise ValueError(f"Vocabulary: none of {len(counts)} different words occurs {min_count} times")
        self.words: list[str] = kept
        self.counts = np.array([counts[w] for w in kept], np.int64)
        self.index = {w: i for i, w in enumerate(kept)}
        self.raw_words = sum(counts.values()) if raw_words is None else raw_words

    @classmethod
    def from_corpus(
        cls,
        corpus: Corpus,
        *,
        min_count: int = 5,
        max_size: int | None = None,
        lowercase: bool = False,
        encoding: str = "utf-8",
        prune_at: int = 50_000_000,
    ) -> Vocabulary:
        """Counts the words of files or of sentences, in one pass.

        Args:
            corpus: a path, a list of paths (.gz too), or an iterable of lists of words.
            min_count, max_size: as in Vocabulary.
            lowercase: count words in lower case.
            encoding: of the files.
            prune_at: once this many different words are known, the rarest are forgotten; what they had is lost, so
                counts of rare words are then too low. Bounds the memory.

        Raises:
            OSError: a file cannot be read. ValueError: wrong encoding, or no word is left. TypeError: a word is no str.

        Source: Mikolov et al. 2013, arXiv:1301.3781, and its word2vec.c.
        """
        counts: Counter[str] = Counter()
        raw, floor = 0, 1
        for words in read_words(corpus, encoding=encoding, lowercase=lowercase):
            counts.update(words)
            raw += len(words) - counts.pop(END, 0)
            while len(counts) > prune_at:
                floor += 1
                counts = Counter({w: c for w, c in counts.items() if c >= floor})
        if not raw:
            raise ValueError("Vocabulary: the corpus has no words")
        return cls(counts, min_count=min_count, max_size=max_size, raw_words=raw)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    def keep_probability(self, sample: float | None) -> np.ndarray:
        """fp32 [V]: with which probability an occurrence of a word stays, (sqrt(f / t) + 1) * t / f, at most 1.

        f is the word's share of all that are in the vocabulary, t is `sample`; None or 0 keeps all.

        Source: word2vec.c; the paper's formula, arXiv:1310.4546, is another.
        """
        if sample is not None and not 0 <= sample < np.inf:
            raise ValueError(f"Vocabulary: sample must be 0 or more, got {sample}")
        if not sample:
            return np.ones(len(self), np.float32)
        ratio = self.counts / (sample * self.counts.sum())
        return np.minimum(1, (np.sqrt(ratio) + 1) / ratio).astype(np.float32)
