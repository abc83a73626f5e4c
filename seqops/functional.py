"""The public functions of all ops under one name."""

from .ops.gru import gru, gru_cell

__all__ = ["gru", "gru_cell"]
