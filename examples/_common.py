"""What the examples share: options, a dictionary to learn from, a training loop, models in files, pictures."""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor, nn

try:
    from tqdm import tqdm  # type: ignore[import-untyped]
except ImportError:
    tqdm = None

T = TypeVar("T")


def missing(package: str | None) -> NoReturn:
    """Ends the program with a line that says how to get what it lacks."""
    sys.exit(f'This example needs {package}, which is not installed: pip install -e ".[examples]"')


# ------------------------------------------------------------------------------------------------------------- options


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def options(doc: str | None, out: str, *, cache: bool = False) -> argparse.ArgumentParser:
    """--device, --seed, --out and, for what reads the dictionary, --cache; described by the first line of `doc`."""
    parser = argparse.ArgumentParser(
        description=(doc or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result on the same machine")
    parser.add_argument("--out", type=Path, default=Path("out") / out, help="folder of the model and the pictures")
    if cache:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        parser.add_argument("--cache", type=Path, default=home / "seqops", help="folder that keeps the dictionary")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; the device is there, and torch's generator is seeded."""
    args = parser.parse_args(argv)
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device}: {str(error).splitlines()[0]}")
    torch.manual_seed(args.seed)
    return args


def run(main: Callable[[], None]) -> None:
    """Ctrl-C outside a training loop, which has its own use for it, ends the program in one line."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped.")


# ---------------------------------------------------------------------------------------------------------- dictionary


class Entry(NamedTuple):
    """Of the GNU Collaborative International Dictionary of English: Webster's of 1913, and later additions."""

    word: str
    marked: str  # Ar"ro*gant: after a syllable " is the first stress, ` a second one, * none; no mark after the last
    part_of_speech: str  # n., v. t., a., ...; empty where it is not said
    definition: str  # the first sense


HEADWORD = re.compile(r"^(\S[^\\\n]*) \\([^\\\n]+)\\", re.MULTILINE)
SOURCE = re.compile(r"\[(?:1913 Webster|WordNet|PJC|Webster|Century)")
BRACKETS = re.compile(r"\[[^\[\]]*\]|\([^()]*\)")
ABBREVIATIONS = "prop|pl|sing|p|n|a|v|t|i|adv|adj|prep|conj|interj|pron|imp|superl|fem|masc"
PART_OF_SPEECH = re.compile(rf"[ ,]*((?:(?:{ABBREVIATIONS})\.|&)(?:[ ,]+|$|(?=;)))+")


def read_entries(text: str) -> list[Entry]:
    """The entries with a definition."""
    entries = []
    for head in HEADWORD.finditer(text):
        end = text.find("\n\n", head.end())
        if source := SOURCE.search(text, head.end(), end):
            end = source.start()
        body = BRACKETS.sub("", BRACKETS.sub("", text[head.end() : end]))  # twice: [OE. [=a]n]
        first, _, rest = body.partition("\n")
        rest = re.sub(r"\s*--\s?[A-Z].*", "", rest, flags=re.DOTALL)  # whom it quotes
        definition = re.sub(r"^(\d+\.|\w\)) *", "", " ".join(rest.replace("{", "").replace("}", "").split()))
        found = PART_OF_SPEECH.match(first)
        if definition:
            entries.append(Entry(head[1], head[2], found[0].strip(" ,") if found else "", definition))
    return entries


def dictionary(cache: Path) -> list[Entry]:
    """The entries of Debian's package dict-gcide: from `cache`, as installed, or fetched into `cache`."""
    name = "gcide.dict.dz"
    for path in (cache / name, Path("/usr/share/dictd") / name):
        if path.is_file():
            return read_entries(gzip.decompress(path.read_bytes()).decode("utf-8", "replace"))
    fetch_dictionary(cache, name)
    return dictionary(cache)


def fetch_dictionary(cache: Path, name: str) -> None:
    print(f"fetching Debian's package dict-gcide (15 MB) into {cache}", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            quiet: dict[str, Any] = {"cwd": folder, "check": True, "capture_output": True}
            subprocess.run(["apt-get", "download", "dict-gcide"], **quiet)
            (package,) = Path(folder).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package, "."], **quiet)
            shutil.copyfile(Path(folder) / "usr/share/dictd" / name, cache / f"{name}.part")
        (cache / f"{name}.part").replace(cache / name)
    except (OSError, ValueError, subprocess.CalledProcessError):
        sys.exit(
            f"Could not fetch the dictionary: apt-get install dict-gcide, or put its {name} into {cache}, "
            f"or say by --cache where it is"
        )


def held_out(word: str, share: float = 0.1) -> bool:
    """Whether a word is for the test. Its spelling alone decides, so that all its entries go the same way."""
    return zlib.crc32(word.lower().encode()) % 1000 < share * 1000


# ------------------------------------------------------------------------------------------------------------- batches

PAD, UNK, BOS, EOS = 0, 1, 2, 3


class Alphabet:
    """Numbers for characters, or for words; below them PAD, UNK, BOS and EOS."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = list(symbols)
        self.index = {symbol: i for i, symbol in enumerate(self.symbols, EOS + 1)}

    @classmethod
    def of(cls, texts: Iterable[Iterable[str]]) -> Alphabet:
        return cls(sorted({symbol for text in texts for symbol in text}))

    def __len__(self) -> int:
        return EOS + 1 + len(self.symbols)

    def encode(self, text: Iterable[str]) -> list[int]:
        return [self.index.get(symbol, UNK) for symbol in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Up to EOS."""
        text = ""
        for i in ids:
            if i == EOS:
                break
            text += self.symbols[i - EOS - 1] if i > EOS else ""
        return text


def pad(rows: Sequence[Sequence[int]], value: int = PAD) -> tuple[Tensor, Tensor]:
    """[N, longest] and their lengths [N]."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value), lengths


def batches(lengths: Tensor, batch_size: int, epochs: int, seed: int) -> list[Tensor]:
    """Indices of batches in random order. Sorting large random pools by length spares most of the padding."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    for _ in range(epochs):
        epoch: list[Tensor] = []
        for pool in torch.randperm(len(lengths), generator=generator).split(50 * batch_size):
            epoch += pool[lengths[pool].argsort(stable=True)].split(batch_size)
        found += [epoch[i] for i in torch.randperm(len(epoch), generator=generator).tolist()]
    return found


# ------------------------------------------------------------------------------------------------------------ training


class Progress(Generic[T]):
    """A loop over `items`, with a bar where tqdm is installed."""

    def __init__(self, items: Iterable[T], label: str, unit: str = "batch") -> None:
        total = len(items) if isinstance(items, Sized) else None
        self.items = items
        self.bar = tqdm and tqdm(items, desc=label, unit=unit, total=total, mininterval=0.5, dynamic_ncols=True)

    def __iter__(self) -> Iterator[T]:
        return iter(self.bar or self.items)

    def show(self, **values: float) -> None:
        if self.bar is not None:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)


def fit(
    model: nn.Module,
    batches: Sequence[T],
    loss: Callable[[T], Tensor],
    *,
    lr: float,
    label: str = "training",
    clip: float = 1.0,
) -> list[float]:
    """Trains in place by Adam; the rate rises over a twentieth of the steps and falls to nothing by the last.

    Ctrl-C ends the training, not the program: what follows has the model as the last step left it. Returns the norm
    of each step's gradient, before it was clipped.
    """
    steps = len(batches)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    rise = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / rise, (steps - i) / max(1, steps - rise))
    )
    model.train()
    mean, norms = 0.0, []
    progress = Progress(batches, label)
    try:
        for batch in progress:
            value = loss(batch)
            optimizer.zero_grad()
            value.backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip).item())
            optimizer.step()
            schedule.step()
            mean += max(0.02, 1 / len(norms)) * (value.item() - mean)  # a plain mean at first, then a running one
            progress.show(loss=mean)
    except KeyboardInterrupt:
        print(f"\ntraining stopped after {len(norms)} of {steps} batches; going on with the model as it is")
    model.eval()
    return norms


def run_trainer(trainer: Any, label: str) -> None:
    """Runs a trainer of word vectors, with a bar where tqdm is installed."""
    if tqdm is None:
        trainer.run()
        return
    shape = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    with tqdm(desc=label, total=1, bar_format=shape, leave=False, dynamic_ncols=True) as bar:

        def show(at: Any) -> None:
            bar.n = at.done
            bar.set_postfix(loss=f"{at.loss:.4g}")

        trainer.run(show)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# --------------------------------------------------------------------------------------------------------------- files


def save(path: Path, model: nn.Module, **facts: Any) -> None:
    """The weights, and all else that builds the model again, which are plain values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {name: w.cpu() for name, w in model.state_dict().items()}, **facts}, path)
    print(f"wrote {path}")


def load(path: Path, build: Callable[[dict[str, Any]], nn.Module], device: str) -> tuple[Any, dict[str, Any]]:
    """The model that `build` makes of the facts that were saved with it, and these."""
    if not path.is_file():
        sys.exit(f"No saved model at {path}: train one first.")
    try:
        facts = torch.load(path, map_location="cpu", weights_only=True)
        model = build(facts)
        model.load_state_dict(facts.pop("state_dict"))
    except (EOFError, KeyError, RuntimeError, TypeError, UnpicklingError):
        sys.exit(f"{path} is not a model that this program saves now: train one anew.")
    return model.to(device).eval(), facts


def draw(path: Path, size: tuple[float, float], paint: Callable[[Any], None]) -> None:
    """Has `paint` fill a matplotlib Figure of so many inches, and saves it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no {path.name}: pip install matplotlib for the picture")
        return
    figure = Figure(figsize=size, layout="constrained")
    paint(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")
