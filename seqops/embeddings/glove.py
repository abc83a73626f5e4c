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

from ..cpu.rows import row_scatter_sparse
from ..ops import _rows as _row_ops  # noqa: F401 (registers the sums of rows)
from ..ops._transfer import to_device
from ._checkpoint import corpus_identity, read_checkpoint, write_checkpoint
from ._files import StrPath
from .cooccurrence import cooccurrence
from .corpus import EncodedCorpus
from .training import Progress
from .word_vectors import WordVectors

__all__ = ["GloveOptions", "GloveTrainer"]

FIRST_SUM = 1.0  # of Adagrad's squares: the first steps are no larger than lr
BIAS_RATE = 1.0  # of the biases, as in glove.c
GATHERED = 4096  # pairs whose vectors are gathered at once, in a cache


@dataclass(frozen=True)
class GloveOptions:
    """What is trained, and how.

    Attributes:
        dim, window, epochs: of the vectors; places on a side; passes over the pairs.
        symmetric: contexts are on both sides, not on the left alone.
        x_max, alpha: a pair's weight is min(1, (x / x_max)^alpha). 10 is for millions of words; the paper has 100, for
            billions.
        lr: of Adagrad, the same for the whole training; that of the biases is 1. In glove.c lr is inside the sums of
            squares as well: its 0.05 is a rate of 1 behind sums that begin at 1 / 0.05^2 = 400, with which a corpus of
            millions of words is learnt in some times as many epochs.
        batch_pairs: pairs a step. A row changes once a step, by the sum of its gradients. None: 65,536, but fewer for
            few pairs, so that an epoch has a few hundred steps.
        seed: the same seed gives the same vectors.
    """

    dim: int = 100
    window: int = 10
    epochs: int = 10
    symmetric: bool = True
    x_max: float = 10.0
    alpha: float = 0.75
    lr: float = 0.3
    batch_pairs: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("dim", "window", "epochs", "batch_pairs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
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
        tables: "in" and "out" [V, D + 2], fp32: a vector, then bias and 1 ("in") or 1 and bias ("out"), so that a
            pair's score is the product of two rows.
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
        self._batch = o.batch_pairs or max(256, min(65536, len(self.counts.x) // 256))
        self.tables = {}
        for name, one in (("in", o.dim + 1), ("out", o.dim)):
            sizes = len(corpus.vocabulary), o.dim + 2
            table = (torch.rand(sizes, generator=generator, dtype=torch.float32, device="cpu") - 0.5) / o.dim
            table[:, one] = 1.0
            self.tables[name] = table.to(device)
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
        steps = -(-pairs // self._batch)
        epoch, step = self.position
        first = epoch * steps + step
        began = told = saved = time.monotonic()
        losses: list[Tensor] = []
        while epoch < o.epochs:
            order = np.random.default_rng((o.seed, epoch)).permutation(pairs)
            while step < steps:
                loss = self._step(order[step * self._batch : (step + 1) * self._batch])
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
        return WordVectors(self.corpus.vocabulary.words, (self.tables["in"] + self.tables["out"])[:, :-2])

    def _step(self, chosen: np.ndarray) -> Tensor:
        """One batch of pairs; their mean loss."""
        o = self.options
        i, j, x = (to_device(torch.from_numpy(a[chosen]), self.device) for a in self.counts)
        u, v, V = self.tables["in"], self.tables["out"], len(self.tables["in"])
        on_cpu = u.device.type == "cpu"
        gathered = GATHERED if on_cpu else len(i)
        parts = zip(i.split(gathered), j.split(gathered), strict=True)
        error = torch.cat([F.embedding(a, u).mul_(F.embedding(b, v)).sum(1) for a, b in parts]) - x.log()
        g = (x / o.x_max).pow(o.alpha).clamp(max=1) * error
        summed = row_scatter_sparse if on_cpu else torch.ops.seqops.row_scatter_sparse
        # Of the rows as they were, both. How many there are is asked of a GPU: here the host waits.
        d_in = summed(v, j, g[:, None], i[:, None], V, v.dtype)
        d_out = summed(u, i, g[:, None], j[:, None], V, u.dtype)
        self._update("in", *d_in, bias=o.dim, one=o.dim + 1)
        self._update("out", *d_out, bias=o.dim + 1, one=o.dim)
        return (g * error).mean() / 2

    def _update(self, name: str, rows: Tensor, sums: Tensor, *, bias: int, one: int) -> None:
        table, state = self.tables[name], self.states[name]
        sums[:, one] = 0.0
        total = state.index_select(0, rows).addcmul_(sums, sums)
        state.index_copy_(0, rows, total)
        step = sums.div_(total.sqrt_())
        step[:, bias] *= BIAS_RATE / self.options.lr
        # Not index_add_, which on a CPU goes row by row.
        table.index_copy_(0, rows, table.index_select(0, rows).add_(step, alpha=-self.options.lr))

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
