"""Checks that the public functions share. Each message names the op, the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._transfer import to_device

__all__ = ["are_plain", "autocast", "check_dtypes", "check_lengths", "check_shape"]

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PLAIN = (Tensor, torch.nn.Parameter)


def are_plain(dtype: torch.dtype, shape: tuple[int, ...], *tensors: Tensor | None) -> bool:
    """Whether those that there are are on the CPU, of this dtype and shape, and no subclass that has rules of its own.

    A quick look: a small problem's work takes no longer than the checks that have a message for each fault.
    """
    for t in tensors:
        if t is not None and (type(t) not in PLAIN or t.dtype != dtype or t.shape != shape or not t.is_cpu):
            return False
    return True


def check_shape(op: str, name: str, tensor: Tensor, expected: Sequence[int | str]) -> None:
    """`expected` holds a size, or a letter for a dimension of any size: ("T", "B", 3)."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op}: {name} must be a Tensor, got {type(tensor).__name__}")
    shape = tensor.shape
    if len(shape) == len(expected):
        # A plain loop: it runs for every argument of every call, and a small cell's work takes no longer.
        for size, wanted in zip(shape, expected, strict=True):
            if size != wanted and isinstance(wanted, int):
                break
        else:
            return
    raise ValueError(f"{op}: {name} must have shape [{', '.join(str(e) for e in expected)}], got {list(shape)}")


def check_dtypes(op: str, **tensors: Tensor | None) -> None:
    """All given tensors are floating, of one dtype, on one device: those of the first."""
    (first_name, first), *rest = [(name, t) for name, t in tensors.items() if t is not None]
    if first.dtype not in FLOATING:
        raise TypeError(f"{op}: {first_name} must be float16, bfloat16, float32 or float64, got {first.dtype}")
    for name, tensor in rest:
        if tensor.dtype != first.dtype:
            raise TypeError(f"{op}: {name} must have the dtype of {first_name}, {first.dtype}, got {tensor.dtype}")
        check_device(op, name, tensor, first_name, first)


def check_device(op: str, name: str, tensor: Tensor, first_name: str, first: Tensor) -> None:
    if tensor.device != first.device:
        raise ValueError(f"{op}: {name} must be on the device of {first_name}, {first.device}, got {tensor.device}")


def check_lengths(
    op: str, lengths: Tensor | Sequence[int] | None, B: int, T: int, device: torch.device
) -> Tensor | None:
    """`lengths` as an int32 tensor [B] on `device`.

    Lengths that come from the host are checked to lie in 0..T. Those on a GPU are not, which would make the host wait:
    every kernel reads one above T as T, and a negative one as 0.
    """
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor):
        lengths = torch.tensor(lengths, dtype=torch.int64, device="cpu")
    if lengths.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: lengths must be int32 or int64, got {lengths.dtype}")
    check_shape(op, "lengths", lengths, (B,))
    if lengths.device.type == "cpu" and lengths.numel() and not torch.compiler.is_compiling():
        low, high = (int(v) for v in torch.aminmax(lengths))
        if low < 0 or high > T:
            raise ValueError(f"{op}: lengths must lie in 0..{T}, got {low}..{high}")
    return to_device(lengths.to(torch.int32), device)


def autocast(op: str, **tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in autocast's dtype where autocast is on for the device of the first, else as they are.

    As in torch, float64 is left as it is.
    """
    for i, (name, tensor) in enumerate(tensors.items()):
        if not isinstance(tensor, Tensor) and (i == 0 or tensor is not None):
            raise TypeError(f"{op}: {name} must be a Tensor, got {type(tensor).__name__}")
    given = tuple(tensors.values())
    device = next(t.device.type for t in given if t is not None)
    if device == "meta" or not torch.is_autocast_enabled(device):
        return given
    dtype = torch.get_autocast_dtype(device)
    narrow = (torch.float16, torch.bfloat16, torch.float32)
    return tuple(t.to(dtype) if t is not None and t.dtype in narrow else t for t in given)
