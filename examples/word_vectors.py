"""Word vectors from a dictionary's text, and a reverse dictionary made of them: from a definition back to the word.

    the act or process of burning  ->  kindling        a young dog  ->  whelp

CBOW and skip-gram with negative sampling and GloVe stand beside the classic of counting: singular vectors of the table
of positive pointwise mutual information (Levy et al. 2015, doi:10.1162/tacl_a_00134), from the same windows. All have
two vectors for a word, as it is met and as it is foretold, of which the sum counts. The entries of a tenth of the words
are held out: of them the vectors know only how the others' definitions use them. A definition is the weighted mean of
its words, and all words that are not in it are ranked by how near they are.

    python examples/word_vectors.py
    python examples/word_vectors.py --define "a young dog" --near harbor        # with the vectors that were saved
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from _common import Entry, dictionary, draw, held_out, options, parse, positive, run, run_trainer
from torch import Tensor
from torch.nn.functional import normalize

from seqops.embeddings import (
    EncodedCorpus,
    GloveOptions,
    GloveTrainer,
    Trainer,
    TrainingOptions,
    Vocabulary,
    WordVectors,
    cooccurrence,
    tsne,
)

BEST = 10  # answers that count
COMMON = 1000  # a word of this rank weighs one half: its frequency falls about as 1 / rank
UNDRAWN = 100  # the most frequent words say how, not what
SAMPLE = 1e-4  # words that are a larger share of the text are thinned out: a definition has few of the others


class Question(NamedTuple):
    word: str
    definition: list[str]


def words_of(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


def split(entries: list[Entry]) -> tuple[list[list[str]], list[Question]]:
    """The text to learn from, a sentence an entry; entries held out, of single words that their definitions lack."""
    text: list[list[str]] = []
    questions: dict[str, Question] = {}
    for entry in entries:
        words, definition = words_of(entry.word), words_of(entry.definition)
        if not held_out(entry.word):
            text.append(words + definition)
        elif len(words) == 1 and entry.word.isalpha() and words[0] not in definition:
            questions.setdefault(words[0], Question(words[0], definition))  # of its entries the first
    return text, list(questions.values())


def both(corpus: EncodedCorpus, first: Tensor, second: Tensor) -> WordVectors:
    """[V, D]: the sums of each word's two vectors, each at length 1."""
    return WordVectors(corpus.vocabulary.words, normalize(first, dim=1) + normalize(second, dim=1))


def counted(corpus: EncodedCorpus, args: argparse.Namespace) -> WordVectors:
    """The baseline: U and V of the table of max(0, log(x_ij X / (x_i c_j))), contexts by their counts^0.75."""
    i, j, x = map(torch.from_numpy, cooccurrence(corpus, args.window))
    V = len(corpus.vocabulary)
    of = torch.zeros(V).index_add_(0, i, x)
    smooth = of.pow(0.75)
    information = (x.log() - of.log()[i] - (smooth / smooth.sum()).log()[j]).clamp(min=0)
    places = torch.stack([i, j]).long()
    table = torch.sparse_coo_tensor(places, information, (V, V), check_invariants=False, is_coalesced=True)
    u, _, v = torch.svd_lowrank(table, q=min(V, args.dim + 20), niter=3)
    return both(corpus, u[:, : args.dim], v[:, : args.dim])


def word2vec(corpus: EncodedCorpus, args: argparse.Namespace, model: str) -> WordVectors:
    o = TrainingOptions(model, dim=args.dim, window=args.window, epochs=args.epochs, sample=SAMPLE, seed=args.seed)
    trainer = Trainer(corpus, o, device=args.device)
    run_trainer(trainer, model)
    return both(corpus, trainer.tables["in"], trainer.tables["out"])


def glove(corpus: EncodedCorpus, args: argparse.Namespace) -> WordVectors:
    o = GloveOptions(dim=args.dim, window=args.window, epochs=args.glove_epochs, seed=args.seed)
    trainer = GloveTrainer(corpus, o, device=args.device)
    run_trainer(trainer, "GloVe")
    first, second = (table[:, : args.dim] for table in trainer.tables.values())  # without the biases
    return both(corpus, first, second)


def by_chance(corpus: EncodedCorpus, args: argparse.Namespace) -> WordVectors:
    return WordVectors(corpus.vocabulary.words, torch.randn(len(corpus.vocabulary), args.dim))


KINDS: dict[str, Callable[[EncodedCorpus, argparse.Namespace], WordVectors]] = {
    "CBOW": partial(word2vec, model="cbow"),
    "skip-gram": partial(word2vec, model="sg"),
    "GloVe": glove,
    "PPMI, SVD": counted,
    "random": by_chance,
}


def scores(vectors: WordVectors, definition: list[str]) -> Tensor:
    """[V]: how near each word is to a definition; its own words are not answers."""
    rows = torch.tensor([vectors.index[word] for word in definition if word in vectors], dtype=torch.long)
    weights = (rows + 1) / (rows + 1 + COMMON)
    found = vectors.unit @ (weights @ vectors.unit[rows])
    return found.index_fill_(0, rows, -torch.inf)


def rank(vectors: WordVectors, questions: list[Question]) -> Tensor:
    """The place of each question's word among all words, the best 1."""
    places = []
    for word, definition in questions:
        found = scores(vectors, definition)
        places.append(1 + int((found > found[vectors.row(word)]).sum()))
    return torch.tensor(places)


def answers(vectors: WordVectors, definition: list[str], count: int) -> list[str]:
    return [vectors.words[i] for i in scores(vectors, definition).topk(min(count, len(vectors))).indices.tolist()]


def train(args: argparse.Namespace) -> None:
    text, held = split(dictionary(args.cache))
    vocabulary = Vocabulary.from_corpus(text, min_count=args.min_count)
    corpus = EncodedCorpus.encode(text, vocabulary)
    known = vocabulary.index
    questions = [q for q in held if q.word in known and any(word in known for word in q.definition)]
    print(
        f"{sum(map(len, text)):,} words of text; {len(vocabulary):,} different ones occur {args.min_count} times or "
        f"more; {len(questions):,} of these have a definition that was held out"
    )
    if not questions:
        sys.exit("No word that was held out occurs often enough: lower --min-count.")
    trained, found = {}, {}
    print(f"\n{'':12} {f'in the best {BEST}':>15} {'the best':>9} {'median rank':>12} {'seconds':>8}")
    for name, learn in KINDS.items():
        torch.manual_seed(args.seed)
        start = time.perf_counter()
        trained[name] = learn(corpus, args)
        seconds = time.perf_counter() - start
        places = rank(trained[name], questions)
        best, first = ((places <= count).float().mean().item() for count in (BEST, 1))
        found[name] = best, int(places.median())
        print(f"{name:12} {best:15.2%} {first:9.2%} {found[name][1]:12,} {seconds:8.1f}", flush=True)
    (best, median), (other, baseline) = found["CBOW"], found["PPMI, SVD"]
    print(f"\nCBOW against counting: {100 * (best - other):+.2f} points, median rank {median - baseline:+,}")

    vectors = trained["CBOW"]
    print("\ndefinitions held out, and what CBOW takes them for")
    for word, definition in questions[:: max(1, len(questions) // args.rows)][: args.rows]:
        print(f"  {word}: {' '.join(definition[:14])}\n      {', '.join(answers(vectors, definition, 6))}")
    print("\nnearest")
    for word in vectors.words[200 :: max(1, (min(len(vectors), 3000) - 200) // args.rows)][: args.rows]:
        print(f"  {word}: {', '.join(other for other, _ in vectors.nearest(word, 6))}")
    args.out.mkdir(parents=True, exist_ok=True)
    vectors.save(args.out / "vectors.txt")
    print(f"wrote {args.out / 'vectors.txt'}")

    def paint(figure: Any) -> None:
        drawn = range(len(vectors))[UNDRAWN : UNDRAWN + args.map]
        if len(drawn) < 5:
            drawn = range(len(vectors))
        xy = tsne(vectors.unit[list(drawn)], seed=args.seed)
        axes = figure.subplots()
        axes.scatter(*xy.t().tolist(), s=2)
        for i, (x, y) in zip(drawn, xy.tolist(), strict=True):
            axes.annotate(vectors.words[i], (x, y), fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])

    draw(args.out / "map.png", (14, 14), paint)


def ask(args: argparse.Namespace) -> None:
    path = args.out / "vectors.txt"
    try:
        vectors = WordVectors.load(path)
    except (OSError, ValueError) as error:
        sys.exit(f"No vectors at {path}: train them first. ({error})")
    for text in args.define:
        known = [word for word in words_of(text) if word in vectors]
        print(f"{text}: {', '.join(answers(vectors, known, BEST)) if known else 'no word of it is known'}")
    for word in args.near:
        near = [other for other, _ in vectors.nearest(word, BEST)] if word in vectors else ["not known"]
        print(f"{word}: {', '.join(near)}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "word_vectors", cache=True)
    parser.add_argument("--define", nargs="+", default=[], metavar="TEXT", help="find words for these; no training")
    parser.add_argument("--near", nargs="+", default=[], metavar="WORD", help="the words like these; no training")
    parser.add_argument("--dim", type=positive, default=100, help="of the vectors")
    parser.add_argument("--window", type=positive, default=20, help="contexts on a side at most")
    parser.add_argument("--epochs", type=positive, default=15, help="of CBOW and skip-gram, over the text")
    parser.add_argument("--glove-epochs", type=positive, default=10, help="of GloVe, over the pairs")
    parser.add_argument("--min-count", type=positive, default=5, help="rarer words are left out")
    parser.add_argument("--rows", type=positive, default=6, help="definitions and words to print")
    parser.add_argument("--map", type=positive, default=400, help="words in the picture")
    args = parse(parser, argv)
    ask(args) if args.define or args.near else train(args)


if __name__ == "__main__":
    run(main)
