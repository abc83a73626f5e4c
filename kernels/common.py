"""What the kernels share: exact elementwise functions and the grid barrier in jit, the launchers' device guard."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl

__all__ = ["device_guard", "dot_precision", "grid_barrier", "mix", "resident_limits", "sigmoid", "softplus", "tanh"]


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x); e^-x may overflow to inf, whose reciprocal is the right 0."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def softplus(x):
    """log(1 + e^x) of fp32, finite for every finite x: max(x, 0) + log1p(e^-|x|).

    log1p(t) as log(u) * t / (u - 1) with u = 1 + t: what rounding takes from u, it takes from both.
    """
    t = tl.exp(-tl.abs(x))
    u = 1.0 + t
    rest = tl.where(u == 1.0, t, tl.log(u) * (t / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.where(x < 0.0, 0.0, x) + rest


@triton.jit
def tanh(x):
    """tanh of fp32 to 2 ulp: 1 - 2 e^-2|x| / (1 + e^-2|x|) cannot overflow; below 0.625, where it cancels, a series.

    The series' coefficients: Cephes, tanhf.
    """
    t = tl.exp(-2.0 * tl.abs(x))
    large = 1.0 - 2.0 * t / (1.0 + t)
    large = tl.where(x < 0.0, -large, large)
    s = x * x
    tail = -0.33333281942 + s * (0.133314422036 + s * (-0.0537397155531 + s * (0.0206390887954 - 0.00570498872745 * s)))
    return tl.where(tl.abs(x) < 0.625, x + x * s * tail, large)


@triton.jit
def mix(share, old, new):
    """`share` of old and the rest of new. new + share * (old - new) would leave new's rounding in a small old."""
    return share * old + (1.0 - share) * new


@triton.jit
def grid_barrier(counter_ptr, target):
    """Waits until `target` programs in all have arrived at `counter_ptr`; what they stored before is then visible.

    The programs that share a counter must all be resident at once: launch with `launch_cooperative_grid=True`.
    """
    tl.debug_barrier()
    tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")
    while tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu") < target:
        pass
    tl.debug_barrier()


def device_guard(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one: Triton launches on the current device, whatever its arguments' device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def resident_limits(device: torch.device) -> tuple[int, int]:
    """Bytes of shared memory in which one program can keep weights through its loop, and the multiprocessors.

    No bytes on AMD GPUs, where Triton keeps a product's operands in registers; the interpreter has no bounds.
    """
    if device.type != "cuda":
        return sys.maxsize, sys.maxsize
    properties = torch.cuda.get_device_properties(device)
    memory = 0 if torch.version.hip else int(getattr(properties, "shared_memory_per_block_optin", 49152))
    if properties.major < 8:
        memory //= 2  # without matrix units that Triton uses, it keeps 16-bit operands as fp32
    return memory, properties.multi_processor_count


def dot_precision(dtype: torch.dtype) -> str:
    """`input_precision` of a tl.dot: full fp32 unless torch itself has been allowed TF32 for its products.

    On AMD GPUs always: most have no TF32, and Triton refuses it for them.
    """
    # Not torch.get_float32_matmul_precision(), which raises where this newer setting has been used.
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32" and not torch.version.hip
    return "tf32" if dtype == torch.float32 and allowed else "ieee"
