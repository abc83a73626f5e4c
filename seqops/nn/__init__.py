"""Modules with torch.nn's constructors, state_dicts and errors, on seqops' ops."""

from .additive_attention import AdditiveAttention
from .gru import GRU, GRUCell
from .layer_norm_gru import LayerNormGRU, LayerNormGRUCell
from .layer_norm_lstm import LayerNormLSTM, LayerNormLSTMCell
from .lstm import LSTM, LSTMCell
from .rnn import RNN, RNNCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdditiveAttention",
    "GRUCell",
    "LSTMCell",
    "LayerNormGRU",
    "LayerNormGRUCell",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "RNNCell",
]
