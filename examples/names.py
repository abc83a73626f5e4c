"""Writes new place names in the manner of a language that it is given: one input, a sequence as output.

    German  ->  Bad Ollenstein        Finnish  ->  Kaarilansaari

A GRU learns the names of countries and cities, letter by letter, as CLDR has them in 46 languages. The language is one
vector that the GRU reads with every letter; the same GRU without it, and n-grams that know the language, show what it
is worth on names of places that no language has shown in training.

    python examples/names.py
    python examples/names.py --write fi hu --count 10        # with the model that was saved
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _common import (
    BOS,
    EOS,
    PAD,
    Alphabet,
    batches,
    fit,
    held_out,
    load,
    missing,
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

try:
    from babel import Locale
except ImportError as error:
    missing(error.name)

LANGUAGES = """
    af az bs ca cs cy da de el en es et eu fi fil fr ga gl hr hu id is it lt lv ms mt nl nb pl pt ro sk sl sq sv sw tr
    uz vi ru uk bg hy ka he
""".split()  # noqa: SIM905 (a list would take a page)


class Name(NamedTuple):
    language: int
    place: str  # CLDR's code, the same in all languages
    text: str


def read_names() -> list[Name]:
    """Each language's names of countries and regions, and of the cities that name time zones; no name twice."""
    names = []
    for i, language in enumerate(LANGUAGES):
        locale = Locale.parse(language)
        places = {code: name for code, name in locale.territories.items() if code.isalpha()}
        places |= {zone: said["city"] for zone, said in locale.time_zones.items() if "city" in said}
        seen = set()
        for place, text in sorted(places.items()):
            if text not in seen and len(text) <= 30:
                seen.add(text)
                names.append(Name(i, place, text))
    return names


class Writer(nn.Module):
    def __init__(self, symbols: int, languages: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(symbols, embedding)
        self.languages = nn.Embedding(languages, embedding)
        self.gru = seqops.nn.GRU(2 * embedding, hidden, batch_first=True)
        self.predict = nn.Linear(hidden, symbols)

    def forward(self, text: Tensor, language: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """text [B,T], language [B] -> logits [B,T,V] of the next letter, the state."""
        letters = self.letters(text)
        told = self.languages(language)[:, None].expand_as(letters)
        states, state = self.gru(torch.cat([letters, told], -1), state)
        return self.predict(states), state


class NGrams:
    """Interpolated as by Witten and Bell 1991: up to three letters before, the last two orders in the language too."""

    def __init__(self, rows: Sequence[Sequence[int]], languages: Sequence[int], size: int) -> None:
        self.size = size
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for row, language in zip(rows, languages, strict=True):
            for t, symbol in enumerate(row):
                for context in self.contexts(row, t, language):
                    self.counts[context][symbol] += 1
        self.totals = {context: count.total() for context, count in self.counts.items()}

    def contexts(self, row: Sequence[int], t: int, language: int) -> list[tuple[int, ...]]:
        before = (BOS, BOS, BOS, *row[:t])
        told = -1 - language
        return [
            (),
            before[-1:],
            before[-2:],
            (told, *before[-1:]),
            (told, *before[-2:]),
            before[-3:],
            (told, *before[-3:]),
        ]

    def log_prob(self, row: Sequence[int], language: int) -> float:
        total = 0.0
        for t, symbol in enumerate(row):
            p = 1 / self.size
            for context in self.contexts(row, t, language):
                if context in self.totals:
                    count = self.counts[context]
                    p = (count[symbol] + len(count) * p) / (self.totals[context] + len(count))
            total += math.log(p)
        return total


@torch.no_grad()
def log_prob(model: Writer, rows: Tensor, languages: Tensor) -> Tensor:
    """[N]: of names with their ends, padded."""
    found = []
    device = next(model.parameters()).device
    for text, language in zip(rows.split(512), languages.split(512), strict=True):
        logits, _ = model(F.pad(text[:, :-1], (1, 0), value=BOS).to(device), language.to(device))
        p = logits.log_softmax(-1).cpu().gather(-1, text[..., None])[..., 0]
        found.append(p.masked_fill(text == PAD, 0).sum(1))
    return torch.cat(found)


@torch.no_grad()
def write(
    model: Writer, alphabet: Alphabet, language: int, count: int, generator: torch.Generator, longest: int = 30
) -> list[str]:
    device = next(model.parameters()).device
    languages = torch.full((count,), language, device=device)
    text, state, written = torch.full((count, 1), BOS, device=device), None, []
    for _ in range(longest):
        logits, state = model(text, languages, state)
        drawn = seqops.sample(logits[:, -1].cpu(), temperature=0.7, top_p=0.95, generator=generator)
        written.append(drawn.tokens)
        text = drawn.tokens[:, None].to(device)
    return [alphabet.decode(row) for row in torch.stack(written, 1).tolist()]


def show(model: Writer, alphabet: Alphabet, codes: Sequence[str], count: int, known: set[str], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for code in codes:
        names = write(model, alphabet, LANGUAGES.index(code), 4 * count, generator)
        new = [name for name in dict.fromkeys(names) if name not in known][:count]
        print(f"{code:4} {Locale.parse(code).english_name:12} {', '.join(new)}")


def train(args: argparse.Namespace) -> None:
    names = read_names()
    train_names = [name for name in names if not held_out(name.place)]
    test_names = [name for name in names if held_out(name.place)]
    alphabet = Alphabet.of(name.text for name in train_names)
    rows = [[*alphabet.encode(name.text), EOS] for name in train_names]
    test_rows = [[*alphabet.encode(name.text), EOS] for name in test_names]
    (text, lengths), (test, test_lengths) = pad(rows), pad(test_rows)
    language = torch.tensor([name.language for name in train_names])
    test_language = torch.tensor([name.language for name in test_names])
    print(
        f"{len(rows)} names in {len(LANGUAGES)} languages to learn from, {len(test_rows)} of other places to test on; "
        f"{len(alphabet.symbols)} letters"
    )
    config = (len(alphabet), len(LANGUAGES), args.embedding, args.hidden)
    models = {}
    for label, told in (("not told the language", 0), ("told the language", 1)):
        model = models[label] = Writer(*config).to(args.device)

        def loss(index: Tensor, model: Writer = model, told: int = told) -> Tensor:
            target = text[index, : int(lengths[index].max())].to(args.device)
            logits, _ = model(F.pad(target[:, :-1], (1, 0), value=BOS), (language[index] * told).to(args.device))
            return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)

        fit(model, batches(lengths, args.batch_size, args.epochs, args.seed), loss, lr=args.lr, label=label)

    letters = int(test_lengths.sum())
    ngrams = NGrams(rows, language.tolist(), len(alphabet))
    pairs = zip(test_rows, test_language.tolist(), strict=True)
    base = math.exp(-sum(ngrams.log_prob(row, l) for row, l in pairs) / letters)
    print(f"\n{'perplexity a letter':32} {'parameters':>10} {'held out':>9}")
    print(f"{'n-grams, told the language':32} {'':>10} {base:9.3f}")
    found = []
    for label, model in models.items():
        told = test_language * (label == "told the language")
        found.append(math.exp(-log_prob(model, test, told).sum().item() / letters))
        print(f"{f'GRU, {label}':32} {parameters(model):>10} {found[-1]:9.3f}")
    print(
        f"\nGRU, told the language: {1 - found[1] / base:.1%} below the n-grams, "
        f"{1 - found[1] / found[0]:.1%} below the GRU that is not told\n\nnew names, none of them in the data"
    )
    show(model, alphabet, args.languages, args.count, {name.text for name in names}, args.seed)
    print()
    save(args.out / "model.pt", model, config=config, letters=alphabet.symbols)


def write_more(args: argparse.Namespace) -> None:
    model, saved = load(args.out / "model.pt", lambda facts: Writer(*facts["config"]), args.device)
    show(model, Alphabet(saved["letters"]), args.write, args.count, {name.text for name in read_names()}, args.seed)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "names")
    code = {"nargs": "+", "metavar": "CODE", "choices": LANGUAGES}
    parser.add_argument("--write", help="write names in these languages with the saved model; no training", **code)
    parser.add_argument("--languages", help="to write in", default=["de", "es", "fi", "it", "pl", "sw", "ru"], **code)
    parser.add_argument("--count", type=positive, default=6, help="names to write in each")
    parser.add_argument("--epochs", type=positive, default=6, help="passes over the names")
    parser.add_argument("--batch-size", type=positive, default=64, help="names a training step")
    parser.add_argument("--lr", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--embedding", type=positive, default=32, help="size of a letter's and a language's vector")
    parser.add_argument("--hidden", type=positive, default=128, help="size of the GRU's state")
    args = parse(parser, argv)
    train(args) if args.write is None else write_more(args)


if __name__ == "__main__":
    run(main)
