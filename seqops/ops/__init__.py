"""One file an op: the public function, its autograd Function, its registration."""

from .additive_attention import additive_attention
from .beam_topk import BeamTopK, beam_topk
from .gru import gru, gru_cell
from .lstm import lstm, lstm_cell
from .rnn import rnn, rnn_cell

__all__ = ["BeamTopK", "additive_attention", "beam_topk", "gru", "gru_cell", "lstm", "lstm_cell", "rnn", "rnn_cell"]
