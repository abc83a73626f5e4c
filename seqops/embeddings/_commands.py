"""The command line's word vectors: `python -m seqops word2vec | neighbors | analogy | evaluate | plot`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ._files import read_pieces
from .corpus import EncodedCorpus
from .evaluation import evaluate_analogies, evaluate_pairs
from .formats import FORMATS
from .glove import GloveOptions, GloveTrainer
from .projection import principal_components, tsne
from .training import LOSSES, MODELS, OPTIMIZERS, Progress, Trainer, TrainingOptions
from .vocabulary import Vocabulary
from .word_vectors import WordVectors

__all__ = ["add_commands", "run"]

METHODS = {  # of plot, with the names of their axes
    "pca": ("first principal component", "second"),
    "tsne": ("t-SNE of the vectors at length 1", ""),
}
HYPERPARAMETERS: tuple[tuple[str, str, type], ...] = (
    ("loss", "of sg and cbow", str),
    ("optimizer", "of sg and cbow", str),
    ("dim", "of the vectors", int),
    ("window", "contexts on a side at most", int),
    ("epochs", "passes over the text, of glove over its pairs", int),
    ("negative", "negatives a pair", int),
    ("batch_words", "words a step; by the corpus's size if left out", int),
    ("batch_pairs", "pairs a step of glove; by the corpus's size if left out", int),
    ("lr", "first learning rate; of sg and cbow by the optimizer if left out", float),
    ("sample", "subsampling of frequent words; 0: none", float),
    ("x_max", "count from which on pairs weigh 1", float),
    ("alpha", "power of the counts below in the weight", float),
    ("seed", "the same seed gives the same vectors", int),
)
LINE_SECONDS = 10.0  # between two lines of progress where they do not overwrite one another


def add_commands(commands: Any) -> None:
    """Adds the parsers; `options.run` of what is parsed is to be given to `run`."""
    defaults = TrainingOptions()

    def add(name: str, function: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(
            name, help=about, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        parser.set_defaults(run=function)
        return parser

    train = add("word2vec", _word2vec, "train word vectors on text files, words parted by white space")
    train.add_argument("corpus", nargs="+", help="text files, .gz too; a line is a sentence")
    train.add_argument("--out", required=True, help="file of the vectors")
    train.add_argument("--form", choices=FORMATS, default="word2vec", help="of the file")
    train.add_argument("--model", choices=(*MODELS, "glove"), default=defaults.model)

    for name, about, kind in HYPERPARAMETERS:
        choices = {"loss": LOSSES, "optimizer": OPTIMIZERS}.get(name)
        option, given = "--" + name.replace("_", "-"), argparse.SUPPRESS  # left out: the training's own default
        train.add_argument(option, type=kind, choices=choices, default=given, help=about + _default_of(name))
    train.add_argument("--min-count", type=int, default=5, help="rarer words are left out")
    train.add_argument("--lowercase", action="store_true", help="turn words into lower case")
    train.add_argument("--encoding", default="utf-8", help="of the corpus")
    train.add_argument("--device", default="cpu", help="cpu or cuda")
    train.add_argument("--checkpoint", help="file that an interrupted run goes on from (default: OUT.checkpoint)")
    train.add_argument("--checkpoint-every", type=float, default=60.0, help="seconds")
    train.add_argument("--quiet", action="store_true", help="no progress")

    near = add("neighbors", _neighbors, "print the words most alike to each of the words")
    near.add_argument("words", nargs="+")
    near.add_argument("--metric", choices=("cosine", "euclidean"), default="cosine")
    analogy = add("analogy", _analogy, "print what is to C as B is to A")
    for place in "abc":
        analogy.add_argument(place, metavar=place.upper())
    analogy.add_argument("--method", choices=("3cosadd", "3cosmul"), default="3cosadd")
    evaluate = add("evaluate", _evaluate, "score vectors on files of analogies or of judged pairs of words")
    evaluate.add_argument("files", nargs="+", help="as questions-words.txt or wordsim353.tsv")
    plot = add("plot", _plot, "draw words in a plane, near where their vectors are near")
    plot.add_argument("words", nargs="*", help="by default the most frequent")
    plot.add_argument("--out", required=True, help="the picture: .png, .pdf or .svg")
    plot.add_argument("--count", type=int, default=100, help="of words, where none are given")
    plot.add_argument("--method", choices=METHODS, default="pca", help="principal components, or t-SNE")
    perplexity = "of t-SNE: how many neighbours count; by the number of words if left out"
    plot.add_argument("--perplexity", type=float, help=perplexity)
    plot.add_argument("--seed", type=int, default=0, help="of t-SNE")
    for parser in (near, analogy):
        parser.add_argument("-k", type=int, default=10, help="how many")
    for parser in (near, analogy, evaluate, plot):
        parser.add_argument("--vectors", default="vectors.txt", help="file of the vectors, in any of the forms")
        parser.add_argument("--encoding", default="utf-8", help="of the files")


def _default_of(name: str) -> str:
    """What the help says of an option that some trainings have."""
    values = [getattr(training, name, None) for training in (TrainingOptions, GloveOptions)]
    parts = [f"{value}{of}" for value, of in zip(values, ("", " of glove"), strict=True) if value is not None]
    return f" (default: {', '.join(parts if values[0] != values[1] else parts[:1])})" if parts else ""


def run(options: argparse.Namespace) -> int:
    """Runs a command; what is wrong with its input is one line on stderr and exit code 1."""
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        print(f"{options.command}: {named}", file=sys.stderr)
        return 1
    except (ValueError, KeyError, ModuleNotFoundError) as error:
        # str(KeyError) has quotes around the message; a UnicodeError's first argument is its codec.
        print(f"{options.command}: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 1
    return 0


def _check_target(path: str) -> None:
    """What cannot be written is said before the work, not behind it."""
    folder = Path(path).parent
    if not folder.is_dir():
        raise ValueError(f"{path}: there is no folder {folder}")
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path}: the folder cannot be written to")


def _training_options(o: argparse.Namespace) -> TrainingOptions | GloveOptions:
    kind = GloveOptions if o.model == "glove" else TrainingOptions
    given = {name: getattr(o, name) for name, _, _ in HYPERPARAMETERS if hasattr(o, name)}
    for name in given:
        if not hasattr(kind, name):
            raise ValueError(f"--{name.replace('_', '-')} is no option of --model {o.model}")
    return GloveOptions(**given) if kind is GloveOptions else TrainingOptions(model=o.model, **given)


def _word2vec(o: argparse.Namespace) -> None:
    options = _training_options(o)
    checkpoint = o.out + ".checkpoint" if o.checkpoint is None else o.checkpoint
    for path in (o.out, checkpoint):
        _check_target(path)
    if torch.device(_device(o.device)).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {o.device}: torch sees no GPU")
    for path in o.corpus:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise ValueError(f"{path}: must be a file, which can be read twice")
    reading = {"lowercase": o.lowercase, "encoding": o.encoding}
    vocabulary = Vocabulary.from_corpus(o.corpus, min_count=o.min_count, **reading)
    corpus = EncodedCorpus.encode(o.corpus, vocabulary, **reading)
    say = _Teller(o.quiet)
    say.line(f"{vocabulary.raw_words:,} words; {len(vocabulary):,} different ones occur {o.min_count} times or more")
    begun = os.path.exists(checkpoint)
    if begun:
        say.line(f"going on from {checkpoint}")
    trainer: GloveTrainer | Trainer
    if isinstance(options, GloveOptions):
        trainer = GloveTrainer(corpus, options, device=o.device)
        say.line(f"{len(trainer.counts.x):,} different pairs of words stand near one another")
    else:
        trainer = Trainer(corpus, options, device=o.device)
    try:
        vectors = trainer.run(
            None if o.quiet else say.progress, checkpoint=checkpoint, checkpoint_every=o.checkpoint_every
        )
    except ValueError as error:
        if not begun:
            raise
        raise ValueError(f"{error}; to begin anew, delete {checkpoint}") from None
    vectors.save(o.out, o.form)
    with suppress(FileNotFoundError):
        os.unlink(checkpoint)
    say.line(f"{o.out}: {len(vectors):,} vectors of {options.dim}")


def _device(name: str) -> str:
    with suppress(RuntimeError):
        if torch.device(name).type in ("cpu", "cuda"):
            return name
    raise ValueError(f"--device must be cpu or cuda, got {name!r}")


class _Teller:
    """Lines on stderr; progress overwrites itself on a terminal, and comes seldom elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.terminal, self.told = quiet, sys.stderr.isatty(), time.monotonic()
        self.open = False

    def line(self, text: str) -> None:
        if not self.quiet:
            print("\n" * self.open + text, file=sys.stderr, flush=True)
            self.open = False

    def progress(self, p: Progress) -> None:
        text = (
            f"epoch {p.epoch + 1}  {p.done:6.1%}  {p.words_per_second:,.0f} words/s  loss {p.loss:.4f}  lr {p.lr:.4f}"
        )
        if self.terminal:
            print(f"\r{text}  ", end="", file=sys.stderr, flush=True)
            self.open = True
        elif time.monotonic() - self.told >= LINE_SECONDS:
            self.line(text)
            self.told = time.monotonic()


def _load(o: argparse.Namespace) -> WordVectors:
    return WordVectors.load(o.vectors, encoding=o.encoding)


def _print(scored: list[tuple[str, float]]) -> None:
    for word, score in scored:
        print(f"{score:8.4f}  {word}")


def _neighbors(o: argparse.Namespace) -> None:
    vectors = _load(o)
    for word in o.words:
        vectors.row(word)  # all are known, before any is answered
    for word in o.words:
        if len(o.words) > 1:
            print(word)
        _print(vectors.nearest(word, o.k, metric=o.metric))


def _analogy(o: argparse.Namespace) -> None:
    _print(_load(o).analogy(o.a, o.b, o.c, o.k, method=o.method))


def _evaluate(o: argparse.Namespace) -> None:
    vectors = _load(o)
    for path in o.files:
        first = "".join(read_pieces(path, o.encoding)).lstrip()[:1]
        if first == ":":
            found = evaluate_analogies(vectors, path, encoding=o.encoding)
            for section, (correct, total) in found.sections.items():
                print(f"{correct / total:7.1%}  {correct:6} of {total:6}  {section}")
            share = f"{found.accuracy:7.1%}" if found.total else "   none"
            print(f"{share}  {found.correct:6} of {found.total:6}  {path}; {found.skipped} with unknown words left out")
        else:
            pairs = evaluate_pairs(vectors, path, encoding=o.encoding)
            print(
                f"Spearman {pairs.spearman:.3f}  Pearson {pairs.pearson:.3f}  {pairs.used} pairs of {path}; "
                f"{pairs.skipped} with unknown words left out"
            )


def _plot(o: argparse.Namespace) -> None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError("the picture needs matplotlib: pip install matplotlib") from None
    _check_target(o.out)
    vectors = _load(o)
    if o.count < 1:
        raise ValueError(f"--count must be 1 or more, got {o.count}")
    if o.perplexity is not None and o.method != "tsne":
        raise ValueError("--perplexity is for --method tsne")
    words = o.words or vectors.words[: o.count]
    points = vectors.unit[[vectors.row(w) for w in words]]
    xy = principal_components(points) if o.method == "pca" else tsne(points, perplexity=o.perplexity, seed=o.seed)
    figure = Figure(figsize=(8, 8), layout="tight")
    axes = figure.add_subplot()
    axes.scatter(xy[:, 0].tolist(), xy[:, 1].tolist(), s=8)
    for word, (x, y) in zip(words, xy.tolist(), strict=True):
        axes.annotate(word.replace("$", r"\$"), (x, y), fontsize=8)
    x_label, y_label = METHODS[o.method]
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    figure.savefig(o.out)
    print(o.out)
