"""A corpus as row numbers, and what is made of it anew in each epoch: subsampled words and their windows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from ._files import StrPath
from .vocabulary import END, Corpus, Vocabulary, read_words

__all__ = ["Block", "EncodedCorpus", "pairs"]

SENTENCE_END = -1
_UNKNOWN = -2
# Places of a block, and of a piece of it.
BLOCK, PIECE = 2**22, 2**16


@dataclass(frozen=True)
class Block:
    """Words that follow one another, subsampled: row [N] int32, sentence [N] int32, reach [N] uint8.

    The contexts of word i are the words j != i of its sentence with |i - j| <= reach[i].
    """

    rows: np.ndarray
    sentence: np.ndarray
    reach: np.ndarray


class EncodedCorpus:
    """A corpus as int32 row numbers of a vocabulary, -1 behind each sentence, words outside the vocabulary left out.

    Args:
        ids: int32 [N], in memory or mapped.
        vocabulary: what they count into.
    """

    def __init__(self, ids: np.ndarray, vocabulary: Vocabulary) -> None:
        if ids.dtype != np.int32 or ids.ndim != 1:
            raise TypeError(f"EncodedCorpus: ids must be int32 [N], got {ids.dtype} of {ids.ndim} dimensions")
        self.ids, self.vocabulary = ids, vocabulary

    @classmethod
    def encode(
        cls,
        corpus: Corpus,
        vocabulary: Vocabulary,
        *,
        lowercase: bool = False,
        encoding: str = "utf-8",
        folder: StrPath | None = None,
    ) -> EncodedCorpus:
        """Looks up each word; the numbers go to an unnamed file in `folder`, or where temporary files go, mapped in.

        Raises:
            OSError: a file cannot be read or written. ValueError: wrong encoding, or no word of it is known.
        """
        index = {**vocabulary.index, END: SENTENCE_END}
        read = known = 0
        with tempfile.TemporaryFile(dir=folder) as file:
            for words in read_words(corpus, encoding=encoding, lowercase=lowercase):
                ids = np.fromiter(map(index.get, words, repeat(_UNKNOWN)), np.int32, len(words))
                ids = ids[ids != _UNKNOWN]
                read += len(words)
                known += int(np.count_nonzero(ids >= 0))
                file.write(ids.tobytes())
            if not read:
                raise ValueError("EncodedCorpus: the corpus has no sentences; an iterator has them only once")
            if not known:
                raise ValueError("EncodedCorpus: no word of the corpus is in the vocabulary")
            file.flush()
            # The mapping keeps the file's contents alive.
            return cls(np.memmap(file, np.int32, "r"), vocabulary)

    def __len__(self) -> int:
        return len(self.ids)

    def block_count(self) -> int:
        return -(-len(self) // BLOCK)

    def block(self, number: int, *, window: int, keep: np.ndarray | None, seed: int, epoch: int) -> Block:
        """Pieces from all over the corpus, subsampled, with windows drawn from 1..window.

        The blocks 0..block_count() - 1 of an epoch hold each place of the corpus once. Windows end at a piece's ends.
        The same arguments give the same block.
        """
        random = np.random.default_rng((seed, epoch))
        pieces = random.permutation(-(-len(self) // PIECE))[number * (BLOCK // PIECE) : (number + 1) * (BLOCK // PIECE)]
        parts = []
        for piece in pieces.tolist():
            parts += [self.ids[piece * PIECE : (piece + 1) * PIECE], np.array([SENTENCE_END], np.int32)]
        ids = np.concatenate(parts)
        random = np.random.default_rng((seed, epoch, number))
        stays = ids >= 0
        if keep is not None:
            stays &= random.random(len(ids), dtype=np.float32) < keep[ids]
        sentence = np.cumsum(ids < 0, dtype=np.int32)[stays]
        reach = random.integers(1, window, size=len(sentence), dtype=np.uint8, endpoint=True)
        return Block(ids[stays], sentence, reach)


def pairs(block: Block, window: int, batch: int = 2**20) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of a word and one of its contexts as places in the block, int64 each, some `batch` words at a time."""
    N = len(block.rows)
    steps = np.arange(-window, window + 1)
    for start in range(0, N, batch):
        centre = np.arange(start, min(N, start + batch))[:, None]
        context = centre + steps
        inside = (context >= 0) & (context < N) & (steps != 0) & (np.abs(steps) <= block.reach[centre])
        at, step = np.nonzero(inside)
        i, j = centre[at, 0], context[at, step]
        same = block.sentence[i] == block.sentence[j]
        yield i[same], j[same]
