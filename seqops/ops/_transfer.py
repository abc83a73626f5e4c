"""From the host's memory to a GPU's."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["to_device"]


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; the host does not wait until the GPU has done what it was told before.

    It does where a graph is captured: there torch refuses such a copy, which replays would repeat from memory that is
    another's by then.
    """
    device = torch.device(device)
    if (
        device.type != "cuda"
        or tensor.device.type != "cpu"
        or torch.compiler.is_compiling()
        or not torch.cuda.is_available()
        or torch.cuda.is_current_stream_capturing()
    ):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
