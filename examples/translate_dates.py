"""Dates as the world writes them, to ISO dates: an encoder-decoder with additive attention, character by character.

    Πέμπτη 5 Μαρτίου 1987  ->  1987-03-05        ৫/৩/১৯৮৭  ->  1987-03-05        3/4/1912  ->  1912-04-03 or 1912-03-04

The model reads a date with a bidirectional GRU, writes the ISO date with a second GRU, and looks back at the source
through additive attention (Bahdanau et al. 2015, arXiv:1409.0473). Each source begins with the name of its locale, or,
in a quarter of the samples, with a token that says "unknown": then 3/4/1912 has two right readings, and the n best of
the beam search mostly say both.

    python examples/translate_dates.py                                  # trains and evaluates: a minute or two
    python examples/translate_dates.py --translate "3 mars 1987"        # with the model that was saved
    python examples/translate_dates.py --translate 3/4/1912 --locale en_US
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import re
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _common import (
    EOS,
    UNK,
    Alphabet,
    batches,
    draw,
    fit,
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
    from babel.dates import DateTimePattern, parse_pattern
except ImportError as error:
    missing(error.name)

# ---------------------------------------------------------------------------------------------------------------- data

LOCALES = """
    af am ar_EG ar_MA as az be bg bn ca chr ckb cs cy da de dz ee el en_GB en_US es es_PA et eu fa fi fil fr ga gl gu
    he hi hr hu hy id is it iu ja ka kk km kn ko ks ky lo lt lv mk ml mn mr ms mt my nb ne nl or pa pl ps pt_BR ro ru
    sd si sk sl sq sr sv sw ta te th ti tr ug uk ur uz vi xh zh zh_Hant zu
""".split()  # noqa: SIM905 (a list would take a page)
STYLES = ("short", "medium", "long", "full")
FIRST_DAY, LAST_DAY = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
HELD_OUT = 0.05  # share of the days
UNKNOWN_SHARE = 0.25  # of the samples, whose locale is not told

# Babel knows which digits a locale uses, and writes Latin ones all the same. So: CLDR's names of the positional
# systems, with Unicode's names of their digits.
DIGITS = {
    "arab": "ARABIC-INDIC",
    "arabext": "EXTENDED ARABIC-INDIC",
    "beng": "BENGALI",
    "deva": "DEVANAGARI",
    "gujr": "GUJARATI",
    "guru": "GURMUKHI",
    "khmr": "KHMER",
    "knda": "KANNADA",
    "laoo": "LAO",
    "mlym": "MALAYALAM",
    "mymr": "MYANMAR",
    "orya": "ORIYA",
    "tamldec": "TAMIL",
    "telu": "TELUGU",
    "thai": "THAI",
    "tibt": "TIBETAN",
}


def normalize(text: str) -> str:
    """One spelling for what looks the same: composed characters, plain spaces, no invisible direction marks."""
    text = re.sub("[\u061c\u200e\u200f]", "", unicodedata.normalize("NFKC", text))
    return " ".join(text.split())


@cache
def date_pattern(locale: str, style: str) -> DateTimePattern:
    """CLDR's pattern, with the year in full: a year of two digits would not say its century."""
    pattern = Locale.parse(locale).date_formats[style].pattern
    # What stands in quotes is text: the first branch takes it whole, so that a y in it stays.
    return parse_pattern(re.sub("('[^']*')|y+", lambda match: match[1] or "y", pattern))


@cache
def digits(locale: str, native: bool) -> dict[int, str]:
    """From Latin digits to the locale's usual ones, or to those of its script, as a table for str.translate."""
    data = Locale.parse(locale)
    system = data.other_numbering_systems["native"] if native else data.default_numbering_system
    if system not in DIGITS:
        return {}  # Latin; or Chinese, whose own numerals are not positional: the tenth month is 十, not 一〇
    zero = ord(unicodedata.lookup(f"{DIGITS[system]} DIGIT ZERO"))
    return {ord("0") + i: chr(zero + i) for i in range(10)}


def write_date(day: datetime.date, locale: str, style: str, native: bool = False) -> str:
    """The day in the Gregorian calendar, as CLDR's short, medium, long or full style of the locale has it."""
    text = date_pattern(locale, style).apply(day, Locale.parse(locale))
    return normalize(text.translate(digits(locale, native)))


def split_days(seed: int) -> tuple[list[datetime.date], list[datetime.date]]:
    """Days to train on and days to test on, split before any is written: no locale shows a test day in training."""
    days = [FIRST_DAY + datetime.timedelta(i) for i in range((LAST_DAY - FIRST_DAY).days + 1)]
    order = torch.randperm(len(days), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = round(HELD_OUT * len(days))
    return [days[i] for i in order[held_out:]], [days[i] for i in order[:held_out]]


class Sample(NamedTuple):
    locale: str | None  # None: not told
    text: str
    iso: str  # empty where only the text matters


def draw_samples(days: list[datetime.date], count: int, unknown_share: float, seed: int) -> list[Sample]:
    """Days, locales and digits drawn evenly; the short style, the one that leaves doubts, twice as often as another."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> list[int]:
        return torch.randint(n, (count,), generator=generator).tolist()

    unknown = (torch.rand(count, generator=generator) < unknown_share).tolist()
    samples = []
    styles = ("short", *STYLES)
    draws = zip(draw(len(days)), draw(len(LOCALES)), draw(len(styles)), draw(2), unknown, strict=True)
    for d, l, s, native, u in draws:
        text = write_date(days[d], LOCALES[l], styles[s], bool(native))
        samples.append(Sample(None if u else LOCALES[l], text, days[d].isoformat()))
    return samples


UNKNOWN_LOCALE = "unknown locale"
TARGET = Alphabet("0123456789-")
TARGET_LENGTH = len("1987-03-05") + 1  # and the end


def alphabet_of(samples: Sequence[Sample]) -> Alphabet:
    """The source's symbols: the locales, and every character that the samples hold."""
    return Alphabet([UNKNOWN_LOCALE, *LOCALES, *sorted({char for sample in samples for char in sample.text})])


def sources(samples: Sequence[Sample], alphabet: Alphabet) -> tuple[Tensor, Tensor]:
    return pad([alphabet.encode([sample.locale or UNKNOWN_LOCALE, *sample.text]) for sample in samples])


def targets(samples: Sequence[Sample]) -> Tensor:
    return torch.tensor([[*TARGET.encode(sample.iso), EOS] for sample in samples])


# ---------------------------------------------------------------------------------------------------------- evaluation


class Skeletons:
    """The baseline: which number is the year, the month, the day, as mostly in texts alike but for their numbers.

    March of "5 mars 1987", which no number gives, is what it mostly was beside the same letters.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.counts: dict[tuple[str | None, str], Counter[tuple[int | str, ...]]] = defaultdict(Counter)
        for sample in samples:
            numbers, skeleton = self.parts(sample.text)
            fields = sample.iso.split("-")
            places: list[list[int | str]] = [[i for i, n in enumerate(numbers) if n == int(f)] or [f] for f in fields]
            if len(numbers) < len(fields):
                places[1] = [fields[1]]  # the month is a word, and no number that happens to be the same
            for locale in {None, sample.locale}:
                self.counts[locale, skeleton].update(itertools.product(*places))

    @staticmethod
    def parts(text: str) -> tuple[list[int], str]:
        return [int(number) for number in re.findall(r"\d+", text)], re.sub(r"\d+", "#", text)

    def write(self, locale: str | None, text: str) -> str:
        """The commonest reading that is a date; empty where there is none."""
        numbers, skeleton = self.parts(text)
        for key in ((locale, skeleton), (None, skeleton)):
            for reading, _ in self.counts.get(key, Counter()).most_common():
                try:
                    year, month, day = (int(numbers[f] if isinstance(f, int) else f) for f in reading)
                    return datetime.date(year, month, day).isoformat()
                except ValueError:  # no date: the 3rd of the 25th month
                    continue
        return ""


def texts_of(decoded: Decoded) -> list[list[str]]:
    return [[TARGET.decode(row) for row in rows] for rows in decoded.sequences.tolist()]


def two_readings(days: list[datetime.date]) -> list[tuple[str, set[str]]]:
    """What an American and a Spaniard write alike for two of the days, and these two."""
    texts: dict[str, set[str]] = {}
    for day in days:
        for locale in ("en_US", "es"):
            texts.setdefault(write_date(day, locale, "short"), set()).add(day.isoformat())
    return [(text, readings) for text, readings in texts.items() if len(readings) == 2]


def evaluate(
    model: EncoderDecoder,
    alphabet: Alphabet,
    baseline: Skeletons,
    days: list[datetime.date],
    args: argparse.Namespace,
) -> None:
    """Prints how the model does on days that it has not seen."""
    known = draw_samples(days, args.test_samples, 0.0, args.seed + 2)
    sets = {"known": known, "unknown": [Sample(None, text, iso) for _, text, iso in known]}
    rows = {name: sources(samples, alphabet) for name, samples in sets.items()}
    decoded: dict[tuple[str, int], Decoded] = {}
    print(f"\n{len(known)} samples of {len(days)} held-out days, each with its locale known and unknown")
    print(f"{'locale':8} {'beam':>9} {'exact match':>12} {'in 3 best':>10}")
    for name, samples in sets.items():
        right = sum(baseline.write(locale, text) == iso for locale, text, iso in samples)
        print(f"{name:8} skeletons {right / len(samples):12.2%}")
        for beam in sorted({1, 3, 10, args.beam}):
            found = decoded[name, beam] = decode(
                model, *rows[name], beam, max_length=TARGET_LENGTH, n_best=min(3, beam)
            )
            exact, among = (
                sum(sample.iso in n[:best] for n, sample in zip(texts_of(found), samples, strict=True)) / len(samples)
                for best in (1, 3)
            )
            width = "1=greedy" if beam == 1 else str(beam)
            print(f"{name:8} {width:>9} {exact:12.2%} {f'{among:.2%}' if beam >= 3 else '':>10}")

    twofold = two_readings(days)
    n_best = min(3, args.beam)
    asked = sources([Sample(None, text, "") for text, _ in twofold], alphabet)
    texts = texts_of(decode(model, *asked, args.beam, max_length=TARGET_LENGTH, n_best=n_best))
    both = sum(readings <= set(n) for (_, readings), n in zip(twofold, texts, strict=True))
    print(f"{both} of {len(twofold)} texts like 3/4/1912 have both their readings in the {n_best} best")

    print("\nwhose fault the wrong ones are: the search missed a likelier truth, or the model prefers the wrong one")
    truth = (targets(known), torch.full((len(known),), TARGET_LENGTH))
    for name, source in rows.items():
        for beam in sorted({1, args.beam}):
            found = decoded[name, beam]
            hypotheses = (found.sequences[:, 0], found.lengths[:, 0])
            faults = seqops.analyze_errors(lambda *said, source=source: score(model, *source, *said), truth, hypotheses)
            print(f"{name} locale, beam {beam}: {faults}")

    print(f"\n{args.rows} samples of each locale, beam {args.beam}\n{'locale':8} {'output':10}  ok   input")
    lines: dict[str, list[str]] = {locale: [] for locale in LOCALES}
    for sample, (best, *_) in zip(known, texts_of(decoded["known", args.beam]), strict=True):
        ok = "ok" if best == sample.iso else "NO"
        lines[str(sample.locale)].append(f"{sample.locale:8} {best:10}  {ok}   {sample.text}")
    print("\n".join(line for few in lines.values() for line in few[: args.rows]))


def picture(args: argparse.Namespace, model: EncoderDecoder, alphabet: Alphabet, day: datetime.date) -> None:
    """What each character of the ISO date was read from.

    The locales are such that matplotlib's default font has their letters; each character stands in a cell of its own,
    in the order in which the model reads them, so Arabic runs from left to right here and its letters do not join.
    """
    chosen = [("el", "full", False), ("ka", "full", False), ("ar_EG", "long", True)]
    samples = [Sample(locale, write_date(day, locale, style, native), "") for locale, style, native in chosen]
    best = [n[0] for n in texts_of(decode(model, *sources(samples, alphabet), 3, max_length=TARGET_LENGTH))]

    def paint(figure: Any) -> None:
        for axes, sample, text in zip(figure.subplots(len(samples), 1), samples, best, strict=True):
            row = alphabet.encode([str(sample.locale), *sample.text])
            image = draw_attention(axes, model, row, [*TARGET.encode(text), EOS])
            axes.set_xticks(range(len(row)), [f"<{sample.locale}>", *sample.text.replace(" ", "␣")])
            axes.set_yticks(range(len(text) + 1), [*text, "end"])
            axes.set_title(f"{sample.locale}: {text}")
        figure.colorbar(image, ax=figure.axes, label="attention weight", shrink=0.5)

    draw(args.out / "attention.png", (13, 13), paint)


# ---------------------------------------------------------------------------------------------------------------- main


def train(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    train_days, test_days = split_days(args.seed)
    samples = draw_samples(train_days, args.samples, UNKNOWN_SHARE, args.seed + 1)
    alphabet = alphabet_of(samples)
    source, lengths = sources(samples, alphabet)
    target = targets(samples)
    config = (len(alphabet), len(TARGET), args.embedding, args.hidden, args.attention)
    model = EncoderDecoder(*config).to(args.device)
    print(
        f"{len(samples)} samples of {len(train_days)} days in {len(LOCALES)} locales; {len(alphabet)} source symbols; "
        f"{parameters(model)} parameters; took {time.perf_counter() - start:.1f} s"
    )

    # Now and then a character, but no digit, becomes UNK, so that the model can read over one that it has not met.
    droppable = torch.zeros(len(alphabet), dtype=torch.bool)
    droppable[[i for symbol, i in alphabet.index.items() if len(symbol) == 1 and not symbol.isdigit()]] = True
    generator = torch.Generator().manual_seed(args.seed)

    def loss(index: Tensor) -> Tensor:
        rows = source[index, : int(lengths[index].max())]
        lost = (torch.rand(rows.shape, generator=generator) < 0.005) & droppable[rows]
        wanted = target[index].to(args.device)
        logits, _ = model(rows.masked_fill(lost, UNK).to(args.device), lengths[index].to(args.device), wanted)
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    fit(model, batches(lengths, args.batch_size, args.epochs, args.seed), loss, lr=args.lr)
    save(args.out / "model.pt", model, config=config, source=alphabet.symbols)
    evaluate(model, alphabet, Skeletons(samples), test_days, args)
    picture(args, model, alphabet, test_days[0])
    print(f"all took {time.perf_counter() - start:.0f} s")


def translate(args: argparse.Namespace) -> None:
    """Prints the ISO dates that a text may mean, best first, with their log-probabilities."""
    text = normalize(args.translate)
    if not text:
        sys.exit("Nothing to translate: --translate got no visible character.")
    model, saved = load(args.out / "model.pt", lambda facts: EncoderDecoder(*facts["config"]), args.device)
    alphabet = Alphabet(saved["source"])
    if unknown := "".join(sorted({char for char in text if char not in alphabet.index})):
        print(f"The model has not met these characters and reads each as unknown: {unknown}")
    asked = sources([Sample(args.locale, text, "")], alphabet)
    found = decode(model, *asked, args.beam, max_length=TARGET_LENGTH, n_best=args.beam)
    for iso, log_prob in zip(texts_of(found)[0], found.log_probs[0].tolist(), strict=True):
        print(f"{iso:10}  log-probability {log_prob:8.3f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "translate_dates")
    parser.add_argument("--translate", metavar="DATE", help="translate this with the saved model; no training")
    parser.add_argument(
        "--locale", metavar="NAME", choices=LOCALES, help="whose date --translate gets; unknown where not given"
    )
    parser.add_argument("--beam", type=positive, default=3, help="width of the beam search, and of --translate's list")
    parser.add_argument("--epochs", type=positive, default=2, help="passes over the samples")
    parser.add_argument("--samples", type=positive, default=100_000, help="training samples")
    parser.add_argument("--test-samples", type=positive, default=3000, help="samples of held-out days")
    parser.add_argument("--rows", type=positive, default=2, help="samples of each locale to print")
    parser.add_argument("--batch-size", type=positive, default=128, help="samples a training step")
    parser.add_argument("--lr", type=float, default=5e-3, help="highest learning rate")
    parser.add_argument("--embedding", type=positive, default=48, help="size of a character's vector")
    parser.add_argument("--hidden", type=positive, default=96, help="size of the GRUs' states")
    parser.add_argument("--attention", type=positive, default=64, help="size in which attention compares states")
    args = parse(parser, argv)
    train(args) if args.translate is None else translate(args)


if __name__ == "__main__":
    run(main)
