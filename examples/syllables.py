"""Where English words are divided and stressed, letter by letter: a bidirectional GRU reads, every letter gets a mark.

    melancholy  ->  mel"an*chol`y        " ends the stressed syllable, ` one with a second stress, * any other

Many inputs to as many outputs. Whether a syllable ends at a letter depends on the letters after it: read forward only,
read both ways, and read both ways by two layers, side by side, on words that training did not show.

    python examples/syllables.py
    python examples/syllables.py --divide serendipity melancholy        # with the model that was saved
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from _common import (
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

MARKS = ["", "*", '"', "`"]  # what may stand after a letter
IGNORE = -100


def split_marks(marked: str) -> tuple[str, list[int]]:
    """mel"an*chol`y -> melancholy, and after each of its letters a mark."""
    letters, marks = "", []
    for char in marked:
        if char in MARKS[1:] and marks:
            marks[-1] = MARKS.index(char)
        else:
            letters += char
            marks.append(0)
    return letters, marks


def join_marks(letters: str, marks: Sequence[int]) -> str:
    return "".join(letter + MARKS[mark] for letter, mark in zip(letters, marks, strict=True))


def read_words(entries: list[Entry]) -> dict[str, list[int]]:
    """The single words whose stress is marked, once each."""
    words: dict[str, list[int]] = {}
    for entry in entries:
        if re.fullmatch(r"[a-z*\"`-]+", marked := entry.marked.lower()) and '"' in marked:
            letters, marks = split_marks(marked)
            if letters == entry.word.lower():
                words.setdefault(letters, marks)
    return words


class Tagger(nn.Module):
    def __init__(self, symbols: int, embedding: int, hidden: int, layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.gru = seqops.nn.GRU(
            embedding, hidden, layers, batch_first=True, bidirectional=bidirectional, dropout=0.2 if layers > 1 else 0.0
        )
        self.predict = nn.Linear(hidden * (1 + bidirectional), len(MARKS))

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """letters [B,T], lengths [B] -> logits [B,T,4]."""
        states, _ = self.gru(self.embedding(letters), lengths=lengths)
        return self.predict(states)


@torch.no_grad()
def predict(model: Tagger, alphabet: Alphabet, words: Sequence[str]) -> list[Tensor]:
    """Of each word, the marks' probabilities [T,4]."""
    device = next(model.parameters()).device
    letters, lengths = pad([alphabet.encode(word) for word in words])
    found: list[Tensor] = [torch.empty(0)] * len(words)
    for index in lengths.argsort(stable=True).split(512):
        rows = letters[index, : int(lengths[index].max())].to(device)
        probabilities = model(rows, lengths[index].to(device)).softmax(-1).cpu()
        for i, p in zip(index.tolist(), probabilities, strict=True):
            found[i] = p[: len(words[i])]
    return found


class Windows:
    """The baseline: a letter's commonest mark in the widest window of letters around it that training has shown."""

    SIDES = ((3, 3), (2, 3), (2, 2), (1, 2), (1, 1), (0, 1), (0, 0))

    def __init__(self, words: dict[str, list[int]]) -> None:
        counts: dict[tuple[int, str], Counter[int]] = defaultdict(Counter)
        for word, marks in words.items():
            for t, mark in enumerate(marks):
                for window in self.windows(word, t):
                    counts[window][mark] += 1
        self.best = {window: count.most_common(1)[0][0] for window, count in counts.items()}

    def windows(self, word: str, t: int) -> list[tuple[int, str]]:
        t, padded = t + 3, f"^^^{word}$$$"
        return [(i, padded[t - left : t + right + 1]) for i, (left, right) in enumerate(self.SIDES)]

    def predict(self, word: str) -> list[int]:
        return [
            next((self.best[window] for window in self.windows(word, t) if window in self.best), 0)
            for t in range(len(word))
        ]


def evaluate(name: str, size: int, truth: dict[str, list[int]], marks: list[list[int]]) -> float:
    """Prints a row; returns the share of words with every mark right."""
    pairs = list(zip(truth.values(), marks, strict=True))
    word = sum(a == b for a, b in pairs) / len(pairs)
    stress = sum([m == 2 for m in a] == [m == 2 for m in b] for a, b in pairs) / len(pairs)
    both = sum(m > 0 and n > 0 for a, b in pairs for m, n in zip(a, b, strict=True))
    f1 = 2 * both / max(1, sum(m > 0 for pair in pairs for row in pair for m in row))
    print(f"{name:34} {size:>10} {word:11.2%} {stress:10.2%} {f1:10.2%}")
    return word


def draw_words(figure: Any, words: Sequence[str], probabilities: Sequence[Tensor]) -> None:
    for axes, word, p in zip(figure.subplots(len(words), 1), words, probabilities, strict=True):
        axes.imshow(p.T.numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(word)), list(word))
        axes.set_yticks(range(4), ["none", "division", "stress", "2nd stress"])
        axes.set_title(join_marks(word, p.argmax(-1).tolist()))


def train(args: argparse.Namespace) -> None:
    words = read_words(dictionary(args.cache))
    train_words = {word: marks for word, marks in words.items() if not held_out(word)}
    test_words = {word: marks for word, marks in words.items() if held_out(word)}
    alphabet = Alphabet.of(train_words)
    letters, lengths = pad([alphabet.encode(word) for word in train_words])
    marks, _ = pad(list(train_words.values()), IGNORE)
    print(f"{len(train_words)} words to learn from, {len(test_words)} others to test on")

    kinds = {
        "forward, one layer": (1, False),
        "both ways, one layer": (1, True),
        "both ways, two layers": (2, True),
    }
    models = {}
    for name, (layers, bidirectional) in kinds.items():
        config = (len(alphabet), args.embedding, args.hidden, layers, bidirectional)
        model = models[name] = Tagger(*config).to(args.device)

        def loss(index: Tensor, model: Tagger = model) -> Tensor:
            longest = int(lengths[index].max())
            logits = model(letters[index, :longest].to(args.device), lengths[index].to(args.device))
            target = marks[index, :longest].to(args.device)
            return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE)

        fit(model, batches(lengths, args.batch_size, args.epochs, args.seed), loss, lr=args.lr, label=name)

    print(
        f"\n{'on the words held out':34} {'parameters':>10} {'whole word':>11} {'first stress':>12} {'F1 of ends':>12}"
    )
    window = Windows(train_words)
    base = evaluate("commonest mark in the same window", "", test_words, [window.predict(word) for word in test_words])
    shares = {}
    for name, model in models.items():
        probabilities = predict(model, alphabet, list(test_words))
        shares[name] = evaluate(name, parameters(model), test_words, [p.argmax(-1).tolist() for p in probabilities])
    forward, both, deep = shares.values()
    print(
        f"\nwhole words right, of two layers: {100 * (deep - base):+.1f} points against the windows, "
        f"{100 * (deep - both):+.1f} against one layer; both ways against forward: {100 * (both - forward):+.1f}"
    )
    print("\nsome of them")
    for i, (word, p) in enumerate(zip(test_words, probabilities, strict=True)):
        if i % max(1, len(test_words) // args.rows) == 0:
            ours, right = join_marks(word, p.argmax(-1).tolist()), join_marks(word, test_words[word])
            print(f"{'ok' if ours == right else 'NO':3} {ours:30} {'' if ours == right else right}")
    print()
    save(args.out / "model.pt", model, config=config, letters=alphabet.symbols)
    longest = sorted(test_words, key=len)[-4:]
    draw(args.out / "marks.png", (10, 9), lambda figure: draw_words(figure, longest, predict(model, alphabet, longest)))


def divide(args: argparse.Namespace) -> None:
    model, saved = load(args.out / "model.pt", lambda facts: Tagger(*facts["config"]), args.device)
    words = [word.lower() for word in args.divide if word]
    for word, p in zip(words, predict(model, Alphabet(saved["letters"]), words), strict=True):
        print(join_marks(word, p.argmax(-1).tolist()))


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "syllables", cache=True)
    parser.add_argument("--divide", nargs="+", metavar="WORD", help="divide these with the saved model; no training")
    parser.add_argument("--epochs", type=positive, default=2, help="passes over the words")
    parser.add_argument("--batch-size", type=positive, default=128, help="words a training step")
    parser.add_argument("--lr", type=float, default=5e-3, help="highest learning rate")
    parser.add_argument("--embedding", type=positive, default=32, help="size of a letter's vector")
    parser.add_argument("--hidden", type=positive, default=96, help="size of the GRU's state in each direction")
    parser.add_argument("--rows", type=positive, default=12, help="words to print")
    args = parse(parser, argv)
    train(args) if args.divide is None else divide(args)


if __name__ == "__main__":
    run(main)
