"""The one place that registers an op with torch: schema, GPU implementation, CPU implementation, fake."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.compiler import is_compiling

__all__ = ["INTERPRET", "autocast_is_on", "calls_directly", "register", "takes_torch_path", "torch_has_its_own"]

# Looks that a small problem's every call takes, bound once: to find each by its path costs as much as the look.
autocast_is_on = torch._C._is_any_autocast_enabled
_transformations = torch._C._functorch.maybe_current_level
_dispatch_modes = torch._C._len_torch_dispatch_stack
# One of many gradients, as a vectorized Jacobian asks for.
_is_batched = torch._C._functorch.is_legacy_batchedtensor

_LIBRARY = torch.library.Library("seqops", "FRAGMENT")

# As Triton reads it: before its first import, once.
INTERPRET = os.environ.get("TRITON_INTERPRET", "").lower() in {"1", "true", "yes", "on", "y"}


def _kernels(module: str, op: str) -> Any:
    try:
        return importlib.import_module(f"seqops.kernels.{module}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("triton"):
            raise
        raise RuntimeError(f"seqops::{op} on a GPU tensor needs triton, which is not installed") from error


def takes_torch_path(tensor: torch.Tensor, kernel_takes: bool) -> bool:
    """Whether an op on this tensor runs `seqops.cpu`; `kernel_takes`: there are kernels for its arguments."""
    on_gpu = tensor.device.type not in ("cpu", "meta")
    return not (kernel_takes and (on_gpu or INTERPRET))


def torch_has_its_own(tensor: torch.Tensor) -> bool:
    """Whether torch's own op for the same may be called: on CPU tensors, where our path is torch as well.

    Not under torch.func's transformations, for which torch.lstm_cell has no rules.
    """
    return tensor.is_cpu and not INTERPRET and _transformations() is None


def calls_directly(*tensors: torch.Tensor) -> bool:
    """Whether a public function may call `seqops.cpu` itself where no gradient is needed: plain tensors on the CPU, and
    nobody who traces or transforms. The dispatcher's way there costs more than a small problem's work.
    """
    if is_compiling():
        return False
    for tensor in tensors:
        if (type(tensor) is not torch.Tensor and type(tensor) is not torch.nn.Parameter) or not tensor.is_cpu:
            return False
        if _is_batched(tensor):
            return False
    return (
        not INTERPRET
        and _transformations() is None
        and _dispatch_modes() == 0
        and forward_ad._current_level < 0
        and not autocast_is_on()
    )


def register(
    schema: str,
    module: str,
    fake: Callable[..., Any],
    kernel_takes: Callable[..., bool],
    function: type[torch.autograd.Function] | None = None,
) -> Callable[..., Any]:
    """Registers `seqops::<name>(...)`, whose implementations are `kernels.<module>.<name>` and `cpu.<module>.<name>`.

    A GPU tensor takes the Triton launcher, a CPU tensor the torch path; under `TRITON_INTERPRET=1` a CPU tensor takes
    the launcher too. `kernel_takes(*args)` says whether the kernels cover these arguments (dtype, size); where they do
    not, the torch path runs on whatever device the tensors are on. `function` takes the op's arguments, gives its
    results and differentiates it; an op without one, such as a backward, refuses tensors that require grad.

    Gives the op to call: without gradients, on plain CPU tensors, past the dispatcher, whose way costs more than a
    small problem's work.
    """
    op = schema.partition("(")[0]

    def run(*args: Any) -> Any:
        first = next(a for a in args if isinstance(a, torch.Tensor))
        device = first.device
        on_torch = takes_torch_path(first, kernel_takes(*args))
        path = importlib.import_module(f"seqops.cpu.{module}") if on_torch else _kernels(module, op)
        implementation = getattr(path, op)
        if not torch.is_autocast_enabled(device.type):
            return implementation(*args)
        # The public function has cast already; nothing inside an op may be cast again.
        with torch.autocast(device.type, enabled=False):
            return implementation(*args)

    def differentiate(*args: Any) -> Any:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
            raise NotImplementedError(f"seqops::{op} has no forward-mode derivative")
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            if function is None:
                raise RuntimeError(f"seqops::{op} cannot be differentiated")
            return function.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return getattr(torch.ops.seqops, op)(*args)

    _LIBRARY.define(schema)
    _LIBRARY.impl(op, run, "CUDA")
    _LIBRARY.impl(op, run, "CPU")
    _LIBRARY.impl(op, differentiate, "Autograd")
    torch.library.register_fake(f"seqops::{op}", fake, lib=_LIBRARY)
    dispatched = getattr(torch.ops.seqops, op)

    def call(*args: Any) -> Any:
        if not torch.is_grad_enabled() and calls_directly(*(a for a in args if isinstance(a, torch.Tensor))):
            return run(*args)
        return dispatched(*args)

    return call
