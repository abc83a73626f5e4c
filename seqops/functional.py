"""The public functions of all ops under one name."""

from .ops.additive_attention import additive_attention
from .ops.beam_topk import BeamTopK, beam_topk
from .ops.bpr_loss import bpr_loss
from .ops.glove_loss import glove_loss
from .ops.gru import gru, gru_cell
from .ops.hierarchical_softmax_loss import hierarchical_softmax_loss
from .ops.in_batch_softmax_loss import in_batch_softmax_loss
from .ops.layer_norm_gru import layer_norm_gru, layer_norm_gru_cell
from .ops.layer_norm_lstm import layer_norm_lstm, layer_norm_lstm_cell
from .ops.linear_cross_entropy import linear_cross_entropy
from .ops.lstm import lstm, lstm_cell
from .ops.nce_loss import nce_loss
from .ops.negative_sampling_loss import negative_sampling_loss
from .ops.rnn import rnn, rnn_cell
from .ops.sampled_softmax_loss import sampled_softmax_loss

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
