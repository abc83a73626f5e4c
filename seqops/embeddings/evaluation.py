"""How good word vectors are, on the files that everyone uses: analogies and pairs of words that people have judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ._files import StrPath, read_pieces
from .word_vectors import WordVectors

__all__ = ["AnalogyResult", "PairResult", "evaluate_analogies", "evaluate_pairs", "spearman"]


@dataclass(frozen=True)
class AnalogyResult:
    """Right answers and questions of each section, and how many questions had a word that is not known."""

    sections: dict[str, tuple[int, int]]
    skipped: int

    @property
    def correct(self) -> int:
        return sum(c for c, _ in self.sections.values())

    @property
    def total(self) -> int:
        return sum(n for _, n in self.sections.values())

    @property
    def accuracy(self) -> float:
        """Of the questions that were asked; NaN if none was."""
        return self.correct / self.total if self.total else float("nan")


@dataclass(frozen=True)
class PairResult:
    """Rank and linear correlation with people's judgement over the pairs used, and the pairs with unknown words."""

    spearman: float
    pearson: float
    used: int
    skipped: int


def _rows(vectors: WordVectors, ignore_case: bool, restrict: int | None) -> dict[str, int]:
    """Of words that differ in case only, the first, which is the most frequent."""
    rows: dict[str, int] = {}
    for i, word in enumerate(vectors.words[:restrict]):
        rows.setdefault(word.upper() if ignore_case else word, i)
    return rows


def evaluate_analogies(
    vectors: WordVectors,
    path: StrPath,
    *,
    method: str = "3cosadd",
    ignore_case: bool = True,
    restrict: int | None = 300_000,
    encoding: str = "utf-8",
) -> AnalogyResult:
    """Asks all questions of a file of the questions-words form: ": section" lines, and "a b c d" lines below them.

    A question with an unknown word is left out, as gensim does it. An answer is right if it is d, or with
    `ignore_case` d in other case; a, b and c are no answers.

    Args:
        method: "3cosadd" or "3cosmul", as in WordVectors.analogy.
        restrict: only this many words, the first, are known.

    Raises:
        OSError: the file cannot be read. ValueError: a line is neither a section nor four words.
    """
    rows = _rows(vectors, ignore_case, restrict)
    words = list(rows.values())
    # Where words differ in case only, the answers come from the first of each.
    known = (
        vectors
        if len(words) == len(vectors)
        else WordVectors([vectors.words[i] for i in words], vectors.vectors[words])
    )
    place = {w: i for i, w in enumerate(rows)}
    section, skipped = "", 0
    questions: list[list[int]] = []
    sections: list[str] = []
    for number, line in enumerate("".join(read_pieces(path, encoding)).splitlines(), 1):
        if line.startswith(":"):
            section = line[1:].strip()
        elif fields := (line.upper() if ignore_case else line).split():
            if len(fields) != 4:
                raise ValueError(f"{path}: line {number} must be ': section' or four words, got {len(fields)} words")
            question = [place.get(w, -1) for w in fields]
            if min(question) < 0:
                skipped += 1
            else:
                questions.append(question)
                sections.append(section)
    results: dict[str, tuple[int, int]] = {}
    if questions:
        asked = torch.tensor(questions, device="cpu")
        right = (known.solve_analogies(asked[:, :3], method=method) == asked[:, 3]).tolist()
        for name, ok in zip(sections, right, strict=True):
            correct, total = results.get(name, (0, 0))
            results[name] = correct + ok, total + 1
    return AnalogyResult(results, skipped)


def evaluate_pairs(
    vectors: WordVectors, path: StrPath, *, metric: str = "cosine", ignore_case: bool = True, encoding: str = "utf-8"
) -> PairResult:
    """Correlates the similarity of pairs of words with people's judgement.

    The file has lines "word, word, number", parted by tabs, commas or semicolons; # begins a remark. Of the original
    SimLex-999 file, whose first line names its columns, the column SimLex999 is taken. Pairs with an unknown word are
    left out, as gensim does it.

    Raises:
        OSError: the file cannot be read. ValueError: a line has no number where it should; no two pairs are known.
    """
    rows = _rows(vectors, ignore_case, None)
    found, judged = [], []
    column, skipped, first = 2, 0, True
    for number, line in enumerate("".join(read_pieces(path, encoding)).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        separator = next((s for s in "\t,;" if s in line), None)
        fields = [f.strip() for f in line.split(separator)]
        try:
            value = float(fields[column])
        except (IndexError, ValueError):
            if not first or len(fields) < 3:
                raise ValueError(f"{path}: line {number} must be two words and a number") from None
            # names of the columns
            column = fields.index("SimLex999") if "SimLex999" in fields else 2
            first = False
            continue
        first = False
        a, b = (rows.get(w.upper() if ignore_case else w) for w in fields[:2])
        if a is None or b is None:
            skipped += 1
        else:
            found.append(vectors.similarity(vectors.words[a], vectors.words[b], metric))
            judged.append(value)
    if len(found) < 2:
        raise ValueError(f"{path}: of the words of {skipped + len(found)} pairs too few are known")
    ours, theirs = np.array(found), np.array(judged)
    return PairResult(spearman(ours, theirs), _pearson(ours, theirs), len(found), skipped)


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm else float("nan")


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """The rank correlation of two samples [N]; NaN where one of them is constant."""
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"spearman: two samples of one size, 2 or more, expected, got {len(a)} and {len(b)}")
    return _pearson(_ranks(np.asarray(a)), _ranks(np.asarray(b)))
