"""Quality and speed of the word-vector trainers on a real corpus, beside gensim's with the same settings.

    apt-get download dict-gcide && dpkg -x dict-gcide_*.deb gcide
    python bench/word_vectors.py gcide/usr/share/dictd/gcide.dict.dz --models sg-negative cbow-negative --gensim

Words are the runs of a-z in lower case, in sentences of 1000; of other texts too. gensim, which also ships the
questions and the judged pairs, must be installed.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import pathlib
import re
import time
from typing import Any

import torch

from seqops.embeddings import (
    EncodedCorpus,
    Trainer,
    TrainingOptions,
    Vocabulary,
    WordVectors,
    evaluate_analogies,
    evaluate_pairs,
)

MODELS = ("sg-negative", "cbow-negative", "sg-hierarchical", "cbow-hierarchical")
SENTENCE = 1000


def read(path: pathlib.Path) -> list[list[str]]:
    packed = path.suffix in (".gz", ".dz")
    with gzip.open(path) if packed else open(path, "rb") as file:
        words = re.findall("[a-z]+", file.read().decode("utf-8", "replace").lower())
    return [words[i : i + SENTENCE] for i in range(0, len(words), SENTENCE)]


def quality(vectors: WordVectors) -> tuple[float, float, float]:
    """Analogy accuracy, and Spearman's rho on WordSim-353 and SimLex-999."""
    from gensim.test.utils import datapath

    return (
        evaluate_analogies(vectors, datapath("questions-words.txt")).accuracy,
        evaluate_pairs(vectors, datapath("wordsim353.tsv")).spearman,
        evaluate_pairs(vectors, datapath("simlex999.txt")).spearman,
    )


def ours(corpus: EncodedCorpus, model: str, seed: int, given: dict[str, Any]) -> WordVectors:
    kind, _, loss = model.partition("-")
    return Trainer(corpus, TrainingOptions(model=kind, loss=loss, seed=seed, **given)).run()


def gensim(sentences: list[list[str]], model: str, seed: int, workers: int, epochs: int) -> WordVectors:
    from gensim.models import Word2Vec

    kind, _, loss = model.partition("-")
    trained = Word2Vec(
        sentences,
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
    return WordVectors(trained.wv.index_to_key, trained.wv.vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["sg-negative"])
    parser.add_argument("--gensim", action="store_true", help="train gensim's too")
    parser.add_argument("--workers", type=int, default=2, help="of gensim")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--lr", type=float, help="of ours")
    parser.add_argument("--batch-words", type=int, help="of ours")
    o = parser.parse_args()
    sentences = read(o.corpus)
    words = sum(map(len, sentences))
    vocabulary = Vocabulary.from_corpus(sentences, min_count=5)
    corpus = EncodedCorpus.encode(sentences, vocabulary)
    print(f"{words:,} words, {len(vocabulary):,} different; {torch.get_num_threads()} threads, {o.workers} workers")
    print("| trainer | seed | analogy | WordSim-353 | SimLex-999 | words/s |\n|---|---|---|---|---|---|")
    given = {"epochs": o.epochs, "lr": o.lr, "batch_words": o.batch_words}
    for model, seed in itertools.product(o.models, o.seeds):
        for name in ("seqops", "gensim") if o.gensim else ("seqops",):
            began = time.perf_counter()
            if name == "gensim":
                vectors = gensim(sentences, model, seed, o.workers, o.epochs)
            else:
                vectors = ours(corpus, model, seed, given)
            speed = words * o.epochs / (time.perf_counter() - began)
            scores = " | ".join(f"{s:.3f}" for s in quality(vectors))
            print(f"| {name} {model} | {seed} | {scores} | {speed:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
