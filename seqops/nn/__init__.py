"""Modules with torch.nn's constructors, state_dicts and errors, on seqops' ops; losses with their tables."""

from .additive_attention import AdditiveAttention
from .glove import GloVe
from .gru import GRU, GRUCell
from .hierarchical_softmax import HierarchicalSoftmax
from .layer_norm_gru import LayerNormGRU, LayerNormGRUCell
from .layer_norm_lstm import LayerNormLSTM, LayerNormLSTMCell
from .linear_cross_entropy import LinearCrossEntropyLoss
from .lstm import LSTM, LSTMCell
from .negative_sampling import NegativeSampling
from .rnn import RNN, RNNCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdditiveAttention",
    "GRUCell",
    "GloVe",
    "HierarchicalSoftmax",
    "LSTMCell",
    "LayerNormGRU",
    "LayerNormGRUCell",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "LinearCrossEntropyLoss",
    "NegativeSampling",
    "RNNCell",
]
