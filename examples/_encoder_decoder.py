"""An encoder-decoder with additive attention, and beam search over what it writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _common import BOS, EOS
from torch import Tensor, nn

import seqops

# step(tokens [B,beam], state [B,beam,H]) -> (logits [B,beam,V], state)
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class EncoderDecoder(nn.Module):
    """A bidirectional GRU reads, a GRU with additive attention writes (Bahdanau et al. 2015, arXiv:1409.0473)."""

    def __init__(self, source_size: int, target_size: int, embedding: int, hidden: int, attention: int) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(source_size, embedding)
        self.target_embedding = nn.Embedding(target_size, embedding)
        self.encoder = seqops.nn.GRU(embedding, hidden, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * hidden, hidden)
        self.decoder = seqops.nn.GRU(embedding, hidden, batch_first=True)
        self.attention = seqops.nn.AdditiveAttention(attention, query_dim=hidden, key_dim=2 * hidden)
        self.combine = nn.Linear(3 * hidden, hidden)
        self.dropout = nn.Dropout(0.0)
        self.predict = nn.Linear(hidden, target_size)

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """source [B,T] -> what attention looks at [B,T,2H], the decoder's first state [B,H]."""
        keys, ends = self.encoder(self.dropout(self.source_embedding(source)), lengths=lengths)
        return keys, torch.tanh(self.bridge(torch.cat([ends[0], ends[1]], -1)))

    def output(self, states: Tensor, context: Tensor) -> Tensor:
        return self.predict(self.dropout(torch.tanh(self.combine(torch.cat([states, context], -1)))))

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing: target [B,L] -> logits [B,L,V], attention weights [B,L,T].

        The decoder does not read what attention found, so that all its steps are one call, and all looks one more.
        """
        keys, state = self.encode(source, lengths)
        previous = torch.cat([torch.full_like(target[:, :1], BOS), target[:, :-1]], 1)
        states, _ = self.decoder(self.dropout(self.target_embedding(previous)), state[None])
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


class Decoded(NamedTuple):
    """The n best of each item, best first."""

    sequences: Tensor  # [N, n, L], filled with EOS
    lengths: Tensor  # [N, n]
    log_probs: Tensor  # [N, n]


@torch.no_grad()
def decode(
    model: EncoderDecoder,
    source: Tensor,
    lengths: Tensor,
    beam: int,
    *,
    max_length: int,
    n_best: int = 1,
    batch_size: int = 256,
    **options: Any,
) -> Decoded:
    """Beam search; a beam of 1 is greedy. Batches hold items of like length; the results are in the order given."""
    device = next(model.parameters()).device
    count = len(lengths)
    sequences = torch.full((count, n_best, max_length), EOS)
    found_lengths, log_probs = torch.zeros(count, n_best, dtype=torch.long), torch.zeros(count, n_best)
    for index in lengths.argsort(stable=True).split(batch_size):
        step, state = model.stepper(source[index, : int(lengths[index].max())].to(device), lengths[index].to(device))
        found = seqops.beam_search(
            step,
            state,
            batch_size=len(index),
            beam_size=beam,
            bos=BOS,
            eos=EOS,
            max_length=max_length,
            n_best=n_best,
            **options,
        )
        sequences[index, :, : found.sequences.shape[-1]] = found.sequences.cpu()
        found_lengths[index], log_probs[index] = found.lengths.cpu(), found.log_probs.cpu()
    return Decoded(sequences, found_lengths, log_probs)


@torch.no_grad()
def score(
    model: EncoderDecoder,
    source: Tensor,
    source_lengths: Tensor,
    sequences: Tensor,
    lengths: Tensor,
    batch_size: int = 256,
) -> Tensor:
    """The model's log-probability [N] of sequences [N,L] that somebody gives."""
    device = next(model.parameters()).device
    scores = torch.zeros(len(lengths))
    for index in source_lengths.argsort(stable=True).split(batch_size):
        rows = source[index, : int(source_lengths[index].max())].to(device)
        step, state = model.stepper(rows, source_lengths[index].to(device))
        found, _ = seqops.score_sequences(step, state, sequences[index].to(device), lengths[index].to(device), bos=BOS)
        scores[index] = found.cpu()
    return scores


@torch.no_grad()
def draw_attention(axes: Any, model: EncoderDecoder, row: list[int], written: list[int]) -> Any:
    """A heat map: which source symbols (along) each written one (down) was read from. Returns the image."""
    device = next(model.parameters()).device
    source, target = torch.tensor([row], device=device), torch.tensor([written], device=device)
    _, weights = model(source, torch.tensor([len(row)], device=device), target)
    axes.set_xlabel("read")
    axes.set_ylabel("written")
    return axes.imshow(weights[0].cpu().numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto")
