"""A beam search one step at a time: what goes on, what has finished, in buffers that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from operator import index

import torch
from torch import Tensor

from ..ops._checks import check_lengths, check_shape
from ..ops.beam_topk import beam_topk
from . import processors as rules
from .hypotheses import NEVER, BeamSearchOutput, History, Pool, log_softmax, read_back
from .penalties import LengthPenalty, as_length_penalty, coverage_penalty
from .processors import LogitsProcessor

__all__ = ["BeamSearch", "first_tokens"]

OP = "beam_search"


class BeamSearch:
    """A beam search for loops of one's own; `beam_search` is the usual one, and says what the arguments mean.

        search = BeamSearch(batch_size=8, beam_size=4, bos=0, eos=1, max_length=50)
        for _ in range(search.max_length):
            logits, state = step(search.tokens, state)
            state = reordered(state, search.advance(logits))
            if search.finished():  # the host waits for the GPU here, and nowhere else
                break
        found = search.output()

    `tokens` [B, beam], which `step` reads next, and all that the search remembers are buffers that each step writes in
    place, the number of the step too: after a first step, which makes them, `step` and `advance` can be captured in a
    CUDA graph, but for what depends on the number of the step on the host: processors, stopping criteria, and steps
    that force a token or lie below min_length.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        beam_size: int | Sequence[int],
        bos: int | Tensor,
        eos: int | Sequence[int] | None,
        max_length: int | Tensor,
        min_length: int | Tensor = 0,
        length_penalty: float | LengthPenalty = 0.0,
        coverage_penalty: float = 0.0,
        source_lengths: Tensor | None = None,
        early_stopping: bool | str = "never",
        patience: float = 1.0,
        n_best: int = 1,
        prefix: Tensor | None = None,
        prefix_lengths: Tensor | None = None,
        forced_tokens: Mapping[int, int] | None = None,
        banned_tokens: Iterable[int] = (),
        no_repeat_ngram_size: int = 0,
        repetition_penalty: float = 1.0,
        groups: int = 1,
        diversity: float = 0.0,
        processors: Iterable[LogitsProcessor] = (),
        stopping_criteria: Iterable[Callable[[Tensor, None], Tensor]] = (),
        pad: int | None = None,
        keep_sequences: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        B = batch_size
        given = _whole("beam_size", beam_size)
        widths = [given] * B if isinstance(given, int) else given
        beam = max(widths, default=0)
        self.device = torch.device("cpu" if device is None else device)
        for name, value in (("batch_size", B), ("beam_size", min(widths, default=1))):
            if value < 1:
                raise ValueError(f"{OP}: {name} must be at least 1, got {value}")
        if len(widths) != B:
            raise ValueError(f"{OP}: beam_size must be an int or {B} of them, got {len(widths)}")
        if not 1 <= n_best <= min(widths):
            raise ValueError(f"{OP}: n_best must lie in 1..{min(widths)}, the beam_size, got {n_best}")
        if groups < 1 or beam % groups or (groups > 1 and len(set(widths)) > 1):
            raise ValueError(f"{OP}: groups must divide one beam_size for all, got {groups} and {beam_size}")
        if early_stopping not in (True, False, "never"):
            raise ValueError(f"{OP}: early_stopping must be True, False or 'never', got {early_stopping!r}")
        if not patience > 0 or (patience != 1 and early_stopping is not True):
            raise ValueError(f"{OP}: patience must be above 0, and 1 unless early_stopping is True, got {patience}")
        if not repetition_penalty > 0:
            raise ValueError(f"{OP}: repetition_penalty must be above 0, got {repetition_penalty}")
        if no_repeat_ngram_size < 0:
            raise ValueError(f"{OP}: no_repeat_ngram_size must be at least 0, got {no_repeat_ngram_size}")
        ends = [] if eos is None else _whole("eos", eos)
        eos_ids = [ends] if isinstance(ends, int) else ends
        if eos is not None and (not eos_ids or min(eos_ids) < 0):
            raise ValueError(f"{OP}: eos must be one or more token ids, got {eos}")
        if pad is None:
            pad = eos_ids[0] if eos_ids else -1
        self.pad = pad

        self.B, self.beam, self.groups, self.n_best = B, beam, groups, n_best
        # Groups of beams are searched as items of their own: N of them, w beams each.
        self.N, self.w = B * groups, beam // groups
        self.max_lengths, self.least_max_length, self.max_length = self._lengths("max_length", max_length, 1)
        self.min_lengths, _, self.min_length = self._lengths("min_length", min_length, 0)
        self.length_penalty = as_length_penalty(OP, length_penalty)
        self.coverage_penalty, self.diversity = coverage_penalty, diversity
        self.early_stopping = early_stopping
        self.source_lengths = source_lengths if source_lengths is None else source_lengths.to(self.device)
        self.beyond = self.worst = None
        width = torch.full((self.N, 1), self.w, device=self.device)
        if len(set(widths)) > 1:
            width = torch.tensor(widths, device=self.device)[:, None]
            self.beyond, self.worst = torch.arange(self.w, device=self.device) >= width, width - 1
        self.enough = (width * patience).ceil().clamp(min=1)

        self.eos = torch.tensor(sorted(set(eos_ids)), dtype=torch.int64, device=self.device)
        self.banned = sorted({index(t) for t in banned_tokens})
        self.banned_ids = torch.tensor(self.banned, dtype=torch.int64, device=self.device)
        self.forced = self._forced(prefix, prefix_lengths, forced_tokens or {})
        self.processors = list(processors)
        if no_repeat_ngram_size:
            self.processors.insert(0, rules.no_repeat_ngram(no_repeat_ngram_size))
        if repetition_penalty != 1:
            self.processors.insert(0, rules.repetition_penalty(repetition_penalty))
        self.stopping_criteria = list(stopping_criteria)

        self.steps = 0
        self.prompt = _prompt(bos, B, self.device)
        last = self.prompt[:, -1:] if self.prompt.shape[1] else self.prompt.new_full((B, 1), pad)
        self.tokens = last.repeat(1, beam)
        self.sequences = None
        if keep_sequences or self.processors or self.stopping_criteria:
            P = self.prompt.shape[1]
            self.sequences = torch.full((B * beam, P + self.max_length), pad, device=self.device)
            self.sequences[:, :P] = self.prompt.repeat_interleave(beam, 0)
        self.group_offset = (torch.arange(self.N, device=self.device) % groups * self.w)[:, None]
        self.row_offset = (torch.arange(self.N, device=self.device) * self.w)[:, None]

    @cached_property
    def on_host(self) -> bool:
        """Where the host need not wait for a tensor's value, it asks what there is to do."""
        return self.device.type == "cpu"

    def _lengths(self, name: str, value: int | Tensor, least: int) -> tuple[Tensor, int, int]:
        """As [N,1], and the least and the greatest of them."""
        if isinstance(value, Tensor):
            if value.dtype not in (torch.int32, torch.int64):
                raise TypeError(f"{OP}: {name} must be int32 or int64, got {value.dtype}")
            check_shape(OP, name, value, (self.B,))
            low, high = (int(v) for v in value.aminmax())
        else:
            low = high = int(value)
        if low < least:
            raise ValueError(f"{OP}: {name} must be at least {least}, got {low}")
        if name == "min_length" and high > self.least_max_length:
            most = self.max_lengths[:: self.groups, 0]
            if bool((most < (value.to(most.device) if isinstance(value, Tensor) else value)).any()):
                raise ValueError(f"{OP}: min_length must be at most max_length, got {high}")
        if not isinstance(value, Tensor):
            return torch.full((self.N, 1), low, dtype=torch.int64, device=self.device), low, high
        return value.to(self.device, torch.int64).repeat_interleave(self.groups)[:, None], low, high

    def _forced(self, prefix: Tensor | None, lengths: Tensor | None, tokens: Mapping[int, int]) -> dict[int, Tensor]:
        """For each step that forces a token, that of each item [N,1], or -1."""
        forced: dict[int, Tensor] = {}
        self.fed = [index(token) for token in tokens.values()]
        if prefix is not None:
            check_shape(OP, "prefix", prefix, (self.B, "P"))
            if prefix.dtype not in (torch.int32, torch.int64):
                raise TypeError(f"{OP}: prefix must be int32 or int64, got {prefix.dtype}")
            P = prefix.shape[1]
            lengths = check_lengths(OP, lengths, self.B, P, prefix.device)
            steps = torch.arange(P, device=prefix.device)
            inside = prefix if lengths is None else torch.where(steps < lengths[:, None], prefix, -1)
            forced = {t: inside[:, t] for t in range(P)}
            if prefix.is_cpu and inside.numel():  # those on a GPU would make the host wait
                self.fed.append(max(0, int(inside.max())))
        for t, token in tokens.items():
            at = t if t >= 0 else self.max_length + t
            if not 0 <= at < self.max_length:
                raise ValueError(f"{OP}: forced_tokens must lie within {self.max_length} steps, got step {t}")
            before = forced.get(at, torch.full((self.B,), -1, device="cpu"))
            forced[at] = torch.where(before < 0, index(token), before)
        return {t: v.to(self.device, torch.int64).repeat_interleave(self.groups)[:, None] for t, v in forced.items()}

    def _begin(self, logits: Tensor, attention: Tensor | None) -> None:
        """Makes the buffers."""
        V, L = logits.shape[2], self.max_length
        if self.banned and not (self.banned[0] >= 0 and self.banned[-1] < V):
            raise ValueError(f"{OP}: banned_tokens must lie in 0..{V - 1}, got {self.banned}")
        if self.fed and not (min(self.fed) >= 0 and max(self.fed) < V):
            raise ValueError(f"{OP}: prefix and forced_tokens must lie in 0..{V - 1}, got {sorted(set(self.fed))}")
        dtype = torch.promote_types(logits.dtype, torch.float32)
        # All beams are alike as yet: only the first counts.
        self.live = torch.full((self.N, self.w), NEVER, dtype=dtype, device=self.device)
        self.live[:, 0] = 0.0
        self.pool = Pool.empty(self.N, self.w, dtype, self.device)
        self.count = torch.zeros(self.N, 1, dtype=torch.int64, device=self.device)
        self.done = torch.zeros(self.N, 1, dtype=torch.bool, device=self.device)
        self.step = torch.zeros(1, dtype=torch.int64, device=self.device)
        # By step: what a log-probability is divided by at this length, and what the best to come is.
        scales = self.length_penalty(torch.arange(1, L + 2, device=self.device).to(dtype))
        self.scales = scales[:L, None, None]
        self.bounds = self.scales
        if self.early_stopping == "never":
            # A log-probability only falls, and is divided by most at the next length or at the greatest.
            self.bounds = torch.maximum(scales[1:, None, None], scales[self.max_lengths - 1])
        parents, tokens = (torch.zeros(L, self.B, self.beam, dtype=torch.int64, device=self.device) for _ in range(2))
        kept = None
        if attention is not None:
            kept = torch.zeros(L, *attention.shape, dtype=attention.dtype, device=self.device)
            self.coverage = torch.zeros(attention.shape, dtype=dtype, device=self.device)
        log_probs = torch.full((L, self.B, self.beam), NEVER, dtype=dtype, device=self.device)
        self.history = History(parents, tokens, log_probs, kept)
        self.allowed = None
        if self.banned:
            self.allowed = torch.ones(V, dtype=torch.bool, device=self.device).index_fill_(0, self.banned_ids, False)

    @torch.no_grad()
    def advance(self, logits: Tensor, attention: Tensor | None = None, *, normalized: bool = False) -> Tensor:
        """One step: from the logits [B, beam, V] of `tokens` to the next `tokens`.

        Args:
            logits: the model's, or with `normalized` log-probabilities, of which no softmax is taken.
            attention: [B, beam, T], for alignments and the coverage penalty.

        Returns:
            Rows [B*beam] int64: the row of state, of all items' beams one behind another, that each beam continues.
        """
        check_shape(OP, "step's logits", logits, (self.B, self.beam, "V"))
        if attention is not None:
            check_shape(OP, "step's attention", attention, (self.B, self.beam, "T"))
        elif self.coverage_penalty:
            raise ValueError(f"{OP}: a coverage_penalty needs attention from step")
        if self.steps == 0:
            self._begin(logits, attention)
        if self.steps == self.max_length:
            raise ValueError(f"{OP}: all {self.max_length} steps have been made")
        log_probs, parents, tokens, ended, going = self._choose(*self._processed(logits, normalized))
        by_coverage = self._cover(attention)
        if ended is None or going is None:
            log_probs, parents, tokens = (t[:, : self.w] for t in (log_probs, parents, tokens))
        else:
            self._finish(log_probs, parents, tokens, ended, by_coverage)
            log_probs = log_probs.masked_fill(ended, NEVER)
            log_probs, parents, tokens = (t.gather(1, going) for t in (log_probs, parents, tokens))
        self.live.copy_(log_probs)
        if self.beyond is not None:
            self.live.masked_fill_(self.beyond, NEVER)
        self._settle()
        rows = (self.row_offset + parents).flatten()
        self._remember(self._of_item(parents).view(self.tokens.shape), tokens, attention, rows)
        self.steps += 1
        return rows

    def _finish(
        self, log_probs: Tensor, parents: Tensor, tokens: Tensor, ended: Tensor, by_coverage: Tensor | None
    ) -> None:
        """Takes those of the candidates [N,k] that have ended into the pool."""
        # Only the best w count as finished; what lies behind them is there for as many to go on.
        finished = log_probs.masked_fill(~ended | self.done, NEVER)[:, : self.w]
        if self.beyond is not None:
            finished = finished.masked_fill(self.beyond, NEVER)
        scores = finished / self._now(self.scales)
        parents = parents[:, : self.w]
        if by_coverage is not None:
            scores = scores + by_coverage.gather(1, parents)
        length, own = (self.step + 1).expand_as(parents), self._of_item(parents)
        self.pool.merge(Pool(scores, finished, length, own, tokens[:, : self.w]), self.beyond)
        self.count += (finished != NEVER).sum(1, keepdim=True)

    def _now(self, table: Tensor) -> Tensor:
        """What a table by step says of this one. The step is a buffer: set back, it counts as it did."""
        return table[int(self.step)] if self.on_host else table.index_select(0, self.step)[0]

    def _of_item(self, parents: Tensor) -> Tensor:
        """A group's beams as they are counted in the item."""
        return parents if self.groups == 1 else parents + self.group_offset

    def _choose(self, values: Tensor, normalized: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """The candidates [N,k], as they are preferred: log_probs, parents, tokens, whether they end; which w go on.

        None and None: none ends, and the first w go on.
        """
        V, allowed = values.shape[2], self._mask(values.shape[2])
        ends = len(self.eos) if not self.stopping_criteria else max(1, len(self.eos))
        k = min((1 + ends) * self.w, self.w * V)
        if self.groups == 1:
            best = beam_topk(values, self.live, k, mask=allowed, normalized=normalized)
            ended = self._ended(best.tokens, best.parents)
            if self.on_host and not bool(ended.any()):
                return *best, None, None
            return *best, ended, self._going(ended)
        # Each group sees what those before it have chosen in this step, and is led away from it.
        if not normalized:
            values, _ = log_softmax(values), True
        grouped, live = values.unflatten(1, (self.groups, self.w)), self.live.view(self.B, self.groups, self.w)
        allowed = allowed if allowed is None or allowed.dim() == 1 else allowed.view(self.B, self.groups, V)
        chosen = torch.zeros(self.B, V, dtype=values.dtype, device=self.device)
        parts = []
        for g in range(self.groups):
            mask = allowed if allowed is None or allowed.dim() == 1 else allowed[:, g]
            penalty = self.diversity * chosen
            best = beam_topk(grouped[:, g] - penalty[:, None], live[:, g], k, mask=mask, normalized=True)
            log_probs = best.scores + penalty.gather(1, best.tokens)
            ended = self._ended(best.tokens, best.parents, g)
            going = self._going(ended)
            chosen.scatter_add_(1, best.tokens.gather(1, going), (~ended.gather(1, going)).to(chosen.dtype))
            parts.append((log_probs, best.parents, best.tokens, ended, going))
        log_probs, parents, tokens, ended, going = (torch.stack(p, 1).flatten(0, 1) for p in zip(*parts, strict=True))
        return log_probs, parents, tokens, ended, going

    def _going(self, ended: Tensor) -> Tensor:
        """The places of the best w candidates that do not end, in order: False sorts before True."""
        return ended.sort(dim=1, stable=True).indices[:, : self.w]

    def _ended(self, tokens: Tensor, parents: Tensor, group: int | None = None) -> Tensor:
        """Which candidates end."""
        ended = tokens == self.eos if len(self.eos) == 1 else (tokens[:, :, None] == self.eos).any(-1)
        if not self.on_host or int(self.step) + 1 >= self.least_max_length:
            last = self.max_lengths if group is None else self.max_lengths.view(self.B, -1)[:, group : group + 1]
            ended = ended | (self.step + 1 >= last)
        if self.stopping_criteria and self.sequences is not None:
            n = self.prompt.shape[1] + self.steps
            rows = self.row_offset if group is None else self.row_offset.view(self.B, -1)[:, group : group + 1]
            sequences = torch.cat((self.sequences[rows + parents, :n], tokens[:, :, None]), 2).flatten(0, 1)
            for stops in self.stopping_criteria:
                ended = ended | stops(sequences, None).view_as(ended)
        return ended

    def _mask(self, V: int) -> Tensor | None:
        """bool [V] or [N,V]: the tokens that may come in this step; None: all."""
        allowed = self.allowed
        if self.steps < self.min_length and len(self.eos):
            allowed = torch.ones(V, dtype=torch.bool, device=self.device) if allowed is None else allowed
            ends = (torch.arange(V, device=self.device)[:, None] == self.eos).any(-1)
            allowed = allowed & ~(ends & (self.step < self.min_lengths))
        if self.steps in self.forced:
            token = self.forced[self.steps]
            only = torch.arange(V, device=self.device) == token
            allowed = torch.where(token >= 0, only, True if allowed is None else allowed)
        return allowed

    def _processed(self, logits: Tensor, normalized: bool) -> tuple[Tensor, bool]:
        if not self.processors or self.sequences is None:
            return logits, normalized
        log_p = (logits.to(self.live.dtype) if normalized else log_softmax(logits)).flatten(0, 1)
        for process in self.processors:
            log_p = process(self.running, log_p)
        return log_p.view(logits.shape), True

    def _cover(self, attention: Tensor | None) -> Tensor | None:
        """The coverage penalty of each beam's continuations [N,w]."""
        if attention is None or not self.coverage_penalty:
            return None
        self.coverage += attention
        return coverage_penalty(self.coverage, self.source_lengths, self.coverage_penalty).view(self.N, self.w)

    def _settle(self) -> None:
        """Notes which items are done: nothing that goes on can, or shall, still enter their pools."""
        # The best comes first, but for what groups have chosen at a penalty.
        best = self.live[:, :1] if self.groups == 1 else self.live.amax(1, keepdim=True)
        scores = self.pool.scores
        worst = scores[:, -1:] if self.worst is None else scores.gather(1, self.worst)
        # A tie does not enter: the earlier one stays.
        self.done |= best / self._now(self.bounds) <= worst
        if self.early_stopping is True:
            self.done |= self.count >= self.enough

    def _remember(self, parents: Tensor, tokens: Tensor, attention: Tensor | None, rows: Tensor) -> None:
        self.tokens.copy_(tokens.view(self.tokens.shape))
        now = {"parents": parents, "tokens": self.tokens, "log_probs": self.live.view_as(self.tokens)}
        for name, value in now.items():
            if self.on_host:
                getattr(self.history, name)[int(self.step)] = value
            else:
                getattr(self.history, name).index_copy_(0, self.step, value[None])
        if attention is not None and self.history.attention is not None:
            self.history.attention.index_copy_(0, self.step, attention[None])
            self.coverage.copy_(self.coverage.flatten(0, 1).index_select(0, rows).view_as(self.coverage))
        if self.sequences is not None:
            self.sequences.copy_(self.sequences.index_select(0, rows))
            self.sequences[:, self.prompt.shape[1] + self.steps] = self.tokens.flatten()
        self.step += 1

    @property
    def running(self) -> Tensor:
        """[B*beam, P + steps], a view: the prompts and what each beam has added; needs `keep_sequences`."""
        if self.sequences is None:
            raise ValueError(f"{OP}: running needs keep_sequences")
        return self.sequences[:, : self.prompt.shape[1] + self.steps]

    def buffers(self) -> list[Tensor]:
        """All that steps change, in place; made by the first step. A copy of them is a search's state."""
        own = [self.tokens, self.live, self.count, self.done, self.step, *self.pool, *self.history[:3]]
        attended = [] if self.history.attention is None else [self.history.attention, self.coverage]
        return own + attended + ([] if self.sequences is None else [self.sequences])

    def finished(self) -> bool:
        """Whether all items are done. The host waits for the GPU."""
        return self.steps == self.max_length or (self.steps > 0 and bool(self.done.all()))

    def output(self) -> BeamSearchOutput:
        """The best hypotheses so far."""
        if self.steps == 0:
            raise ValueError(f"{OP}: no step has been made")
        return read_back(self.pool.best(self.B, self.n_best), self.history, self.pad)


def _whole(name: str, value: int | Sequence[int]) -> int | list[int]:
    """One whole number or several of any type that counts, such as numpy's."""
    try:
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    try:
        return [index(v) for v in value]  # type: ignore[union-attr]
    except TypeError:
        raise TypeError(f"{OP}: {name} must be an int or a sequence of them, got {value!r}") from None


def _prompt(bos: int | Tensor, B: int, device: torch.device) -> Tensor:
    """[B,P]: `bos` for each item, or a prompt [B,P], of which `step` is fed the last token and processors see all."""
    if isinstance(bos, Tensor) and bos.dim() == 2:
        check_shape(OP, "bos", bos, (B, "P"))
        return bos.to(device=device, dtype=torch.int64)
    return first_tokens(OP, bos, B, device)[:, None]


def first_tokens(op: str, bos: int | Tensor, B: int, device: torch.device) -> Tensor:
    if not isinstance(bos, Tensor):
        return torch.full((B,), bos, dtype=torch.int64, device=device)
    if bos.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: bos must be int32 or int64, got {bos.dtype}")
    check_shape(op, "bos", bos, (B,))
    return bos.to(device=device, dtype=torch.int64)
