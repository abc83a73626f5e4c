"""Updates of a table's rows in place: the public function and the registration of its op."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..cpu._dtypes import compute_dtype
from ..cpu.rows import check_range
from ._checks import FLOATING, check_device, check_shape
from ._register import register
from ._rows import check_ids

__all__ = ["row_update_"]


def row_update_(
    weight: Tensor,
    ids: Tensor,
    grad: Tensor,
    *,
    lr: float,
    state: Tensor | None = None,
    clip: float | None = None,
    eps: float = 1e-10,
) -> Tensor:
    """Updates rows of a table in place, each once, by the sum of the gradients that it has in the batch.

    G[r]  = sum of grad[n] over the n with ids[n] = r, in fp32, in the order of n
    SGD, without `state`:        weight[r] -= lr * G[r] * min(1, clip / |G[r]|)
    row-wise Adagrad, with it:   state[r] += mean(G[r]^2);  weight[r] -= lr * G[r] / (sqrt(state[r]) + eps)

    Rows that are not in ids stay as they are. No gradient of the size of the table is made. It repeats to the bit.

    Args:
        weight: [V, D], fp16, bf16, fp32 or fp64.
        ids: int32 or int64 [N], in 0..V-1; those on a GPU are not checked.
        grad: [N, D], fp16, bf16, fp32 or fp64.
        lr: the step, above or equal to 0.
        state: [V], fp32, or fp64 where weight is: the sum of mean squares of each row, which begins at 0.
        clip: the largest norm of G[r], only without `state`.
        eps: keeps a row whose gradients were all 0 where it is.

    Returns:
        weight.

    Raises:
        ValueError: a shape, a device, an id, lr, clip or eps does not fit. TypeError: a dtype does not fit.

    Source: Duchi et al. 2011 (Adagrad); the row-wise form is FBGEMM's EXACT_ROWWISE_ADAGRAD.
    """
    op = "row_update_"
    check_shape(op, "weight", weight, ("V", "D"))
    V, D = weight.shape
    check_ids(op, "ids", ids, ("N",), "weight", weight)
    check_shape(op, "grad", grad, (len(ids), D))
    for name, tensor in (("weight", weight), ("grad", grad)):
        if tensor.dtype not in FLOATING:
            raise TypeError(f"{op}: {name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}")
    check_device(op, "grad", grad, "weight", weight)
    if state is not None:
        check_shape(op, "state", state, (V,))
        check_device(op, "state", state, "weight", weight)
        dtype = compute_dtype(weight.dtype)
        if state.dtype != dtype:
            raise TypeError(f"{op}: state must be {dtype} for a {weight.dtype} weight, got {state.dtype}")
        if clip is not None:
            raise ValueError(f"{op}: clip is for SGD, which has no state")
    for name, value in (("lr", lr), ("eps", eps), ("clip", clip)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{op}: {name} must be finite and 0 or more, got {value}")
    if clip == 0:
        raise ValueError(f"{op}: clip must be above 0, got 0")
    check_range(op, "ids", ids, V)
    torch.ops.seqops.row_update_(weight, ids, grad, lr, state, clip, eps)
    return weight


def _fake(
    weight: Tensor, ids: Tensor, grad: Tensor, lr: float, state: Tensor | None, clip: float | None, eps: float
) -> None:
    return None


def _kernel_takes(weight: Tensor, ids: Tensor, grad: Tensor, *_: object) -> bool:
    return torch.float64 not in (weight.dtype, grad.dtype) and weight.shape[1] <= 4096


register(
    "row_update_(Tensor(a!) weight, Tensor ids, Tensor grad, float lr, Tensor(b!)? state, float? clip, float eps)"
    " -> ()",
    "row_update",
    _fake,
    _kernel_takes,
)
