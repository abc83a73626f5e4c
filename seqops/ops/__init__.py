"""One file an op: the public function, its autograd Function, its registration."""

from .additive_attention import additive_attention
from .beam_topk import BeamTopK, beam_topk
from .bpr_loss import bpr_loss
from .glove_loss import glove_loss
from .gru import gru, gru_cell
from .hierarchical_softmax_loss import hierarchical_softmax_loss
from .in_batch_softmax_loss import in_batch_softmax_loss
from .layer_norm_gru import layer_norm_gru, layer_norm_gru_cell
from .layer_norm_lstm import layer_norm_lstm, layer_norm_lstm_cell
from .linear_cross_entropy import linear_cross_entropy
from .lstm import lstm, lstm_cell
from .nce_loss import nce_loss
from .negative_sampling_loss import negative_sampling_loss
from .rnn import rnn, rnn_cell
from .sampled_softmax_loss import sampled_softmax_loss

__all__ = [
    "BeamTopK",
    "additive_attention",
    "beam_topk",
    "bpr_loss",
    "glove_loss",
    "gru",
    "gru_cell",
    "hierarchical_softmax_loss",
    "in_batch_softmax_loss",
    "layer_norm_gru",
    "layer_norm_gru_cell",
    "layer_norm_lstm",
    "layer_norm_lstm_cell",
    "linear_cross_entropy",
    "lstm",
    "lstm_cell",
    "nce_loss",
    "negative_sampling_loss",
    "rnn",
    "rnn_cell",
    "sampled_softmax_loss",
]
