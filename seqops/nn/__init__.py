"""nn.Modules with torch.nn's constructors, errors and state_dict."""

from .additive_attention import AdditiveAttention
from .gru import GRU, GRUCell

__all__ = ["GRU", "AdditiveAttention", "GRUCell"]
