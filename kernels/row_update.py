"""Updates of a table's rows in Triton: each row's gradients are summed in sorted order and applied in one visit.

No sum is atomic, none is in 16 bits, each row is written once, and the host does not wait to learn how many there are.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import config
from .common import device_guard

__all__ = ["MAX_D", "row_update_"]

MAX_D = 4096  # a program holds a whole row


@triton.jit(do_not_specialize=["N", "V"])
def row_update_kernel(
    weight_ptr,
    ids_ptr,
    order_ptr,
    grad_ptr,
    state_ptr,
    lr,
    clip,
    eps,
    N,
    V,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ADAGRAD: tl.constexpr,
    CLIP: tl.constexpr,
):
    """Program n owns the row whose first place in sorted order is n, if one begins there, and walks its places.

    ids [N] ascending, order [N] the gradient's row at each place.
    """
    n = tl.program_id(0).to(tl.int64)
    row = tl.load(ids_ptr + n).to(tl.int64)
    before = tl.load(ids_ptr + n - 1, mask=n > 0, other=-1).to(tl.int64)
    if ((n == 0) | (before != row)) & (row >= 0) & (row < V):
        d = tl.arange(0, BLOCK_D)
        mask = d < D
        total = tl.zeros([BLOCK_D], tl.float32)
        place = n
        following = row
        while following == row:
            item = tl.load(order_ptr + place)
            total += tl.load(grad_ptr + item * D + d, mask=mask, other=0.0).to(tl.float32)
            place += 1
            following = tl.load(ids_ptr + place, mask=place < N, other=-1).to(tl.int64)
        square = tl.sum(total * total, 0)
        old = tl.load(weight_ptr + row * D + d, mask=mask, other=0.0).to(tl.float32)
        factor = lr
        if ADAGRAD:
            state = tl.load(state_ptr + row) + square / D
            # Every thread reads the state, and one writes it: not before all have read.
            tl.debug_barrier()
            tl.store(state_ptr + row, state)
            factor = lr / (tl.sqrt(state) + eps)
        if CLIP:
            factor = lr * tl.minimum(1.0, clip / tl.sqrt(square))
        tl.store(weight_ptr + row * D + d, (old - factor * total).to(weight_ptr.dtype.element_ty), mask=mask)


def row_update_(
    weight: Tensor, ids: Tensor, grad: Tensor, lr: float, state: Tensor | None, clip: float | None, eps: float
) -> None:
    """See `seqops.ops.row_update`."""
    (N,), (V, D) = ids.shape, weight.shape
    if N * D == 0:
        return
    ids, order = torch.sort(ids, stable=True)
    table, sums = weight.contiguous(), None if state is None else state.contiguous()
    cfg = config.ROW_UPDATE
    with device_guard(weight):
        row_update_kernel[(N,)](
            table,
            ids,
            order,
            grad.contiguous(),
            table if sums is None else sums,
            float(lr),
            float("inf") if clip is None else float(clip),
            float(eps),
            N,
            V,
            D=D,
            BLOCK_D=triton.next_power_of_2(D),
            ADAGRAD=state is not None,
            CLIP=clip is not None,
            num_warps=cfg.num_warps,
        )
    if table is not weight:
        weight.copy_(table)
    if state is not None and sums is not None and sums is not state:
        state.copy_(sums)
