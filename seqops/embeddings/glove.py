"""GloVe's trainer: word vectors from the counts of pairs, by per-element Adagrad on the rows of a batch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..cpu.row_update import row_sums
from ._checkpoint import corpus_identity, read_checkpoint, write_checkpoint
from ._files import StrPath
from .cooccurrence import cooccurrence
from .corpus import EncodedCorpus
from .training import Progress
from .word_vectors import WordVectors

__all__ = ["GloveOptions", "GloveTrainer"]

FIRST_SUM = 1.0  # of Adagrad's squares: the first steps are no larger than lr


@dataclass(frozen=True)
class GloveOptions:
    """What is trained, and how.

    Attributes:
        dim, window, epochs: of the vectors; places on a side; passes over the pairs.
        symmetric: contexts are on both sides, not on the left alone.
        x_max, alpha: a pair's weight is min(1, (x / x_max)^alpha).
        lr: of Adagrad, the same for the whole training.
        batch_pairs: pairs a step. A row changes once a step, by the sum of its gradients.
        seed: the same seed gives the same vectors.
    """

    dim: int = 100
    window: int = 10
    epochs: int = 15
    symmetric: bool = True
    x_max: float = 100.0
    alpha: float = 0.75
    lr: float = 0.05
    batch_pairs: int = 8192
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("dim", "window", "epochs", "batch_pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("x_max", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha must be 0 or more, got {self.alpha}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")


class GloveTrainer:
    """Trains GloVe's vectors on an encoded corpus, whose pairs it counts first.

    minimises  sum over pairs of min(1, (x / x_max)^alpha) * (u_i . v_j + a_i + b_j - log x)^2 / 2

    Args:
        corpus: from `EncodedCorpus.encode`.
        options: see GloveOptions.
        device: where the tables are, "cpu" or a GPU; the pairs stay on the CPU.

    Attributes:
        tables: "in" and "out" [V, D + 1], fp32: vectors and, in the last column, biases.
        states: Adagrad's sums of squares for each, which begin at 1.

    Raises:
        ValueError: an option does not fit, or no word has a neighbour.

    Source: Pennington, Socher and Manning 2014, doi:10.3115/v1/D14-1162, and their program's glove.c.
    """

    def __init__(self, corpus: EncodedCorpus, options: GloveOptions | None = None, *, device: str = "cpu") -> None:
        self.corpus, self.device = corpus, device
        self.options = o = GloveOptions() if options is None else options
        self.counts = cooccurrence(corpus, o.window, symmetric=o.symmetric)
        generator = torch.Generator().manual_seed(o.seed)
        shape = (len(corpus.vocabulary), o.dim + 1)
        self.tables = {n: ((torch.rand(shape, generator=generator) - 0.5) / o.dim).to(device) for n in ("in", "out")}
        self.states = {n: torch.full_like(t, FIRST_SUM) for n, t in self.tables.items()}
        self.position = (0, 0)  # epoch, step: the next to do

    def run(
        self,
        progress: Callable[[Progress], None] | None = None,
        *,
        checkpoint: StrPath | None = None,
        checkpoint_every: float = 60.0,
    ) -> WordVectors:
        """Trains to the end, and gives the sums of both vectors of each word.

        Args, Raises: as those of `Trainer.run`.
        """
        if checkpoint is not None and os.path.exists(checkpoint):
            self.load(checkpoint)
        o, pairs = self.options, len(self.counts.x)
        steps = -(-pairs // o.batch_pairs)
        epoch, step = self.position
        first = epoch * steps + step
        began = told = saved = time.monotonic()
        losses: list[Tensor] = []
        while epoch < o.epochs:
            order = np.random.default_rng((o.seed, epoch)).permutation(pairs)
            while step < steps:
                loss = self._step(order[step * o.batch_pairs : (step + 1) * o.batch_pairs])
                step += 1
                self.position = (epoch, step)
                now = time.monotonic()
                if progress is not None:
                    losses.append(loss)
                    if now - told >= 1:
                        done, total = epoch * steps + step, o.epochs * steps
                        words = o.epochs * self.corpus.vocabulary.raw_words * (done - first) / total
                        mean = float(torch.stack(losses).mean())
                        progress(Progress(epoch, done / total, words / (now - began), mean, o.lr))
                        told, losses = now, []
                if checkpoint is not None and now - saved >= checkpoint_every:
                    self.save(checkpoint)
                    saved = time.monotonic()
            epoch, step = epoch + 1, 0
            self.position = (epoch, 0)
        if checkpoint is not None:
            self.save(checkpoint)
        return self.vectors()

    def vectors(self) -> WordVectors:
        """The sums of both vectors of each word as they are now."""
        return WordVectors(self.corpus.vocabulary.words, (self.tables["in"] + self.tables["out"])[:, :-1])

    def _step(self, chosen: np.ndarray) -> Tensor:
        """One batch of pairs; their mean loss."""
        o = self.options
        i, j, x = (torch.from_numpy(a[chosen]).to(self.device) for a in self.counts)
        u, v = F.embedding(i, self.tables["in"]), F.embedding(j, self.tables["out"])
        error = (u[:, :-1] * v[:, :-1]).sum(1) + u[:, -1] + v[:, -1] - x.log()
        g = (x / o.x_max).pow(o.alpha).clamp(max=1) * error
        # A bias stands beside a constant 1 of the other word.
        ones = torch.ones_like(g)[:, None]
        self._update("in", i, g[:, None] * torch.cat([v[:, :-1], ones], 1))
        self._update("out", j, g[:, None] * torch.cat([u[:, :-1], ones], 1))
        return (g * error).mean() / 2

    def _update(self, name: str, ids: Tensor, grad: Tensor) -> None:
        rows, sums = row_sums(ids, grad)
        total = self.states[name].index_select(0, rows).addcmul_(sums, sums)
        self.states[name].index_copy_(0, rows, total)
        self.tables[name].index_add_(0, rows, sums.div_(total.sqrt_()), alpha=-self.options.lr)

    def save(self, path: StrPath) -> None:
        """Writes the state of the training, whole or not at all."""
        identity = corpus_identity(self.corpus)
        write_checkpoint(path, asdict(self.options), identity, self.position, self.tables, self.states)

    def load(self, path: StrPath) -> None:
        """Takes up the state that `save` wrote.

        Raises:
            ValueError: the file is broken, or of another corpus or other options. OSError: it cannot be read.
        """
        position, tables, states = read_checkpoint(path, asdict(self.options), corpus_identity(self.corpus))
        for name in self.tables:
            self.tables[name].copy_(tables[name])
            self.states[name].copy_(states[name])
        self.position = (position[0], position[1])
