"""Names of places and languages from Latin letters into eight other scripts, by attention and beam search.

    Ouagadougou, ru  ->  Уагадугу        Ouagadougou, ja  ->  ワガドゥグー        Ouagadougou, hi  ->  औगाडोगू

CLDR has the names of cities, countries and languages in hundreds of languages; where those are foreign, they are
mostly written as they sound. One encoder-decoder with additive attention learns all scripts from the English names; the
first tokens are the language to write in and what is named. It is tested on names that no language has shown in
training.

    python examples/transliterate.py
    python examples/transliterate.py --write Springfield Gandalf --languages ru ja    # with the saved model
"""

from __future__ import annotations

import argparse
import math
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _common import (
    BOS,
    EOS,
    PAD,
    Alphabet,
    batches,
    draw,
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
from _encoder_decoder import Decoded, EncoderDecoder, decode, draw_attention, score
from torch import Tensor

import seqops

try:
    from babel import Locale
except ImportError as error:
    missing(error.name)

LANGUAGES = ("ru", "el", "hy", "ka", "ar", "hi", "ja", "ko")
KINDS = ("city", "country", "language")
LONGEST = 32  # of what is written, with its end


class Pair(NamedTuple):
    kind: str  # city, country, language
    name: str  # English
    language: str
    text: str


def spell(text: str, language: str) -> str:
    """One symbol a sound: Hangul's syllables become their letters, which NFC joins again."""
    return unicodedata.normalize("NFD" if language == "ko" else "NFC", text)


def names_of(language: str) -> dict[tuple[str, str], str]:
    locale = Locale.parse(language)
    zones = locale.time_zones.items()
    names = {("city", zone): said["city"] for zone, said in zones if "city" in said}
    names |= {("country", code): name for code, name in locale.territories.items() if code.isalpha()}
    return names | {("language", code): name for code, name in locale.languages.items() if code.isalpha()}


def read_pairs() -> list[Pair]:
    """What English and the language both name; an English city that CLDR leaves out is its zone's: Africa/Tunis."""
    english = names_of("en")
    pairs = []
    for language in LANGUAGES:
        for (kind, code), text in sorted(names_of(language).items()):
            city = code.rpartition("/")[2].replace("_", " ") if kind == "city" else None
            name = english.get((kind, code), city)
            if name and len(name) < LONGEST and len(spell(text, language)) < LONGEST:
                pairs.append(Pair(kind, name, language, text))
    return list(dict.fromkeys(pairs))


def split(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """To learn from, to test on. The English name decides; what a language calls like a tested one is left out."""
    test = [pair for pair in pairs if held_out(pair.name)]
    shown = {(pair.language, pair.text) for pair in test}
    return [p for p in pairs if not held_out(p.name) and (p.language, p.text) not in shown], test


# ----------------------------------------------------------------------------------------------------------- baselines


def edits(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        left, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            left, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, left + (x != y))
    return row[-1]


class Nearest:
    """What the language calls the name that is spelled most like this one."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.texts: dict[str, dict[str, str]] = defaultdict(dict)
        for pair in pairs:
            self.texts[pair.name][pair.language] = pair.text
        self.order: dict[str, list[str]] = {}

    def write(self, name: str, language: str) -> str:
        if name not in self.order:
            self.order[name] = sorted(self.texts, key=lambda other: edits(name.lower(), other.lower()))
        return next((self.texts[other][language] for other in self.order[name] if language in self.texts[other]), "")


class LetterTable:
    """What a letter most often becomes between the same two neighbours, or beside one, or anywhere.

    Each letter of a training pair becomes 0 to 3 symbols; the likeliest alignments are found and counted in turns.
    """

    def __init__(self, pairs: Sequence[Pair], turns: int = 3) -> None:
        spelled = [(p.language, p.name.lower(), spell(p.text, p.language)) for p in pairs]
        counts: dict[tuple[str, ...], Counter[str]] = {}
        for _ in range(turns):
            costs = {
                key: {chunk: -math.log(n / count.total()) for chunk, n in count.items()}
                for key, count in counts.items()
            }
            counts = defaultdict(Counter)
            for language, name, text in spelled:
                for i, chunk in enumerate(self.align(language, name, text, costs)):
                    for context in self.contexts(language, name, i):
                        counts[context][chunk] += 1
        self.best = {context: count.most_common(1)[0] for context, count in counts.items()}

    @staticmethod
    def contexts(language: str, name: str, i: int) -> list[tuple[str, ...]]:
        before, letter, after = f" {name} "[i : i + 3]
        return [(language, before, letter, after), (language, letter, after), (language, "", "", letter)]

    @staticmethod
    def align(language: str, name: str, text: str, costs: dict[tuple[str, ...], dict[str, float]]) -> list[str]:
        best: dict[int, tuple[float, list[str]]] = {0: (0.0, [])}  # by how much of the text is written
        for i, letter in enumerate(name, 1):
            known = costs.get((language, "", "", letter), {})
            new: dict[int, tuple[float, list[str]]] = {}
            for j, (cost, chunks) in best.items():
                for k in range(j, min(j + 3, len(text)) + 1):
                    # In the first turn nothing is counted yet: what lies near the diagonal is preferred.
                    off = known.get(text[j:k], 9.0) if costs else abs(i / len(name) - k / len(text))
                    if k not in new or cost + off < new[k][0]:
                        new[k] = (cost + off, [*chunks, text[j:k]])
            best = new
        return best.get(len(text), (0.0, []))[1]

    def write(self, name: str, language: str) -> str:
        text = ""
        for i in range(len(name)):
            found = [self.best[c] for c in self.contexts(language, name.lower(), i) if c in self.best]
            text += next((chunk for chunk, n in found if n > 1), found[-1][0] if found else "")
        return unicodedata.normalize("NFC", text)


# ---------------------------------------------------------------------------------------------------------- evaluation


class Quality(NamedTuple):
    right: float  # share of whole names
    errors: float  # edits a character of the truth


def quality(found: Sequence[str], pairs: Sequence[Pair]) -> Quality:
    truths = [unicodedata.normalize("NFC", pair.text) for pair in pairs]
    right = sum(map(str.__eq__, found, truths)) / max(1, len(truths))
    return Quality(right, sum(map(edits, found, truths)) / max(1, sum(map(len, truths))))


def texts_of(decoded: Decoded, letters: Alphabet) -> list[list[str]]:
    return [[unicodedata.normalize("NFC", letters.decode(row)) for row in rows] for rows in decoded.sequences.tolist()]


def sources(pairs: Sequence[Pair], alphabet: Alphabet) -> tuple[Tensor, Tensor]:
    return pad([alphabet.encode([pair.language, pair.kind, *pair.name.lower()]) for pair in pairs])


def evaluate(
    model: EncoderDecoder, train: list[Pair], test: list[Pair], alphabet: Alphabet, letters: Alphabet, beam: int
) -> None:
    table, nearest = LetterTable(train), Nearest(train)
    baselines: dict[str, Callable[[str, str], str]] = {
        "copied": lambda name, language: name,
        "nearest name's": nearest.write,
        "letter table": table.write,
    }
    written = {label: [write(p.name, p.language) for p in test] for label, write in baselines.items()}
    rows = sources(test, alphabet)
    decoded = {}
    print(f"\n{'on names held out':28} {'names right':>11} {'edits a letter':>14} {'in n best':>10} {'seconds':>8}")
    for label, found in written.items():
        print("{:28} {:11.2%} {:14.2%}".format(label, *quality(found, test)))
    for width, penalty in ((1, 0.0), (3, 0.0), (10, 0.0), (10, 0.5), (10, 1.0), (beam, 0.0)):
        label = f"GRU, beam {width}" + (f", / length ** {penalty}" if penalty else "")
        if label in decoded:
            continue
        start = time.perf_counter()
        decoded[label] = decode(model, *rows, width, max_length=LONGEST, n_best=width, length_penalty=penalty)
        seconds = time.perf_counter() - start
        best = texts_of(decoded[label], letters)
        written[label] = [n[0] for n in best]
        among = sum(unicodedata.normalize("NFC", p.text) in n for p, n in zip(test, best, strict=True)) / len(test)
        print("{:28} {:11.2%} {:14.2%} {:10.2%} {:8.2f}".format(label, *quality(written[label], test), among, seconds))

    ours = f"GRU, beam {beam}"
    base, found = quality(written["letter table"], test), quality(written[ours], test)
    print(
        f"\n{ours}: {100 * (found.right - base.right):+.2f} points of names against the letter table, "
        f"{100 * (found.errors - base.errors):+.2f} of edits\n\nby language and by kind: {ours}, the letter table"
    )
    for field, groups in (("language", LANGUAGES), ("kind", KINDS)):
        for group in groups:
            index = [i for i, pair in enumerate(test) if getattr(pair, field) == group]
            few = [test[i] for i in index]
            pair = [quality([written[label][i] for i in index], few).right for label in (ours, "letter table")]
            print(f"{group:8} {len(few):5} names {pair[0]:8.1%} {pair[1]:8.1%}")

    print("\nwhose fault the wrong ones are")
    target, lengths = pad([[*letters.encode(spell(p.text, p.language)), EOS] for p in test], EOS)
    for label in ("GRU, beam 1", ours):
        hypotheses = (decoded[label].sequences[:, 0], decoded[label].lengths[:, 0])
        print(
            f"{label}: {seqops.analyze_errors(lambda *said: score(model, *rows, *said), (target, lengths), hypotheses)}"
        )
    wrong = [i for i, (text, pair) in enumerate(zip(written[ours], test, strict=True)) if text != pair.text][:20]
    missed, known = search_all(model, rows[0][wrong], rows[1][wrong], beam)
    print(f"of the first {len(wrong)} wrong ones, searched to the end ({known} of them): beam {beam} missed {missed}")


@torch.no_grad()
def search_all(model: EncoderDecoder, source: Tensor, lengths: Tensor, beam: int) -> tuple[int, int]:
    """Of how many items the best of all sequences is not what beam search found, and for how many that is certain."""
    if not len(lengths):
        return 0, 0
    device = next(model.parameters()).device
    step, state = model.stepper(source[:, : int(lengths.max())].to(device), lengths.to(device))
    same: dict[str, Any] = {"batch_size": len(lengths), "bos": BOS, "eos": EOS, "max_length": LONGEST}
    found = seqops.beam_search(step, state, beam_size=beam, **same)
    exact = seqops.exact_search(step, state, found=found, max_nodes=500, **same)
    return int((exact.scores > found.scores[:, 0] + 1e-4).sum()), int(exact.complete.sum())


def picture(args: argparse.Namespace, model: EncoderDecoder, pairs: list[Pair], a: Alphabet, letters: Alphabet) -> None:
    """In languages whose letters matplotlib's own font has."""

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, len(pairs), squeeze=False)[0]
        for axis, pair in zip(axes, pairs, strict=True):
            rows = sources([pair], a)
            text = letters.decode(decode(model, *rows, args.beam, max_length=LONGEST).sequences[0, 0].tolist())
            image = draw_attention(axis, model, rows[0][0].tolist(), [*letters.encode(text), EOS])
            axis.set_xticks(range(len(pair.name) + 2), [pair.language, pair.kind, *pair.name.lower()])
            axis.set_yticks(range(len(text) + 1), [*text, "end"])
            axis.set_title(f"{pair.name}: {text}")
        figure.colorbar(image, ax=axes, label="attention weight")

    draw(args.out / "attention.png", (5 * len(pairs), 5), paint)


# ---------------------------------------------------------------------------------------------------------------- main


def train(args: argparse.Namespace) -> None:
    train_pairs, test_pairs = split(read_pairs())
    alphabet = Alphabet([*LANGUAGES, *KINDS, *sorted({letter for pair in train_pairs for letter in pair.name.lower()})])
    letters = Alphabet.of(spell(pair.text, pair.language) for pair in train_pairs)
    source, lengths = sources(train_pairs, alphabet)
    target, target_lengths = pad([[*letters.encode(spell(p.text, p.language)), EOS] for p in train_pairs])
    config = (len(alphabet), len(letters), args.embedding, args.hidden, args.attention)
    model = EncoderDecoder(*config).to(args.device)
    model.dropout.p = args.dropout
    print(
        f"{len(train_pairs)} pairs of {len({p.name for p in train_pairs})} names in {len(LANGUAGES)} languages to "
        f"learn from, {len(test_pairs)} of {len({p.name for p in test_pairs})} other names to test on; "
        f"{parameters(model)} parameters"
    )

    def loss(index: Tensor) -> Tensor:
        rows = source[index, : int(lengths[index].max())].to(args.device)
        wanted = target[index, : int(target_lengths[index].max())].to(args.device)
        logits, _ = model(rows, lengths[index].to(args.device), wanted)
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=PAD)

    fit(model, batches(lengths, args.batch_size, args.epochs, args.seed), loss, lr=args.lr)
    save(args.out / "model.pt", model, config=config, source=alphabet.symbols, target=letters.symbols)
    evaluate(model, train_pairs, test_pairs, alphabet, letters, args.beam)
    shown = [next((p for p in test_pairs if (p.language, p.kind) == (l, "city")), None) for l in ("ru", "el", "hy")]
    if pairs := [pair for pair in shown if pair]:
        picture(args, model, pairs, alphabet, letters)


def write(args: argparse.Namespace) -> None:
    model, saved = load(args.out / "model.pt", lambda facts: EncoderDecoder(*facts["config"]), args.device)
    pairs = [Pair("city", name, language, "") for name in args.write if name for language in args.languages]
    if pairs:
        decoded = decode(model, *sources(pairs, Alphabet(saved["source"])), args.beam, max_length=LONGEST)
        for pair, (text,) in zip(pairs, texts_of(decoded, Alphabet(saved["target"])), strict=True):
            print(f"{pair.language}  {pair.name}  {text}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "transliterate")
    parser.add_argument(
        "--write", nargs="+", metavar="NAME", help="write these, as cities, with the saved model; no training"
    )
    parser.add_argument(
        "--languages", nargs="+", metavar="CODE", choices=LANGUAGES, default=LANGUAGES, help="of --write"
    )
    parser.add_argument("--beam", type=positive, default=3, help="width of the beam search")
    parser.add_argument("--epochs", type=positive, default=12, help="passes over the pairs")
    parser.add_argument("--batch-size", type=positive, default=64, help="pairs a training step")
    parser.add_argument("--lr", type=float, default=6e-3, help="highest learning rate")
    parser.add_argument("--dropout", type=float, default=0.1, help="of symbols' vectors and of what is written")
    parser.add_argument("--embedding", type=positive, default=32, help="size of a symbol's vector")
    parser.add_argument("--hidden", type=positive, default=96, help="size of the GRUs' states")
    parser.add_argument("--attention", type=positive, default=48, help="size in which attention compares states")
    args = parse(parser, argv)
    train(args) if args.write is None else write(args)


if __name__ == "__main__":
    run(main)
