"""The public functions of all ops under one name."""

from .ops.additive_attention import additive_attention
from .ops.beam_topk import BeamTopK, beam_topk
from .ops.gru import gru, gru_cell
from .ops.lstm import lstm, lstm_cell
from .ops.rnn import rnn, rnn_cell

__all__ = ["BeamTopK", "additive_attention", "beam_topk", "gru", "gru_cell", "lstm", "lstm_cell", "rnn", "rnn_cell"]
