"""One file an op: the public function, its autograd Function, its registration."""

from .gru import gru, gru_cell

__all__ = ["gru", "gru_cell"]
