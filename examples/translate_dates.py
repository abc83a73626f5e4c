"""Dates as the world writes them, to ISO dates: an encoder-decoder with additive attention, character by character.

    Πέμπτη 5 Μαρτίου 1987  ->  1987-03-05        ৫/৩/১৯৮৭  ->  1987-03-05        3/4/1912  ->  1912-04-03 or 1912-03-04

The model reads a date with a bidirectional GRU, writes the ISO date with a second GRU, and looks back at the source
through additive attention (Bahdanau et al. 2015, arXiv:1409.0473). Each source begins with the name of its locale, or,
in a quarter of the samples, with a token that says "unknown": then 3/4/1912 has two right readings, and the n best of
the beam search say both.

    python examples/translate_dates.py                                  # trains and evaluates: two minutes on two cores
    python examples/translate_dates.py --translate "3 mars 1987"        # with the model that was saved
    python examples/translate_dates.py --translate 3/4/1912 --locale en_US
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seqops

try:
    from babel import Locale
    from babel.dates import DateTimePattern, parse_pattern
    from matplotlib.figure import Figure
    from tqdm import tqdm  # type: ignore[import-untyped]
except ImportError as error:
    sys.exit(f'This example needs {error.name}, which is not installed: pip install -e ".[examples]"')

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


PAD, UNK, UNKNOWN_LOCALE = "<pad>", "<unk>", "<unknown locale>"
TARGET = ["<s>", "</s>", *"0123456789-"]
BOS, EOS = 0, 1
TARGET_LENGTH = len("1987-03-05") + 1  # and the end


class Vocabulary:
    """The source's tokens: the locales, and every character that the training samples hold."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.index = {token: i for i, token in enumerate(tokens)}

    @classmethod
    def of(cls, samples: list[Sample]) -> Vocabulary:
        locales = [f"<{locale}>" for locale in LOCALES]
        return cls([PAD, UNK, UNKNOWN_LOCALE, *locales, *sorted({char for sample in samples for char in sample.text})])

    def encode(self, locale: str | None, text: str) -> list[int]:
        first = self.index[UNKNOWN_LOCALE if locale is None else f"<{locale}>"]
        return [first, *(self.index.get(char, self.index[UNK]) for char in text)]

    def locales(self) -> list[str]:
        return [token[1:-1] for token in self.tokens if len(token) > 1 and token not in (PAD, UNK, UNKNOWN_LOCALE)]

    def unknown_chars(self, text: str) -> str:
        return "".join(sorted({char for char in text if char not in self.index}))

    def unreliable(self) -> Tensor:
        """bool [V]: the characters that a reader can do without: neither a digit nor a locale, padding, unknown."""
        return torch.tensor([len(token) == 1 and not token.isdigit() for token in self.tokens])


class Data(NamedTuple):
    source: Tensor  # [N, T]
    lengths: Tensor  # [N]
    target: Tensor  # [N, L], with EOS

    def take(self, index: Tensor, device: torch.device | str) -> Data:
        lengths = self.lengths[index]
        source = self.source[index, : int(lengths.max())]
        return Data(source.to(device), lengths.to(device), self.target[index].to(device))


def encode_samples(samples: list[Sample], vocabulary: Vocabulary) -> Data:
    rows = [torch.tensor(vocabulary.encode(sample.locale, sample.text)) for sample in samples]
    target = [[*map(TARGET.index, sample.iso), EOS] for sample in samples]
    lengths = torch.tensor([len(row) for row in rows])
    return Data(nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, torch.tensor(target))


def batches(lengths: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of batches in random order. Sorting large random pools by length spares most of the padding."""
    for pool in torch.randperm(len(lengths), generator=generator).split(100 * batch_size):
        by_length = pool[lengths[pool].argsort(stable=True)].split(batch_size)
        for i in torch.randperm(len(by_length), generator=generator).tolist():
            yield by_length[i]


# --------------------------------------------------------------------------------------------------------------- model


# step(tokens [B,beam], state [B,beam,H]) -> (logits [B,beam,V], state)
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class DateTranslator(nn.Module):
    def __init__(self, source_size: int, embedding: int, hidden: int, attention: int) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(source_size, embedding)
        self.target_embedding = nn.Embedding(len(TARGET), embedding)
        self.encoder = seqops.nn.GRU(embedding, hidden, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * hidden, hidden)
        self.decoder = seqops.nn.GRU(embedding, hidden, batch_first=True)
        self.attention = seqops.nn.AdditiveAttention(attention, query_dim=hidden, key_dim=2 * hidden)
        self.combine = nn.Linear(3 * hidden, hidden)
        self.predict = nn.Linear(hidden, len(TARGET))

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """source [B,T] -> what attention looks at [B,T,2H], the decoder's first state [B,H]."""
        keys, ends = self.encoder(self.source_embedding(source), lengths=lengths)
        return keys, torch.tanh(self.bridge(torch.cat([ends[0], ends[1]], -1)))

    def output(self, states: Tensor, context: Tensor) -> Tensor:
        return self.predict(torch.tanh(self.combine(torch.cat([states, context], -1))))

    def forward(self, source: Tensor, lengths: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing: previous [B,L], the target one step late -> logits [B,L,V], attention weights [B,L,T].

        The decoder does not read what attention found, so that all its steps are one call, and all looks one more.
        """
        keys, state = self.encode(source, lengths)
        states, _ = self.decoder(self.target_embedding(previous), state[None])
        context, weights = self.attention(states, keys, lengths=lengths, need_weights=not self.training)
        return self.output(states, context), weights

    def stepper(self, source: Tensor, lengths: Tensor) -> tuple[Step, Tensor]:
        """What seqops' decoding asks for, and a first state.

        The source is encoded and its keys are projected once, for all steps and all beams of an item.
        """
        keys, first = self.encode(source, lengths)
        projected = self.attention.project_keys(keys)

        def step(tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            _, new = self.decoder(self.target_embedding(tokens.reshape(-1, 1)), state.reshape(1, -1, state.shape[-1]))
            new = new.view(state.shape)
            context, _ = self.attention(new, keys, projected_keys=projected, lengths=lengths)
            return self.output(new, context), new

        return step, first


def late(target: Tensor) -> Tensor:
    """The target one step late, behind BOS: what the decoder has written before each step."""
    return torch.cat([torch.full_like(target[:, :1], BOS), target[:, :-1]], 1)


# ------------------------------------------------------------------------------------------------------------ training


def train(
    model: DateTranslator,
    data: Data,
    unreliable: Tensor,
    unk: int,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> bool:
    """Trains in place. False: somebody pressed Ctrl-C, and the model is as the last step left it."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(data.lengths) // batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm_up, (steps - i) / max(1, steps - warm_up))
    )
    model.train()
    loss_mean = accuracy = 0.0
    try:
        with tqdm(total=steps, desc="training", unit="batch", mininterval=0.5) as progress:
            for i in range(epochs):
                for index in batches(data.lengths, batch_size, generator):
                    batch = data.take(index, "cpu")
                    # Now and then a character becomes <unk>, so that the model can read over one that it has not met.
                    lost = (torch.rand(batch.source.shape, generator=generator) < 0.005) & unreliable[batch.source]
                    source = batch.source.masked_fill(lost, unk).to(device)
                    lengths, target = batch.lengths.to(device), batch.target.to(device)
                    logits, _ = model(source, lengths, late(target))
                    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    right = (logits.argmax(-1) == target).all(1).float().mean()
                    share = max(0.02, 1 / (progress.n + 1))  # a plain mean at first, then a running one
                    loss_mean += share * (loss.item() - loss_mean)
                    accuracy += share * (right.item() - accuracy)
                    progress.set_postfix(
                        epoch=i + 1, loss=f"{loss_mean:.4f}", accuracy=f"{accuracy:.2%}", refresh=False
                    )
                    progress.update()
    except KeyboardInterrupt:
        return False
    finally:
        model.eval()
    return True


# ------------------------------------------------------------------------------------------------------------ decoding


class Decoded(NamedTuple):
    """The n best of each item, best first."""

    sequences: Tensor  # [N, n, L]
    lengths: Tensor  # [N, n]
    log_probs: Tensor  # [N, n]

    def texts(self) -> list[list[str]]:
        """As the characters before EOS."""
        return [["".join(TARGET[i] for i in ids if i not in (BOS, EOS)) for ids in n] for n in self.sequences.tolist()]


@torch.no_grad()
def decode(model: DateTranslator, data: Data, beam: int, n_best: int = 1, batch_size: int = 256) -> Decoded:
    """Beam search; a beam of 1 is greedy. Batches hold items of like length; the results are in data's order."""
    device = next(model.parameters()).device
    count = len(data.lengths)
    sequences = torch.full((count, n_best, TARGET_LENGTH), EOS)
    lengths, log_probs = torch.zeros(count, n_best, dtype=torch.long), torch.zeros(count, n_best)
    for index in data.lengths.argsort(stable=True).split(batch_size):
        batch = data.take(index, device)
        step, state = model.stepper(batch.source, batch.lengths)
        found = seqops.beam_search(
            step,
            state,
            batch_size=len(index),
            beam_size=beam,
            bos=BOS,
            eos=EOS,
            max_length=TARGET_LENGTH,
            n_best=n_best,
        )
        sequences[index, :, : found.sequences.shape[-1]] = found.sequences.cpu()
        lengths[index], log_probs[index] = found.lengths.cpu(), found.log_probs.cpu()
    return Decoded(sequences, lengths, log_probs)


@torch.no_grad()
def score(model: DateTranslator, data: Data, sequences: Tensor, lengths: Tensor, batch_size: int = 256) -> Tensor:
    """The model's log-probability [N] of sequences [N,L] that somebody gives."""
    device = next(model.parameters()).device
    scores = torch.zeros(len(lengths))
    for index in data.lengths.argsort(stable=True).split(batch_size):
        batch = data.take(index, device)
        step, state = model.stepper(batch.source, batch.lengths)
        found, _ = seqops.score_sequences(step, state, sequences[index].to(device), lengths[index].to(device), bos=BOS)
        scores[index] = found.cpu()
    return scores


# ---------------------------------------------------------------------------------------------------------- evaluation


def two_readings(days: list[datetime.date]) -> list[tuple[str, set[str]]]:
    """What an American and a Spaniard write alike for two of the days, and these two."""
    texts: dict[str, set[str]] = {}
    for day in days:
        for locale in ("en_US", "es"):
            texts.setdefault(write_date(day, locale, "short"), set()).add(day.isoformat())
    return [(text, readings) for text, readings in texts.items() if len(readings) == 2]


def error_analysis(model: DateTranslator, data: Data, decoded: Decoded) -> object:
    """Of each wrong date: did the search miss a likelier truth (its fault), or does the model prefer the wrong one?"""
    references = (data.target, torch.full((len(data.target),), TARGET_LENGTH))
    hypotheses = (decoded.sequences[:, 0], decoded.lengths[:, 0])
    return seqops.analyze_errors(lambda *pair: score(model, data, *pair), references, hypotheses)


def evaluate(
    model: DateTranslator, vocabulary: Vocabulary, days: list[datetime.date], args: argparse.Namespace
) -> None:
    """Prints how the model does on days that it has not seen."""
    known = draw_samples(days, args.test_samples, 0.0, args.seed + 2)
    sets = {"known": known, "unknown": [Sample(None, text, iso) for _, text, iso in known]}
    datas = {name: encode_samples(samples, vocabulary) for name, samples in sets.items()}
    print(f"\n{len(known)} samples of {len(days)} held-out days, each with its locale known and unknown")
    print(f"{'locale':8} {'beam':>8} {'exact match':>12} {'in 3 best':>10}")
    decoded: dict[tuple[str, int], Decoded] = {}
    for name, data in datas.items():
        for beam in sorted({1, 3, 10, args.beam}):
            decoded[name, beam] = decode(model, data, beam, min(3, beam))
            texts = decoded[name, beam].texts()
            exact, among = (
                sum(sample.iso in n[:best] for n, sample in zip(texts, sets[name], strict=True)) / len(known)
                for best in (1, 3)
            )
            width = "1=greedy" if beam == 1 else str(beam)
            print(f"{name:8} {width:>8} {exact:12.2%} {f'{among:.2%}' if beam >= 3 else '':>10}")

    twofold = two_readings(days)
    data = encode_samples([Sample(None, text, "") for text, _ in twofold], vocabulary)
    texts = decode(model, data, args.beam, min(3, args.beam)).texts()
    both = sum(readings <= set(n) for (_, readings), n in zip(twofold, texts, strict=True))
    print(f"{both} of {len(twofold)} texts like 3/4/1912 have both their readings in the {min(3, args.beam)} best")

    print("\nwhose fault the wrong ones are")
    for name, data in datas.items():
        for beam in sorted({1, args.beam}):
            print(f"{name} locale, beam {beam}: {error_analysis(model, data, decoded[name, beam])}")

    print(f"\n{args.rows} samples of each locale, beam {args.beam}\n{'locale':8} {'output':10}  ok   input")
    rows: dict[str, list[str]] = {locale: [] for locale in LOCALES}
    for sample, (best, *_) in zip(known, decoded["known", args.beam].texts(), strict=True):
        ok = "ok" if best == sample.iso else "NO"
        rows[str(sample.locale)].append(f"{sample.locale:8} {best:10}  {ok}   {sample.text}")
    print("\n".join(line for lines in rows.values() for line in lines[: args.rows]))


def draw_attention(model: DateTranslator, vocabulary: Vocabulary, day: datetime.date, path: Path) -> None:
    """A heat map: which characters of the source (along) each character of the ISO date (down) was read from.

    The locales are such that matplotlib's default font has their letters; each character stands in a cell of its own,
    in the order in which the model reads them, so Arabic runs from left to right here and its letters do not join.
    """
    chosen = [("el", "full", False), ("ka", "full", False), ("ar_EG", "long", True)]
    samples = [Sample(locale, write_date(day, locale, style, native), "") for locale, style, native in chosen]
    figure = Figure(figsize=(13, 13), layout="constrained")
    for axes, sample in zip(figure.subplots(len(samples), 1), samples, strict=True):
        data = encode_samples([sample], vocabulary)
        best = decode(model, data, 3).texts()[0][0]
        target = torch.tensor([[*map(TARGET.index, best), EOS]])
        device = next(model.parameters()).device
        with torch.no_grad():
            _, weights = model(data.source.to(device), data.lengths.to(device), late(target).to(device))
        image = axes.imshow(weights[0].cpu().numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(sample.text) + 1), [f"<{sample.locale}>", *sample.text.replace(" ", "␣")])
        axes.set_yticks(range(len(best) + 1), [*best, "end"])
        axes.set_title(f"{sample.locale}: {best}")
        axes.set_xlabel("read")
        axes.set_ylabel("written")
    figure.colorbar(image, ax=figure.axes, label="attention weight", shrink=0.5)
    figure.savefig(path, dpi=100)


# ---------------------------------------------------------------------------------------------------------------- main


def save(path: Path, model: DateTranslator, vocabulary: Vocabulary, config: dict[str, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    torch.save({"config": config, "source": vocabulary.tokens, "target": TARGET, "state_dict": state}, path)


def load(path: Path, device: str) -> tuple[DateTranslator, Vocabulary]:
    if not path.is_file():
        sys.exit(f"No saved model at {path}: train one first, by running this without --translate.")
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        model = DateTranslator(len(saved["source"]), **saved["config"]).to(device)
        model.load_state_dict(saved["state_dict"])
    except (EOFError, KeyError, RuntimeError, TypeError, UnpicklingError):
        sys.exit(f"{path} is not a model that this program saves now: train one anew.")
    return model.eval(), Vocabulary(saved["source"])


def translate(
    model: DateTranslator, vocabulary: Vocabulary, text: str, locale: str | None, beam: int
) -> list[tuple[str, float]]:
    """The ISO dates that the text may mean, best first, with their log-probabilities."""
    data = encode_samples([Sample(locale, normalize(text), "")], vocabulary)
    found = decode(model, data, beam, beam)
    return list(zip(found.texts()[0], found.log_probs[0].tolist(), strict=True))


def run_translate(args: argparse.Namespace) -> None:
    text = normalize(args.translate)
    if not text:
        sys.exit("Nothing to translate: --translate got no visible character.")
    model, vocabulary = load(args.out / "model.pt", args.device)
    if args.locale is not None and args.locale not in vocabulary.locales():
        sys.exit(f"The model does not know the locale {args.locale!r}. It knows: {' '.join(vocabulary.locales())}")
    if unknown := vocabulary.unknown_chars(text):
        print(f"The model has not met these characters and reads each as {UNK}: {unknown}")
    for iso, log_prob in translate(model, vocabulary, text, args.locale, args.beam):
        print(f"{iso:10}  log-probability {log_prob:8.3f}")


def run_training(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    torch.manual_seed(args.seed)  # the model's initial weights; all else has generators of its own
    train_days, test_days = split_days(args.seed)
    samples = draw_samples(train_days, args.samples, UNKNOWN_SHARE, args.seed + 1)
    vocabulary = Vocabulary.of(samples)
    data = encode_samples(samples, vocabulary)
    config = {"embedding": args.embedding, "hidden": args.hidden, "attention": args.attention}
    model = DateTranslator(len(vocabulary.tokens), **config).to(args.device)
    print(
        f"{len(samples)} samples of {len(train_days)} days in {len(LOCALES)} locales; {len(vocabulary.tokens)} source "
        f"tokens; {sum(p.numel() for p in model.parameters())} parameters; took {time.perf_counter() - start:.1f} s"
    )
    finished = train(
        model,
        data,
        vocabulary.unreliable(),
        vocabulary.index[UNK],
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        seed=args.seed,
    )
    path = args.out / "model.pt"
    save(path, model, vocabulary, config)
    if not finished:
        print(f"Stopped in training. The model as it was then is in {path}; no evaluation.")
        return
    evaluate(model, vocabulary, test_days, args)
    draw_attention(model, vocabulary, test_days[0], args.out / "attention.png")
    print(f"\nwrote {path} and {args.out / 'attention.png'}; all took {time.perf_counter() - start:.0f} s")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    def positive(text: str) -> int:
        if (value := int(text)) < 1:
            raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
        return value

    parser = argparse.ArgumentParser(
        description="Learns to turn dates, as people write them in the world's locales, into ISO dates.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--epochs", type=positive, default=2, help="passes over the samples")
    parser.add_argument("--beam", type=positive, default=3, help="width of the beam search, and of --translate's list")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result on the same machine")
    parser.add_argument(
        "--out", type=Path, default=Path("out/translate_dates"), help="folder of the model and the plot"
    )
    parser.add_argument("--translate", metavar="DATE", help="translate this with the saved model; no training")
    parser.add_argument("--locale", help="whose date --translate gets; unknown where not given")
    parser.add_argument("--samples", type=positive, default=100_000, help="training samples")
    parser.add_argument("--test-samples", type=positive, default=3000, help="samples of held-out days")
    parser.add_argument("--rows", type=positive, default=2, help="samples of each locale to print")
    parser.add_argument("--batch-size", type=positive, default=128, help="samples a training step")
    parser.add_argument("--lr", type=float, default=5e-3, help="highest learning rate")
    parser.add_argument("--embedding", type=positive, default=48, help="size of a character's vector")
    parser.add_argument("--hidden", type=positive, default=96, help="size of the GRUs' states")
    parser.add_argument("--attention", type=positive, default=64, help="size in which attention compares states")
    args = parser.parse_args(argv)
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device}: {str(error).splitlines()[0]}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        run_training(args) if args.translate is None else run_translate(args)
    except KeyboardInterrupt:  # before or after the training, which handles it itself and saves
        sys.exit("Stopped.")


if __name__ == "__main__":
    main()
