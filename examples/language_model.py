"""A language model that writes dictionary entries, character by character: RNN, GRU and LSTM side by side.

    arrogance: the act or habit of arrogating, or making undue claims in an overbearing manner

Each reads the same stream of entries, in chunks (backpropagation through time, truncated; the state goes on from
chunk to chunk; gradients are clipped), and is measured on the entries of words that the stream did not have, beside
n-grams that count the same stream. Then they define words: by sampling at some temperature, from the top k, from the
top p of the probability (Holtzman et al. 2020, arXiv:1904.09751), and by beam search. The picture shows how far back a
loss sends its gradient.

    python examples/language_model.py
    python examples/language_model.py --define electricity mouse        # with the model that was saved
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _common import (
    EOS,
    Alphabet,
    Entry,
    dictionary,
    draw,
    fit,
    held_out,
    load,
    options,
    parameters,
    parse,
    positive,
    run,
    save,
)
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import seqops

KINDS = ("RNN", "GRU", "LSTM")


def read_texts(entries: list[Entry], seed: int) -> tuple[list[str], list[str]]:
    """word: the first part of its definition; to train on and to test on, in random order."""
    texts: tuple[list[str], list[str]] = ([], [])
    for i in torch.randperm(len(entries), generator=torch.Generator().manual_seed(seed)).tolist():
        word, definition = entries[i].word.lower(), re.split(r"[;.]( |$)", entries[i].definition.lower())[0]
        if re.fullmatch(r"[a-z -]+: [a-z ,'-]+", text := f"{word}: {definition}"):
            texts[held_out(word)].append(text)
    return texts


def stream(texts: list[str], alphabet: Alphabet, rows: int) -> Tensor:
    """All entries, each with an end, one after the other, cut into so many rows of the same length."""
    flat = torch.tensor([i for text in texts for i in (*alphabet.encode(text), EOS)])
    return flat[: len(flat) // rows * rows].view(rows, -1)


class LanguageModel(nn.Module):
    def __init__(self, kind: str, symbols: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.rnn = getattr(seqops.nn, kind)(embedding, hidden, batch_first=True)
        self.predict = nn.Linear(hidden, symbols)

    def forward(self, text: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """text [B,T] -> logits [B,T,V] of what follows each character, the state after the last."""
        states, state = self.rnn(self.embedding(text), state)
        return self.predict(states), state


def train_one(model: LanguageModel, text: Tensor, args: argparse.Namespace, label: str) -> list[float]:
    """The norms of its gradients."""
    state = None

    def loss(start: int) -> Tensor:
        nonlocal state
        chunk = text[:, start : start + args.chunk + 1].to(args.device)
        state = tree_map(torch.Tensor.detach, state) if start else None
        logits, state = model(chunk[:, :-1], state)
        return F.cross_entropy(logits.flatten(0, 1), chunk[:, 1:].flatten())

    starts = range(0, text.shape[1] - 1, args.chunk)
    return fit(model, [*starts] * args.epochs, loss, lr=args.lr, label=label, clip=args.clip)


@torch.no_grad()
def perplexity(model: LanguageModel, text: Tensor) -> float:
    """exp of the mean cross-entropy, a character; the first of each row is given."""
    state, total = None, 0.0
    for i in range(0, text.shape[1] - 1, 200):
        logits, state = model(text[:, i : i + 200][:, : text.shape[1] - 1 - i], state)
        target = text[:, i + 1 : i + 1 + logits.shape[1]]
        total += F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum").item()
    return math.exp(total / text[:, 1:].numel())


def ngram_perplexity(train: Tensor, test: Tensor, size: int, orders: int) -> list[float]:
    """Of n-grams up to `orders`, each interpolated with those below it (Witten and Bell 1991), on the same text."""
    probability = np.full(test[:, 1:].numel(), 1 / size)
    found = []
    for order in range(1, orders + 1):

        def windows(rows: Tensor, order: int = order) -> np.ndarray[Any, Any]:
            """The `order` characters up to each but the first, as one number."""
            padded = F.pad(rows, (order, 0), value=EOS).numpy()
            return sum(padded[:, order + 1 - i : padded.shape[1] - i] * size**i for i in range(order)).ravel()

        grams, counts = np.unique(windows(train), return_counts=True)
        contexts, first, kinds = np.unique(grams // size, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        seen = windows(test)

        def look(keys: Any, values: Any, wanted: Any) -> Any:
            at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
            return np.where(keys[at] == wanted, values[at], 0)

        count, total = look(grams, counts, seen), look(contexts, totals, seen // size)
        kind = look(contexts, kinds, seen // size)
        probability = np.where(total > 0, (count + kind * probability) / np.maximum(total + kind, 1), probability)
        found.append(math.exp(-np.log(probability).mean()))
    return found


def gradient_by_distance(model: LanguageModel, text: Tensor) -> Tensor:
    """[T]: the mean norm of the gradient that the loss of a row's last character sends back over so many steps."""
    inputs = model.embedding(text[:, :-1]).detach().requires_grad_()
    states, _ = model.rnn(inputs)
    F.cross_entropy(model.predict(states[:, -1]), text[:, -1], reduction="sum").backward()
    assert inputs.grad is not None
    return inputs.grad.norm(dim=-1).mean(0).flip(0).cpu()


# ------------------------------------------------------------------------------------------------------------- writing


def sample(
    model: LanguageModel, prompt: list[int], generator: torch.Generator, longest: int = 120, **options: Any
) -> list[int]:
    """Draws character after character; `options` are seqops.sample's."""
    device, written, state = next(model.parameters()).device, [], None
    text = torch.tensor([[EOS, *prompt]], device=device)
    with torch.no_grad():
        while len(written) < longest and written[-1:] != [EOS]:
            logits, state = model(text, state)
            drawn = seqops.sample(logits[:, -1].cpu(), generator=generator, **options)
            written.append(int(drawn.tokens))
            text = torch.tensor([written[-1:]], device=device)
    return written


def beam(model: LanguageModel, prompt: list[int], width: int, longest: int = 120) -> list[int]:
    device = next(model.parameters()).device
    with torch.no_grad():
        _, state = model(torch.tensor([[EOS, *prompt[:-1]]], device=device))

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """tokens [B,beam]; the state's tensors [B,beam,H]."""
        flat = tree_map(lambda s: s.flatten(0, 1)[None], state)
        logits, new = model(tokens.reshape(-1, 1), flat)
        return logits.view(*tokens.shape, -1), tree_map(lambda s: s.view(*tokens.shape, -1), new)

    found = seqops.beam_search(
        step,
        tree_map(lambda s: s[0], state),
        batch_size=1,
        beam_size=width,
        bos=prompt[-1],
        eos=EOS,
        max_length=longest,
        length_penalty=0.7,
    )
    return found.sequences[0, 0].tolist()


def write(model: LanguageModel, alphabet: Alphabet, words: Sequence[str], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ways: dict[str, Callable[[list[int]], list[int]]] = {
        "temperature 1": lambda prompt: sample(model, prompt, generator),
        "temperature 0.5": lambda prompt: sample(model, prompt, generator, temperature=0.5),
        "top k = 5": lambda prompt: sample(model, prompt, generator, top_k=5),
        "top p = 0.8": lambda prompt: sample(model, prompt, generator, top_p=0.8),
        "beam of 8": lambda prompt: beam(model, prompt, 8),
    }
    for word in words:
        print(f"\n{word}:")
        for name, way in ways.items():
            print(f"    {name:16} {alphabet.decode(way(alphabet.encode(f'{word.lower()}: ')))}")


# ---------------------------------------------------------------------------------------------------------------- main


def train(args: argparse.Namespace) -> None:
    train_texts, test_texts = read_texts(dictionary(args.cache), args.seed)
    alphabet = Alphabet.of([*train_texts, *test_texts])
    rows = stream(train_texts, alphabet, args.batch_size)[:, : args.characters // args.batch_size]
    test = stream(test_texts, alphabet, 64)[:, : args.test_length]
    print(f"{rows.numel()} characters to learn from, {test.numel()} of other words to test on")

    models = {}
    for kind in KINDS:
        torch.manual_seed(args.seed)
        config = (kind, len(alphabet), args.embedding, args.hidden)
        models[kind] = LanguageModel(*config).to(args.device)
        norms = train_one(models[kind], rows, args, kind)
        print(f"{kind}: {sum(n > args.clip for n in norms) / len(norms):.1%} of its steps had gradients to clip")

    print(f"\n{'perplexity a character':24} {'parameters':>10} {'held out':>9}")
    ngrams = ngram_perplexity(rows, test, len(alphabet), 6)
    for n, value in enumerate(ngrams, 1):
        print(f"{f'{n}-gram':24} {'':>10} {value:9.3f}")
    found = {}
    for kind, model in models.items():
        found[kind] = perplexity(model, test.to(args.device))
        print(f"{kind:24} {parameters(model):>10} {found[kind]:9.3f}")
    best = min(found, key=found.__getitem__)
    print(
        f"\n{best}: {1 - found[best] / min(ngrams):.1%} below the best of the n-grams, "
        f"{1 - found[best] / found['RNN']:.1%} below the RNN"
    )

    windows = test[:, : test.shape[1] // 61 * 61].reshape(-1, 61)[:1024].to(args.device)
    curves = {kind: gradient_by_distance(model, windows) for kind, model in models.items()}
    print("gradient of a loss, beside that at the last character, so many characters back")
    for kind, curve in curves.items():
        print(f"    {kind:5}", "  ".join(f"{d}: {curve[d] / curve[0]:.1e}" for d in (1, 3, 10, 30, 59)))
    write(models[best], alphabet, args.words, args.seed)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for kind, curve in curves.items():
            axes.semilogy(curve / curve[0], label=kind)
        axes.set_xlabel("characters back")
        axes.set_ylabel("norm of the gradient, beside that at the last character")
        axes.grid(alpha=0.3)
        axes.legend()

    print()
    config = (best, len(alphabet), args.embedding, args.hidden)
    save(args.out / "model.pt", models[best], config=config, letters=alphabet.symbols)
    draw(args.out / "gradients.png", (7, 4.5), paint)


def define(args: argparse.Namespace) -> None:
    model, saved = load(args.out / "model.pt", lambda facts: LanguageModel(*facts["config"]), args.device)
    write(model, Alphabet(saved["letters"]), args.define, args.seed)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "language_model", cache=True)
    parser.add_argument("--define", nargs="+", metavar="WORD", help="define these with the saved model; no training")
    parser.add_argument("--words", nargs="+", default=["electricity", "unkindness"], help="to define after training")
    parser.add_argument("--characters", type=positive, default=1_200_000, help="length of the text to learn from")
    parser.add_argument("--epochs", type=positive, default=3, help="passes over the text")
    parser.add_argument("--chunk", type=positive, default=64, help="characters that a gradient goes back, at most")
    parser.add_argument("--batch-size", type=positive, default=32, help="rows of the stream")
    parser.add_argument("--test-length", type=positive, default=2000, help="characters of each of 64 rows to test on")
    parser.add_argument("--lr", type=float, default=5e-3, help="highest learning rate")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of a gradient")
    parser.add_argument("--embedding", type=positive, default=64, help="size of a character's vector")
    parser.add_argument("--hidden", type=positive, default=192, help="size of the state")
    args = parse(parser, argv)
    train(args) if args.define is None else define(args)


if __name__ == "__main__":
    run(main)
