"""One file an op: the public function, its autograd Function, its registration."""

from .additive_attention import additive_attention
from .beam_topk import BeamTopK, beam_topk
from .gru import gru, gru_cell

__all__ = ["BeamTopK", "additive_attention", "beam_topk", "gru", "gru_cell"]
