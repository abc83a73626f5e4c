"""nn.Modules with torch.nn's constructors, errors and state_dict."""

from .gru import GRU, GRUCell

__all__ = ["GRU", "GRUCell"]
