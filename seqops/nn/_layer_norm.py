"""The parameters that the layer-normalised recurrent layers and cells have beside torch's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["check_eps", "gain", "norm_names", "start"]


def check_eps(module: str, eps: float) -> float:
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps > 0:
        raise ValueError(f"{module}: eps must be a number above 0, got {eps!r}")
    return eps


def norm_names(bias: bool, joint: bool, norm_cell: bool) -> list[str]:
    """In the order of the ops' arguments, after the biases."""
    names = ["gamma_hh"] if joint else ["gamma_ih", "gamma_hh"]
    return names + (["gamma_c", *(["beta_c"] if bias else [])] if norm_cell else [])


def start(module: torch.nn.Module, hidden_size: int, opens: bool) -> None:
    """Weights as torch has them, gains 1 and biases 0; with `opens` at 1 for the gate that lets the old state pass."""
    for name, parameter in module.named_parameters(recurse=False):
        if name.startswith("weight"):
            bound = hidden_size**-0.5 if hidden_size else 0.0
            torch.nn.init.uniform_(parameter, -bound, bound)
        elif name.startswith("gamma"):
            torch.nn.init.ones_(parameter)
        else:
            torch.nn.init.zeros_(parameter)
            if opens and name.startswith("bias_hh"):
                with torch.no_grad():
                    parameter[hidden_size : 2 * hidden_size] = 1


def gain(weight: Tensor, name: str, hidden_size: int) -> Parameter:
    """An empty parameter of that name's size."""
    return Parameter(weight.new_empty(hidden_size if name.endswith("_c") else weight.shape[0]))
