"""Quality and speed of the word-vector trainers on a real corpus, beside gensim's with the same settings.

    apt-get download dict-gcide && dpkg -x dict-gcide_*.deb gcide
    python bench/word_vectors.py gcide/usr/share/dictd/gcide.dict.dz --gensim --out bench/results/cpu/word_vectors.json
    python bench/word_vectors.py gcide/usr/share/dictd/gcide.dict.dz --gensim --out ... --speed

Words are the runs of a-z in lower case, in sentences of 1000; of other texts too. gensim, which also ships the
questions and the judged pairs, must be installed; it has no GloVe. The first form prints mean and range over the seeds
of each trainer's quality; the second, on cores that do nothing else, words of the text a second, both sides by turns in
one run, without the look-up of the words. The file keeps what other runs have measured.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import pathlib
import re
import statistics
import time
from typing import Any

import torch

from seqops.bench.harness import facts_of_this_machine
from seqops.embeddings import (
    EncodedCorpus,
    GloveOptions,
    GloveTrainer,
    Trainer,
    TrainingOptions,
    Vocabulary,
    WordVectors,
    evaluate_analogies,
    evaluate_pairs,
)

MODELS = ("sg-negative", "cbow-negative", "sg-hierarchical", "glove", "cbow-hierarchical")
EPOCHS = 5  # GloVe's are over its pairs: as many as it has by default
SENTENCE = 1000
SPEED_SENTENCES, SPEED_ROUNDS = 1500, 3
SCORES = ("analogy", "WordSim-353", "SimLex-999")


def read(path: pathlib.Path) -> list[list[str]]:
    packed = path.suffix in (".gz", ".dz")
    with gzip.open(path) if packed else open(path, "rb") as file:
        words = re.findall("[a-z]+", file.read().decode("utf-8", "replace").lower())
    return [words[i : i + SENTENCE] for i in range(0, len(words), SENTENCE)]


def quality(vectors: WordVectors) -> dict[str, float]:
    """Analogy accuracy, and Spearman's rho on WordSim-353 and SimLex-999."""
    from gensim.test.utils import datapath

    return {
        "analogy": evaluate_analogies(vectors, datapath("questions-words.txt")).accuracy,
        "WordSim-353": evaluate_pairs(vectors, datapath("wordsim353.tsv")).spearman,
        "SimLex-999": evaluate_pairs(vectors, datapath("simlex999.txt")).spearman,
    }


def ours(corpus: EncodedCorpus, model: str, seed: int, given: dict[str, Any]) -> tuple[WordVectors, float]:
    began = time.perf_counter()  # GloVe's trainer counts the pairs before it runs
    if model == "glove":
        own = {name: given[name] for name in ("epochs", "lr") if given[name] is not None}
        return GloveTrainer(corpus, GloveOptions(seed=seed, **own)).run(), time.perf_counter() - began
    kind, _, loss = model.partition("-")
    trainer = Trainer(corpus, TrainingOptions(model=kind, loss=loss, seed=seed, **given))
    began = time.perf_counter()
    return trainer.run(), time.perf_counter() - began


def gensim(sentences: list[list[str]], model: str, seed: int, workers: int, epochs: int) -> tuple[WordVectors, float]:
    from gensim.models import Word2Vec

    kind, _, loss = model.partition("-")
    trained = Word2Vec(
        vector_size=100,
        window=5,
        min_count=5,
        sg=kind == "sg",
        hs=loss == "hierarchical",
        negative=5 if loss == "negative" else 0,
        epochs=epochs,
        workers=workers,
        seed=seed,
    )
    trained.build_vocab(sentences)
    began = time.perf_counter()
    trained.train(sentences, total_examples=len(sentences), epochs=epochs)
    seconds = time.perf_counter() - began
    return WordVectors(trained.wv.index_to_key, trained.wv.vectors), seconds


def facts() -> dict[str, Any]:
    return facts_of_this_machine("cpu") | {"gensim": importlib.metadata.version("gensim")}


def keep(path: pathlib.Path | None, kind: str, row: dict[str, Any]) -> None:
    """Puts a row in the file, in the place of one of the same trainer, model and seed."""
    if path is None:
        return
    data = json.loads(path.read_text()) if path.exists() else {}
    same = ("trainer", "model", "seed")
    rows = [r for r in data.get(kind, []) if any(r.get(k) != row.get(k) for k in same)]
    data[kind] = sorted([*rows, row], key=lambda r: [str(r.get(k)) for k in same])
    path.write_text(json.dumps(data, indent=1) + "\n")


def spread(values: list[float], digits: str) -> str:
    """Mean and range."""
    return f"{statistics.mean(values):{digits}} ({min(values):{digits}}-{max(values):{digits}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS[:4]))
    parser.add_argument("--gensim", action="store_true", help="train gensim's too")
    parser.add_argument("--workers", type=int, default=2, help="of gensim")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}, of GloVe {GloveOptions.epochs}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--speed", action="store_true", help="measure only words/s, in one epoch of a part")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE.json", help="put the results there")
    parser.add_argument("--lr", type=float, help="of ours")
    parser.add_argument("--batch-words", type=int, help="of ours, but GloVe")
    o = parser.parse_args()
    sentences = read(o.corpus)
    if o.speed:
        sentences, o.epochs, o.seeds = sentences[:SPEED_SENTENCES], 1, list(range(1, SPEED_ROUNDS + 1))
    words = sum(map(len, sentences))
    vocabulary = Vocabulary.from_corpus(sentences, min_count=5)
    corpus = EncodedCorpus.encode(sentences, vocabulary)
    print(f"{words:,} words, {len(vocabulary):,} different; {torch.get_num_threads()} threads, {o.workers} workers")
    columns = ("words/s",) if o.speed else SCORES
    print(f"| trainer | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for model in o.models:
        epochs = o.epochs or (GloveOptions.epochs if model == "glove" else EPOCHS)
        settings = {"epochs": epochs, "lr": o.lr, "batch_words": o.batch_words}
        measured: dict[str, list[dict[str, Any]]] = {}
        for seed in o.seeds:
            for name in ("seqops", "gensim") if o.gensim and model != "glove" else ("seqops",):
                if name == "gensim":
                    vectors, seconds = gensim(sentences, model, seed, o.workers, epochs)
                else:
                    vectors, seconds = ours(corpus, model, seed, settings)
                scores = {"words/s": words * epochs / seconds} if o.speed else quality(vectors)
                measured.setdefault(name, []).append(scores)
                threads = o.workers if name == "gensim" else torch.get_num_threads()
                row = {"trainer": name, "model": model, "seed": seed, **scores, "threads": threads, "words": words}
                keep(o.out, "speed" if o.speed else "quality", row | settings | {"facts": facts()})
        for name, rows in measured.items():
            cells = [spread([r[c] for r in rows], ",.0f" if o.speed else ".3f") for c in columns]
            print(f"| {name} {model} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
