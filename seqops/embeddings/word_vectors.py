"""Trained vectors under their words: neighbours, analogies, evaluation, files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ._files import StrPath
from .formats import load_vectors, save_vectors

__all__ = ["WordVectors"]

# Scores that are held at once: questions x words.
SCORES = 2**24


class WordVectors:
    """Words and their vectors.

    Args:
        words: V different words, the most frequent first where `evaluate_analogies` is to rely on it.
        vectors: [V, D], kept as fp32 on the CPU.

    Raises:
        ValueError: sizes do not fit, a word is there twice, a value is not finite.

    Example: `WordVectors.load("glove.txt").nearest("king")`
    """

    def __init__(self, words: Sequence[str], vectors: Tensor | np.ndarray) -> None:
        values = torch.as_tensor(vectors, dtype=torch.float32, device="cpu").detach()
        if values.dim() != 2 or len(values) != len(words) or not len(words) or not values.shape[1]:
            raise ValueError(f"WordVectors: vectors must have shape [{len(words)}, D], got {list(values.shape)}")
        self.words = list(words)
        self.vectors = values.contiguous()
        self.index = {w: i for i, w in enumerate(self.words)}
        if len(self.index) != len(self.words):
            raise ValueError("WordVectors: a word is there twice")
        if not bool(values.isfinite().all()):
            raise ValueError("WordVectors: vectors must be finite")
        self._unit: Tensor | None = None

    @property
    def unit(self) -> Tensor:
        """[V, D]: the vectors at length 1; one of length 0 stays 0."""
        if self._unit is None:
            self._unit = torch.nn.functional.normalize(self.vectors, dim=1)
        return self._unit

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    def row(self, word: str) -> int:
        """Raises KeyError where the word is not known."""
        if word not in self.index:
            raise KeyError(f"{word!r} is not in the vocabulary")
        return self.index[word]

    def __getitem__(self, word: str) -> Tensor:
        return self.vectors[self.row(word)]

    def similarity(self, a: str, b: str, metric: str = "cosine") -> float:
        """How alike two words are: "cosine", u.v / (|u| |v|), or "euclidean", -|u - v|."""
        i, j = self.row(a), self.row(b)
        _check_metric(metric)
        if metric == "euclidean":
            return -float((self.vectors[i] - self.vectors[j]).norm())
        return float(self.unit[i] @ self.unit[j])

    def nearest(
        self, query: str | Tensor, k: int = 10, *, metric: str = "cosine", exclude: Sequence[str] = ()
    ) -> list[tuple[str, float]]:
        """The k words most alike to a word, which is left out, or to a vector [D], with their similarity."""
        _check_metric(metric)
        _check_k(k)
        left_out = [self.row(w) for w in exclude]
        if isinstance(query, str):
            left_out.append(self.row(query))
            vector = self[query]
        else:
            vector = torch.as_tensor(query, dtype=torch.float32, device="cpu")
            if tuple(vector.shape) != (self.vectors.shape[1],):
                expected = self.vectors.shape[1]
                raise ValueError(f"nearest: query must have shape [{expected}], got {list(vector.shape)}")
        if metric == "euclidean":
            scores = (self.vectors - vector).norm(dim=1).neg_()
        else:
            scores = self.unit @ torch.nn.functional.normalize(vector, dim=0)
        return self._best(scores, k, left_out)

    def analogy(self, a: str, b: str, c: str, k: int = 10, *, method: str = "3cosadd") -> list[tuple[str, float]]:
        """What is to c as b is to a: the k best words, none of the three, with their scores.

        3cosadd  cos(x, b) - cos(x, a) + cos(x, c)
        3cosmul  s(x, b) s(x, c) / (s(x, a) + 0.001), with s = (1 + cos) / 2

        Source: Mikolov et al. 2013, arXiv:1301.3781; Levy and Goldberg 2014, "Linguistic Regularities".
        """
        _check_k(k)
        rows = [self.row(w) for w in (a, b, c)]
        scores = self._analogy_scores(torch.tensor([rows], device="cpu"), method)[0]
        return self._best(scores, k, rows)

    def _analogy_scores(self, questions: Tensor, method: str) -> Tensor:
        """[N, V] for questions [N, 3]."""
        unit = self.unit
        a, b, c = self.unit[questions].unbind(1)
        if method == "3cosadd":
            return (b - a + c) @ unit.t()
        if method == "3cosmul":
            s_a, s_b, s_c = ((1 + v @ unit.t()) / 2 for v in (a, b, c))
            return s_b * s_c / (s_a + 1e-3)
        raise ValueError(f"analogy: method must be '3cosadd' or '3cosmul', got {method!r}")

    def solve_analogies(self, questions: Tensor, *, method: str = "3cosadd") -> Tensor:
        """int64 [N]: the best row for each question [N, 3], rows of a, b and c."""
        answers = [torch.empty(0, dtype=torch.int64, device="cpu")]
        for part in questions.split(max(1, SCORES // len(self))):
            scores = self._analogy_scores(part, method)
            scores.scatter_(1, part, -torch.inf)
            answers.append(scores.argmax(1))
        return torch.cat(answers)

    def _best(self, scores: Tensor, k: int, left_out: Sequence[int]) -> list[tuple[str, float]]:
        scores[torch.tensor(left_out, dtype=torch.int64, device="cpu")] = -torch.inf
        best = scores.topk(max(0, min(k, len(self) - len(set(left_out)))))
        return [(self.words[i], s) for s, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def save(self, path: StrPath, form: str = "word2vec") -> None:
        """Writes a file that gensim reads, whole or not at all; `formats.save_vectors` says which forms there are."""
        save_vectors(path, self.words, self.vectors.numpy(), form)

    @classmethod
    def load(
        cls, path: StrPath, form: str | None = None, *, encoding: str = "utf-8", limit: int | None = None
    ) -> WordVectors:
        """From a file of word2vec's or GloVe's form; `formats.load_vectors` says what it takes and what it raises."""
        return cls(*load_vectors(path, form, encoding=encoding, limit=limit))


def _check_metric(metric: str) -> None:
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric must be 'cosine' or 'euclidean', got {metric!r}")


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
