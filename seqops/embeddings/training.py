"""Trainers of word vectors: skip-gram and CBOW, with negative sampling, hierarchical or full softmax.

A batch is some hundred tiles from anywhere in a block of the corpus. A tile is a run of words with the contexts on its
two sides, and all its words share their negatives; so its scores are one small product, and the rows that it reads and
changes are few: each word of the text twice, not once for each pair. Each row changes once a batch, by the sum of its
gradients.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..cpu.row_update import apply_rows, row_sums
from ..ops import row_update as _row_update  # noqa: F401 (registers the op)
from ..ops._transfer import to_device
from ._checkpoint import corpus_identity, read_checkpoint, write_checkpoint
from ._files import StrPath
from .corpus import BLOCK, EncodedCorpus
from .huffman import HuffmanTree
from .sampler import NegativeSampler
from .word_vectors import WordVectors

__all__ = ["Progress", "Trainer", "TrainingOptions"]

MODELS, LOSSES, OPTIMIZERS = ("sg", "cbow"), ("negative", "hierarchical", "softmax"), ("adagrad", "sgd")
LOWEST_RATE = 1e-4  # of the first learning rate, where it has fallen to it
EPS = 1e-10
LOSS_STEPS = 16  # the loss is looked at once in so many steps
LOGITS = 2**22  # that the full softmax holds at once
DRAWS = 2**16  # negatives drawn at once, for some steps ahead: a draw is a hundred small operations on a CPU


@dataclass(frozen=True)
class TrainingOptions:
    """What is trained, and how.

    Attributes:
        model: "sg", a word tells each of its contexts, or "cbow", the mean of the contexts tells the word.
        loss: "negative", "hierarchical" or "softmax" (over all words: for small vocabularies).
        dim, window, epochs, sample: of the vectors; contexts on a side at most; passes; subsampling's t, None for none.
        negative: negatives a pair ("sg") or word ("cbow"): their weight in the loss.
        shared_negatives: how many a tile draws for all its words, each with the weight negative / shared_negatives.
        power: of the counts, that negatives are drawn by.
        optimizer: "adagrad", row-wise and stable at any batch, or "sgd", whose sums over a large batch diverge without
            `clip`, the largest norm of a row's gradient.
        accumulator: what the sums of Adagrad begin at. Above 0 it shortens the first steps of a row, which else are the
            same for any gradient: of rare words, most of what they learn. None: 10 for "sg" with "hierarchical", whose
            gradients are sums over paths, else 0.
        lr: falls linearly to a ten-thousandth; None: 0.2 for Adagrad, 0.4 where its sums begin at 10 by themselves,
            0.025 for SGD.
        batch_words: words a step; None: 2048, but fewer for a small corpus, so that an epoch has a few hundred steps.
        tile: words of a tile.
        seed: the same seed gives the same vectors.
    """

    model: str = "sg"
    loss: str = "negative"
    dim: int = 100
    window: int = 5
    epochs: int = 5
    sample: float | None = 1e-3
    negative: int = 5
    shared_negatives: int = 64
    power: float = 0.75
    optimizer: str = "adagrad"
    clip: float | None = None
    accumulator: float | None = None
    lr: float | None = None
    batch_words: int | None = None
    tile: int = 32
    seed: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (("model", MODELS), ("loss", LOSSES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("dim", "window", "epochs", "negative", "shared_negatives", "tile", "batch_words"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if self.window > 255:
            raise ValueError(f"window must be 255 at most, got {self.window}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if self.clip is not None and self.optimizer != "sgd":
            raise ValueError("clip is for sgd: Adagrad's steps are bounded")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be above 0, got {self.clip}")
        if self.accumulator is not None and not 0 <= self.accumulator < math.inf:
            raise ValueError(f"accumulator must be 0 or more, got {self.accumulator}")
        if self.sample is not None and not 0 <= self.sample < math.inf:
            raise ValueError(f"sample must be 0 or more, got {self.sample}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")

    @property
    def _sums_of_paths(self) -> bool:
        """Whether `accumulator`, and `lr` with it, are left to gradients that are sums over paths.

        Their squares add up: at 0.2 the words of ranks 100 to 1000 end with steps an eighth of SGD's at 0.025 (on the
        corpus of `bench/word_vectors.py`), so the rate is 0.4. From sums of 1 the first steps of a rare word would then
        be 16 times SGD's; from 10 they are at most 5 times. Either alone does not help there, both together do.
        """
        return self.accumulator is None and (self.model, self.loss) == ("sg", "hierarchical")

    @property
    def first_sum(self) -> float:
        return 10.0 if self._sums_of_paths else self.accumulator or 0.0

    @property
    def first_rate(self) -> float:
        if self.lr is not None:
            return self.lr
        return 0.025 if self.optimizer == "sgd" else 0.4 if self._sums_of_paths else 0.2


@dataclass(frozen=True)
class Progress:
    """How far the training is: epoch, share of all work, words of the corpus a second, mean loss of a pair, rate."""

    epoch: int
    done: float
    words_per_second: float
    loss: float
    lr: float


class _Windows:
    """A block of the corpus as tiles: rows [N, T + 2W] int64, and for each word which neighbours are its contexts.

    near [N, T, 2W + 1] bool: whether the word that is `step - W` places on is a context.
    """

    def __init__(self, rows: np.ndarray, sentence: np.ndarray, reach: np.ndarray, T: int, W: int, device: str) -> None:
        n = len(rows)
        self.count = max(1, -(-n // T))
        tail = W + self.count * T - n
        padded, sentences, reaches = (
            to_device(torch.from_numpy(array), device)
            for array in (
                np.pad(rows, (W, tail)),
                np.pad(sentence, (W, tail), constant_values=-1),
                np.pad(reach, (0, self.count * T - n)),
            )
        )
        padded = padded.to(torch.int64)
        steps = torch.arange(-W, W + 1, device=device)
        near = sentences.unfold(0, 2 * W + 1, 1) == sentences[W : W + self.count * T, None]
        near &= (steps.abs() <= reaches[:, None]) & (steps != 0)
        self.near = near.view(self.count, T, 2 * W + 1)
        self.rows = padded.unfold(0, T + 2 * W, T)
        self.words = self.rows[:, W : W + T]


class Trainer:
    """Trains word vectors on an encoded corpus.

    Args:
        corpus: from `EncodedCorpus.encode`.
        options: see TrainingOptions.
        device: where the tables are, "cpu" or a GPU.
        group: a process group of torch.distributed that shares the columns of the vectors: each process holds dim / P
            of them, for all words. Only scores and, for Adagrad, a number a changed row are summed over the processes.
            All must have the same corpus and options; `run` gives the whole vectors on each.

    Attributes:
        tables: "in" [V, D] and "out" [V or V - 1, D], fp32. states: the sums of Adagrad for each.

    Raises:
        ValueError: an option does not fit.

    Source: Mikolov et al. 2013, arXiv:1301.3781 and arXiv:1310.4546, and word2vec.c; the shared negatives:
    Ji et al. 2016, arXiv:1604.04661; the sharded columns: Ordentlich et al. 2016, arXiv:1606.08495.
    """

    def __init__(
        self,
        corpus: EncodedCorpus,
        options: TrainingOptions | None = None,
        *,
        device: str = "cpu",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.corpus, self.device, self.group = corpus, device, group
        self.options = o = TrainingOptions() if options is None else options
        vocabulary = corpus.vocabulary
        V = len(vocabulary)
        if o.loss == "hierarchical" and V < 2:
            raise ValueError("Trainer: hierarchical softmax needs 2 words or more")
        columns = slice(None)
        if group is not None:
            ranks, rank = dist.get_world_size(group), dist.get_rank(group)
            if o.dim % ranks:
                raise ValueError(f"Trainer: dim must be divisible by the {ranks} processes, got {o.dim}")
            columns = slice(rank * o.dim // ranks, (rank + 1) * o.dim // ranks)
        # Drawn on the CPU: the same on every device and for every number of processes.
        generator = torch.Generator().manual_seed(o.seed)
        first = (torch.rand(V, o.dim, generator=generator, dtype=torch.float32, device="cpu") - 0.5) / o.dim
        outputs = V - 1 if o.loss == "hierarchical" else V
        self.tables = {"in": first[:, columns].contiguous().to(device)}
        self.tables["out"] = self.tables["in"].new_zeros(outputs, self.tables["in"].shape[1])
        rows = self.tables if o.optimizer == "adagrad" else {}
        self.states = {name: t.new_full((len(t),), o.first_sum) for name, t in rows.items()}
        self.position = (0, 0, 0)  # epoch, block, step: the next to do
        self._keep = vocabulary.keep_probability(o.sample)
        # Of a tile's inputs and the nodes of its paths all products are made, though only those of a pair count.
        self._tile_words = min(o.tile, 8) if o.loss == "hierarchical" else o.tile
        # No step is of more words than a block has.
        most = -(-min(BLOCK, len(corpus)) // self._tile_words)
        self._tiles = max(1, min(most, self._batch_words() // self._tile_words))
        self._buffers: dict[str, Tensor] = {}
        if o.loss == "negative":
            self._sampler = NegativeSampler(vocabulary.counts, o.power, device=device)
            self._steps_drawn = max(1, DRAWS // (self._tiles * o.shared_negatives))
            self._drawn: tuple[int, int, Tensor] | None = None  # seed, first step, negatives
        elif o.loss == "hierarchical":
            self._tree = HuffmanTree(vocabulary.counts, device=device)
            self._depths = self._tree.offsets.diff()

    def _batch_words(self) -> int:
        if self.options.batch_words is not None:
            return self.options.batch_words
        words = int((self.corpus.vocabulary.counts * self._keep).sum())
        return max(256, min(2048, words // 256))

    # ------------------------------------------------------------------------------------------------------ the walk

    def run(
        self,
        progress: Callable[[Progress], None] | None = None,
        *,
        checkpoint: StrPath | None = None,
        checkpoint_every: float = 60.0,
    ) -> WordVectors:
        """Trains to the end, and gives the input vectors.

        Args:
            progress: is called about once a second.
            checkpoint: a file that takes the state of the training every `checkpoint_every` seconds; where it is there
                already, the training goes on from it, with the same result as one that was not interrupted.

        Raises:
            ValueError: the checkpoint is broken, or of another corpus or other options. OSError: it cannot be written.
        """
        o, size, total = self.options, len(self.corpus), self.options.epochs * len(self.corpus)
        if checkpoint is not None and os.path.exists(checkpoint):
            self.load(checkpoint)
        began = told = saved = time.monotonic()
        start: float | None = None
        found: list[tuple[Tensor, Tensor]] = []  # losses and pairs, read when they are told
        T, W = self._tile_words, o.window
        epoch, number, step = self.position
        while epoch < o.epochs:
            block = self.corpus.block(number, window=W, keep=self._keep, seed=o.seed, epoch=epoch)
            windows = _Windows(block.rows, block.sentence, block.reach, T, W, self.device)
            order = np.random.default_rng((o.seed, epoch, number, 1)).permutation(windows.count)
            seed = int(np.random.SeedSequence((o.seed, epoch, number, 2)).generate_state(1, np.uint64)[0])
            tiles = to_device(torch.from_numpy(order), self.device)
            # Here the host waits for a GPU, once a block; a step does not.
            paths = self._depths[windows.words].sum(1).cpu().numpy()[order] if o.loss == "hierarchical" else None
            steps = -(-windows.count // self._tiles)
            places = min(BLOCK, size - number * BLOCK)
            while step < steps:
                part = slice(step * self._tiles, (step + 1) * self._tiles)
                chosen = tiles[part]
                before = (epoch * size + number * BLOCK + places * step / steps) / total
                start = before if start is None else start
                lr = o.first_rate * max(LOWEST_RATE, 1 - before)
                need_loss = progress is not None and step % LOSS_STEPS == 0
                negatives = self._negatives(seed, step, len(chosen)) if o.loss == "negative" else None
                width = None if paths is None else int(paths[part].max())
                result = self._step(windows.rows[chosen], windows.near[chosen], negatives, lr, need_loss, width)
                if result is not None:
                    found.append(result)
                step += 1
                self.position = (epoch, number, step)
                now = time.monotonic()
                done = before + places / steps / total
                if progress is not None and now - told >= 1 and found:
                    loss, weight = (
                        float(torch.stack(parts).sum(dtype=torch.float64)) for parts in zip(*found, strict=True)
                    )
                    speed = (done - start) * o.epochs * self.corpus.vocabulary.raw_words / (now - began)
                    progress(Progress(epoch, done, speed, loss / max(1.0, weight), lr))
                    told, found = now, []
                if checkpoint is not None and now - saved >= checkpoint_every:
                    self.save(checkpoint)
                    saved = time.monotonic()
            step, number = 0, number + 1
            if number == self.corpus.block_count():
                epoch, number = epoch + 1, 0
            self.position = (epoch, number, 0)
        if checkpoint is not None:
            self.save(checkpoint)
        return self.vectors()

    def vectors(self) -> WordVectors:
        """The input vectors as they are now."""
        return WordVectors(self.corpus.vocabulary.words, self._whole(self.tables["in"]))

    def _whole(self, table: Tensor) -> Tensor:
        if self.group is None:
            return table
        parts = [torch.empty_like(table) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(parts, table, group=self.group)
        return torch.cat(parts, 1)

    # --------------------------------------------------------------------------------------------------------- a step

    def _step(
        self,
        rows: Tensor,
        near: Tensor,
        negatives: Tensor | None,
        lr: float,
        need_loss: bool,
        width: int | None = None,
    ) -> tuple[Tensor, Tensor] | None:
        """One batch of tiles: rows [C, T + 2W], near [C, T, 2W + 1]. The sums of loss and of pairs, if asked for.

        negatives [C, S], for the loss of that name; for the hierarchical one `width`, the most nodes on the paths of a
        tile's words, to find which the host waits for a GPU.
        """
        o = self.options
        W, C, T = o.window, len(rows), near.shape[1]
        words, near = rows[:, W : W + T], near.float()
        extra = 0 if negatives is None else negatives.shape[1]
        if o.model == "cbow":
            count = near.sum(2, keepdim=True)
            mix = self._banded("mix", near / count.clamp(min=1), T + 2 * W)
            means = torch.bmm(mix, F.embedding(rows, self.tables["in"])).flatten(0, 1)
            near = (count > 0).float()
            targets, weight = words, self._banded("weight", near, T, extra)
            inputs = torch.arange(C * T, device=rows.device).view(C, T)
            loss, d_means = self._objective(means, inputs, targets, weight, negatives, width, lr, need_loss)
            self._update("in", rows, torch.bmm(mix.transpose(1, 2), d_means), lr)
        else:
            inputs, targets, weight = words, rows, self._banded("weight", near, T + 2 * W, extra)
            if o.loss == "hierarchical":
                # A word's contexts tell its path: the pairs are the same, and the paths are those of T words.
                inputs, targets, weight = targets, inputs, weight.transpose(1, 2)
            loss, d_inputs = self._objective(
                self.tables["in"], inputs, targets, weight, negatives, width, lr, need_loss
            )
            self._update("in", inputs, d_inputs, lr)
        return None if loss is None else (loss.sum(), near.sum())

    def _banded(self, name: str, near: Tensor, columns: int, extra: int = 0) -> Tensor:
        """[C, T, columns + extra]: near [C, T, steps] along the diagonal, 0 beside it within `columns`.

        The memory is used again: what lies beside the diagonal stays 0, what lies in `extra` is to be overwritten.
        """
        (C, T, steps), width = near.shape, columns + extra
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < C:
            buffer = self._buffers[name] = near.new_zeros(C, T, width)
        buffer[:C].as_strided((C, T, steps), (T * width, width + 1, 1)).copy_(near)
        return buffer[:C]

    def _objective(
        self,
        table: Tensor,
        inputs: Tensor,
        targets: Tensor,
        weight: Tensor,
        negatives: Tensor | None,
        width: int | None,
        lr: float,
        need_loss: bool,
    ) -> tuple[Tensor | None, Tensor]:
        """Updates the output table; gives the loss [C] and the gradient of the inputs [C, A, D].

        inputs [C, A] are rows of `table`, targets [C, B] words; weight [C, A, B] is 1 where a target belongs to an
        input, and has room for the negatives behind.
        """
        if self.options.loss == "softmax":
            return self._softmax(table, inputs, targets, weight, lr, need_loss)
        if negatives is not None:
            targets, labels = self._add_negatives(targets, weight, negatives)
        else:
            targets, weight, labels = self._paths(targets, weight, width)
        u, x = F.embedding(inputs, table), F.embedding(targets, self.tables["out"])
        scores = torch.bmm(u, x.transpose(1, 2))
        if self.group is not None:
            dist.all_reduce(scores, group=self.group)
        loss = -(F.logsigmoid(scores * (2 * labels - 1)) * weight).sum((1, 2)) if need_loss else None
        g = scores.sigmoid_().sub_(labels).mul_(weight)
        d_inputs, d_outputs = torch.bmm(g, x), torch.bmm(g.transpose(1, 2), u)
        self._update("out", targets, d_outputs, lr)
        return loss, d_inputs

    def _negatives(self, seed: int, step: int, tiles: int) -> Tensor:
        """Those of a step [tiles, S]; a seed's are the same however many steps are drawn at once."""
        S, ahead = self.options.shared_negatives, self._steps_drawn
        first = step - step % ahead
        if self._drawn is None or self._drawn[:2] != (seed, first):
            drawn = self._sampler.draw((ahead, self._tiles, S), seed, first * self._tiles * S)
            self._drawn = (seed, first, drawn)
        return self._drawn[2][step - first, :tiles]

    def _add_negatives(self, targets: Tensor, weight: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Negatives for each tile behind its targets, and labels; no weight where one is a target of the input."""
        B, S = targets.shape[1], negatives.shape[1]
        same = (targets[:, :, None] == negatives[:, None, :]).float()
        share, has = self.options.negative / S, weight[:, :, :B]
        weight[:, :, B:] = torch.baddbmm(has.sum(2, keepdim=True), has, same, beta=share, alpha=-share)
        return torch.cat([targets, negatives], 1), (torch.arange(B + S, device=targets.device) < B).float()

    def _paths(self, targets: Tensor, weight: Tensor, width: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """The nodes on the targets' paths, one behind the other [C, B'], their weights and labels, by branch."""
        tree = self._tree
        depths = self._depths[targets]
        ends = depths.cumsum(1)
        width = int(ends[:, -1].max()) if width is None else width
        places = torch.arange(width, device=targets.device).expand(len(targets), width).contiguous()
        owner = torch.searchsorted(ends, places, right=True)
        inside = owner < targets.shape[1]
        owner.clamp_(max=targets.shape[1] - 1)
        starts = tree.offsets[targets] - (ends - depths)
        at = (starts.gather(1, owner) + places).where(inside, torch.zeros_like(places))
        weight = weight.gather(2, owner[:, None].expand(-1, weight.shape[1], -1)) * inside[:, None]
        return tree.nodes[at].long(), weight, (tree.signs[at] > 0).float()[:, None]

    def _softmax(
        self, table: Tensor, inputs: Tensor, targets: Tensor, weight: Tensor, lr: float, need_loss: bool
    ) -> tuple[Tensor | None, Tensor]:
        """sum over an input's targets of logsumexp(s) - s[target]; one row of scores serves all of them."""
        out = self.tables["out"]
        ids, u = inputs.flatten(), F.embedding(inputs.flatten(), table)
        has = weight.flatten(0, 1)
        goals = targets.repeat_interleave(inputs.shape[1], 0)
        d_inputs, d_out, losses = torch.empty_like(u), torch.zeros_like(out), []
        for part in torch.arange(len(ids), device=u.device).split(max(1, LOGITS // len(out))):
            scores = u[part] @ out.t()
            if self.group is not None:
                dist.all_reduce(scores, group=self.group)
            count = has[part].sum(1, keepdim=True)
            if need_loss:
                losses.append(
                    (count * scores.logsumexp(1, keepdim=True)).sum()
                    - (has[part] * scores.gather(1, goals[part])).sum()
                )
            g = scores.softmax(1).mul_(count).scatter_add_(1, goals[part], -has[part])
            d_inputs[part] = g @ out
            d_out.addmm_(g.t(), u[part])
        self._update("out", torch.arange(len(out), device=out.device), d_out, lr)
        return torch.stack(losses) if need_loss else None, d_inputs.view(*inputs.shape, -1)

    def _update(self, name: str, ids: Tensor, grad: Tensor, lr: float) -> None:
        table, state, o = self.tables[name], self.states.get(name), self.options
        ids, grad = ids.flatten(), grad.flatten(0, -2)
        if self.group is None:
            torch.ops.seqops.row_update_(table, ids, grad, lr, state, o.clip, EPS)
            return
        rows, sums = row_sums(ids, grad)
        mean_square = sums.square().sum(1) / o.dim
        dist.all_reduce(mean_square, group=self.group)
        apply_rows(table, rows, sums, mean_square, o.dim, lr, state, o.clip, EPS)

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def save(self, path: StrPath) -> None:
        """Writes the state of the training, whole or not at all; of several processes, the first writes that of all."""
        tables = {n: self._whole(t) for n, t in self.tables.items()}
        if self.group is None or dist.get_rank(self.group) == 0:
            identity = corpus_identity(self.corpus)
            write_checkpoint(path, asdict(self.options), identity, self.position, tables, self.states)

    def load(self, path: StrPath) -> None:
        """Takes up the state that `save` wrote.

        Raises:
            ValueError: the file is broken, or of another corpus or other options. OSError: it cannot be read.
        """
        position, tables, states = read_checkpoint(path, asdict(self.options), corpus_identity(self.corpus))
        columns = slice(None)
        if self.group is not None:
            rank, share = dist.get_rank(self.group), self.tables["in"].shape[1]
            columns = slice(rank * share, (rank + 1) * share)
        for table, value in tables.items():
            self.tables[table].copy_(value[:, columns])
        for table, value in states.items():
            self.states[table].copy_(value)
        epoch, block, step = position
        self.position = (epoch, block, step)
