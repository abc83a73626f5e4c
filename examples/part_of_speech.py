"""The part of speech of a word, told from its definition: a GRU that reads in order beside the mean of word vectors.

    to bring up or care for, as children  ->  verb        in a manner that pleases  ->  adverb

Many inputs to one output, as in the classification of a review's mood. The vectors are word2vec's (skip-gram with
negative sampling, Mikolov et al. 2013, arXiv:1310.4546), learned first, from nothing but the training definitions.
Their mean knows which words are there and not where; the recurrent model reads one after another. Both are tested on
the definitions of other words.

    python examples/part_of_speech.py
    python examples/part_of_speech.py --tell "having no fear" "one who runs"        # with the model that was saved
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _common import (
    PAD,
    Alphabet,
    Entry,
    batches,
    dictionary,
    draw,
    fit,
    held_out,
    load,
    options,
    pad,
    parameters,
    parse,
    positive,
    run,
    save,
)
from torch import Tensor, nn

import seqops
from seqops.embeddings import EncodedCorpus, Trainer, TrainingOptions, Vocabulary

CLASSES = ("noun", "verb", "adjective", "adverb")
ABBREVIATIONS = (r"(prop\. )?n\.( (sing|pl)\.)?", r"v\.( [ti]\.)?( & [ti]\.)?", r"(prop\. )?(a|adj)\.", r"adv\.")
LONGEST = 24  # words of a definition that are read


class Sample(NamedTuple):
    word: str
    definition: list[str]
    label: int


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[;,.]", text.lower())[:LONGEST]


def read_samples(entries: list[Entry]) -> list[Sample]:
    """The entries of one part of speech."""
    samples = []
    for entry in entries:
        label = [re.fullmatch(abbreviation, entry.part_of_speech) is not None for abbreviation in ABBREVIATIONS]
        if any(label) and (definition := words_of(entry.definition)):
            samples.append(Sample(entry.word, definition, label.index(True)))
    return samples


def pretrain(samples: list[Sample], args: argparse.Namespace) -> tuple[Alphabet, Tensor]:
    """The words of the samples' definitions, and word2vec's vectors [V,D] for them; of PAD and UNK they are 0."""
    start = time.perf_counter()
    text = [sample.definition for sample in samples]
    vocabulary = Vocabulary.from_corpus(text, min_count=args.min_count)
    corpus = EncodedCorpus.encode(text, vocabulary)
    chosen = TrainingOptions(dim=args.size, window=args.window, epochs=args.pretrain_epochs, seed=args.seed)
    vectors = Trainer(corpus, chosen, device=args.device).run()
    alphabet = Alphabet(vocabulary.words)
    table = torch.zeros(len(alphabet), args.size)
    table[-len(vectors) :] = vectors.vectors / vectors.vectors.std()  # as large as nn.Embedding's own at first
    print(f"word vectors of {vocabulary.raw_words} words took {time.perf_counter() - start:.1f} s")
    return alphabet, table


class MeanOfVectors(nn.Module):
    def __init__(self, symbols: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, size, padding_idx=PAD)
        self.predict = nn.Linear(size, len(CLASSES))

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """words [B,T], lengths [B] -> logits [B,4]."""
        return self.predict(self.embedding(words).sum(1) / lengths[:, None])


class Reader(nn.Module):
    def __init__(self, symbols: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, size, padding_idx=PAD)
        self.gru = seqops.nn.GRU(size, size, batch_first=True)
        self.predict = nn.Linear(size, len(CLASSES))

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        _, last = self.gru(self.embedding(words), lengths=lengths)
        return self.predict(last[0])


@torch.no_grad()
def predict(model: nn.Module, words: Tensor, lengths: Tensor) -> Tensor:
    """The probabilities [N,4]."""
    device = next(model.parameters()).device
    parts = zip(words.split(512), lengths.split(512), strict=True)
    return torch.cat([model(part.to(device), n.to(device)).softmax(-1).cpu() for part, n in parts])


def first_word_says(train: list[Sample], test: list[Sample]) -> Tensor:
    """The baseline: what definitions that begin with the same word are mostly of."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for sample in train:
        counts[sample.definition[0]][sample.label] += 1
        counts[""][sample.label] += 1
    best = {word: count.most_common(1)[0][0] for word, count in counts.items()}
    return torch.tensor([best.get(sample.definition[0], best[""]) for sample in test])


def confusion(truth: Tensor, found: Tensor) -> Tensor:
    """[4,4]: how many of each class, a row, were taken for each, a column."""
    return torch.bincount(truth * len(CLASSES) + found, minlength=len(CLASSES) ** 2).view(len(CLASSES), -1)


def macro_f1(table: Tensor) -> float:
    """The mean of the classes' F1, which a class that is rare counts for as much as another in."""
    return (2 * table.diag() / (table.sum(0) + table.sum(1)).clamp(min=1)).mean().item()


def train(args: argparse.Namespace) -> None:
    samples = read_samples(dictionary(args.cache))
    train_samples = [sample for sample in samples if not held_out(sample.word)]
    test_samples = [sample for sample in samples if held_out(sample.word)]
    alphabet, vectors = pretrain(train_samples, args)
    words, lengths = pad([alphabet.encode(sample.definition) for sample in train_samples])
    labels = torch.tensor([sample.label for sample in train_samples])
    test, test_lengths = pad([alphabet.encode(sample.definition) for sample in test_samples])
    truth = torch.tensor([sample.label for sample in test_samples])
    print(
        f"{len(train_samples)} definitions to learn from, {len(test_samples)} of other words to test on; "
        f"a vocabulary of {len(alphabet.symbols)} words"
    )

    found = {"commonest class": labels.bincount().argmax().expand_as(truth)}
    found["first word says"] = first_word_says(train_samples, test_samples)
    models: dict[str, nn.Module] = {}
    config = (len(alphabet), args.size)
    for name, pretrained, frozen, model in (
        ("mean of vectors", True, True, MeanOfVectors(*config)),
        ("mean, vectors tuned", True, False, MeanOfVectors(*config)),
        ("GRU, in order", True, False, Reader(*config)),
        ("GRU, not pretrained", False, False, Reader(*config)),
    ):
        models[name] = model.to(args.device)
        if pretrained:
            model.embedding.weight.data.copy_(vectors)
        model.embedding.requires_grad_(not frozen)

        def loss(index: Tensor, model: nn.Module = model) -> Tensor:
            rows = words[index, : int(lengths[index].max())]
            return F.cross_entropy(
                model(rows.to(args.device), lengths[index].to(args.device)), labels[index].to(args.device)
            )

        fit(model, batches(lengths, args.batch_size, args.epochs, args.seed), loss, lr=args.lr, label=name)
        found[name] = predict(model, test, test_lengths).argmax(-1)

    ours = "GRU, in order"
    print(f"\n{'on the words held out':24} {'parameters':>10} {'accuracy':>9} {'mean F1':>8}")
    accuracy, tables = {}, {}
    for name, answer in found.items():
        accuracy[name], tables[name] = (answer == truth).float().mean().item(), confusion(truth, answer)
        size = str(parameters(models[name])) if name in models else ""
        print(f"{name:24} {size:>10} {accuracy[name]:9.2%} {macro_f1(tables[name]):8.2%}")
    margins = (f"{100 * (accuracy[ours] - accuracy[name]):+.2f} against {name}" for name in accuracy if name != ours)
    print(f"\nGRU, points: {', '.join(margins)}\n\nof the GRU, in each row what is so, in each column what it said")
    print(" " * 10, *(f"{name:>10}" for name in CLASSES))
    for name, row in zip(CLASSES, tables[ours].tolist(), strict=True):
        print(f"{name:10}", *(f"{count:10}" for count in row))

    print("\nwhere the GRU is right and the mean is not")
    better = ((found[ours] == truth) & (found["mean of vectors"] != truth)).nonzero()[: args.rows, 0]
    for i in better.tolist():
        sample, taken = test_samples[i], CLASSES[int(found["mean of vectors"][i])]
        print(f"    {CLASSES[sample.label]}, not {taken}: {sample.word}: {' '.join(sample.definition)}")
    print()
    save(args.out / "model.pt", models[ours], config=config, words=alphabet.symbols)

    def paint(figure: Any) -> None:
        for axes, name in zip(figure.subplots(1, 2), ("mean of vectors", ours), strict=True):
            table = tables[name]
            share = table / table.sum(1, keepdim=True).clamp(min=1)
            axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
            for i, row in enumerate(table.tolist()):
                for j, count in enumerate(row):
                    axes.text(j, i, count, ha="center", va="center", color="white" if share[i, j] > 0.5 else "black")
            axes.set_xticks(range(4), CLASSES)
            axes.set_yticks(range(4), CLASSES)
            axes.set_xlabel("said")
            axes.set_title(f"{name}: {accuracy[name]:.2%}")

    draw(args.out / "confusion.png", (10, 4.8), paint)


def tell(args: argparse.Namespace) -> None:
    model, saved = load(args.out / "model.pt", lambda facts: Reader(*facts["config"]), args.device)
    texts = [text for text in args.tell if words_of(text)]
    alphabet = Alphabet(saved["words"])
    if texts:
        rows = pad([alphabet.encode(words_of(text)) for text in texts])
        for text, p in zip(texts, predict(model, *rows), strict=True):
            print("  ".join(f"{name} {share:6.2%}" for name, share in zip(CLASSES, p.tolist(), strict=True)), "", text)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "part_of_speech", cache=True)
    parser.add_argument("--tell", nargs="+", metavar="TEXT", help="judge these definitions; no training")
    parser.add_argument("--epochs", type=positive, default=3, help="passes over the definitions")
    parser.add_argument("--batch-size", type=positive, default=128, help="definitions a training step")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--size", type=positive, default=64, help="of a word's vector and of the GRU's state")
    parser.add_argument("--pretrain-epochs", type=positive, default=5, help="passes of word2vec over the definitions")
    parser.add_argument("--window", type=positive, default=5, help="of word2vec: contexts on a side at most")
    parser.add_argument("--min-count", type=positive, default=3, help="rarer words are read as unknown")
    parser.add_argument("--rows", type=positive, default=6, help="definitions to print")
    args = parse(parser, argv)
    train(args) if args.tell is None else tell(args)


if __name__ == "__main__":
    run(main)
