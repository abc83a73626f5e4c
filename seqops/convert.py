"""Makes the recurrent modules of a model seqops' own, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import parametrize

from . import nn
from .nn._recurrent import Recurrent

__all__ = ["convert"]

_OURS = {
    getattr(torch.nn, name): getattr(nn, name) for name in ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
}


def convert(model: torch.nn.Module, *, report: Callable[[str], Any] | None = print) -> torch.nn.Module:
    """Replaces torch.nn's recurrent modules and cells in a model, the model itself included, by seqops.nn's.

    Each stays the object that it is, with its parameters, buffers, hooks, parametrizations and training mode, so that
    optimizers and other references remain valid; only its class changes. A module of a class derived from torch.nn's is
    left as it is: what the class does is not known.

    Args:
        model: any module.
        report: is called with a line for each module that changes or is left; None: silent.

    Returns:
        model.

    Raises:
        TypeError: model is no torch.nn.Module.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"convert: model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        cls = type(module)
        parametrized = parametrize.is_parametrized(module)
        theirs = cls.__bases__[0] if parametrized else cls
        ours = _OURS.get(theirs)
        said = f"{name or 'the model'}: {theirs.__module__}.{theirs.__qualname__}"
        if ours is not None:
            # A parametrized module has a class of its own, which holds the parametrized weights as properties.
            module.__class__ = _derive(cls, ours) if parametrized else ours
            if parametrized and isinstance(module, Recurrent):
                # torch's forward has left computed weights with their graph, which could not be copied.
                module._init_flat_weights()
            said += f" -> seqops.nn.{ours.__name__}"
        elif isinstance(module, (*_OURS,)):
            said += " left as it is: a subclass"
        else:
            continue
        if report is not None:
            report(said)
    return model


def _derive(cls: type, ours: type) -> type:
    own = {n: v for n, v in vars(cls).items() if n not in ("__dict__", "__weakref__", "__doc__", "__module__")}
    return type(cls.__name__, (ours,), own)
