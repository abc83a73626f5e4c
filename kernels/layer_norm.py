"""Layer normalisation of rows that one program holds, and its gradient: jit helpers of the layer-normalised walks."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import config
from .common import device_guard
from .recurrent_step import lengths_of

__all__ = ["RUN_TIME", "gates_of", "launch_rows", "none_of", "normalized", "normalized_back", "owned_rows", "scaled"]

# A new length or batch must not compile anew.
RUN_TIME = ["stride", "step", "T", "B"]


@triton.jit
def owned_rows(lengths_ptr, T, B, H: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr):
    """The program's batch rows, which of them there are, their lengths; all units, and the mask of both."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.arange(0, BLOCK_H)
    row_mask = rows < B
    return rows, row_mask, lengths_of(lengths_ptr, rows, row_mask, T), units, row_mask[:, None] & (units < H)[None, :]


@triton.jit
def gates_of(ptrs, mask, H: tl.constexpr, GATES: tl.constexpr):
    """Rows of GATES*H, a tile a gate: fp32, zero where the mask is off."""
    gates = ()
    for g in tl.static_range(GATES):
        gates = gates + (tl.load(ptrs + g * H, mask=mask, other=0.0).to(tl.float32),)
    return gates


@triton.jit
def none_of(mask, GATES: tl.constexpr):
    """As `gates_of`, where there is nothing to read."""
    gates = ()
    for _ in tl.static_range(GATES):
        gates = gates + (tl.zeros(mask.shape, tl.float32),)
    return gates


@triton.jit
def normalized(a, mask, eps, H: tl.constexpr, GATES: tl.constexpr):
    """(a - mean) / sqrt(var + eps) over all GATES*H of a row, and its 1 / sqrt(var + eps); a is 0 off the mask."""
    total = tl.sum(a[0], 1)
    for g in tl.static_range(1, GATES):
        total += tl.sum(a[g], 1)
    mean = (total / (GATES * H))[:, None]
    square = tl.zeros(total.shape, tl.float32)
    centred = ()
    for g in tl.static_range(GATES):
        centred = centred + (tl.where(mask, a[g] - mean, 0.0),)
        square += tl.sum(centred[g] * centred[g], 1)
    rstd = (1.0 / tl.sqrt_rn(square / (GATES * H) + eps))[:, None]
    hat = ()
    for g in tl.static_range(GATES):
        hat = hat + (centred[g] * rstd,)
    return hat, rstd


@triton.jit
def scaled(hat, gamma_ptr, beta_ptr, units, H: tl.constexpr, GATES: tl.constexpr):
    """gamma * hat + beta, each of them left out where there is none."""
    gates = ()
    for g in tl.static_range(GATES):
        gate = hat[g]
        if gamma_ptr is not None:
            gate *= tl.load(gamma_ptr + g * H + units, mask=units < H, other=0.0).to(tl.float32)[None, :]
        if beta_ptr is not None:
            gate += tl.load(beta_ptr + g * H + units, mask=units < H, other=0.0).to(tl.float32)[None, :]
        gates = gates + (gate,)
    return gates


@triton.jit
def normalized_back(d, hat, rstd, gamma_ptr, units, H: tl.constexpr, GATES: tl.constexpr):
    """The gradient of what was normalised from that of gamma * hat + beta, which is 0 off the mask."""
    by_hat = ()
    total = tl.zeros([d[0].shape[0]], tl.float32)
    along = total
    for g in tl.static_range(GATES):
        own = d[g]
        if gamma_ptr is not None:
            own *= tl.load(gamma_ptr + g * H + units, mask=units < H, other=0.0).to(tl.float32)[None, :]
        by_hat = by_hat + (own,)
        total += tl.sum(own, 1)
        along += tl.sum(own * hat[g], 1)
    total, along = (total / (GATES * H))[:, None], (along / (GATES * H))[:, None]
    back = ()
    for g in tl.static_range(GATES):
        back = back + (rstd * (by_hat[g] - total - hat[g] * along),)
    return back


def launch_rows(kernel, like: Tensor, *arguments: Tensor | float | None, H: int, **constants) -> None:
    """One step's kernel over all B rows of like [T,B,..]: whole rows a program."""
    tile, (T, B) = config.layer_norm(H), like.shape[:2]
    sizes = {"H": H, "BLOCK_B": tile.block_n, "BLOCK_H": tile.block_h}
    with device_guard(like):
        kernel[(triton.cdiv(B, tile.block_n),)](*arguments, T, B, num_warps=tile.num_warps, **sizes, **constants)
