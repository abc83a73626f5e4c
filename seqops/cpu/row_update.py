"""Updates of the rows of a table in plain torch: the gradients of a row are summed, then the row changes once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dtypes import compute_dtype
from .rows import row_segments

__all__ = ["apply_rows", "row_sums", "row_update_"]


def row_sums(ids: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The different ids, sorted [U], and the sum of the rows of grad [N,D] that each has [U,D], in fp32 or fp64."""
    rows, offsets, order = row_segments(ids)
    # A bag of embeddings is a segmented sum in a fixed order, on both cores.
    grad = grad.to(compute_dtype(grad.dtype))
    return rows, F.embedding_bag(order, grad, offsets.to(order.dtype), mode="sum", include_last_offset=True)


def apply_rows(
    weight: Tensor,
    rows: Tensor,
    sums: Tensor,
    mean_square: Tensor,
    D: int,
    lr: float,
    state: Tensor | None,
    clip: float | None,
    eps: float,
) -> None:
    """Changes each of the different rows [U] by its sum [U,D]; mean_square [U] is over all D columns of the table.

    A table that holds only some of the columns has a smaller sum than D says.
    """
    if state is not None:
        total = state.index_select(0, rows).add_(mean_square)
        state.index_copy_(0, rows, total)
        factor = -lr / (total.sqrt_().add_(eps))
    else:
        factor = torch.full_like(mean_square, -lr)
        if clip is not None:
            norm = (mean_square * D).sqrt_()
            factor *= clip / norm.clamp(min=clip)
    change = sums.mul_(factor[:, None])
    if weight.dtype == change.dtype:
        weight.index_add_(0, rows, change)
    else:
        weight.index_copy_(0, rows, F.embedding(rows, weight).to(change.dtype).add_(change).to(weight.dtype))


def row_update_(
    weight: Tensor, ids: Tensor, grad: Tensor, lr: float, state: Tensor | None, clip: float | None, eps: float
) -> None:
    """See `seqops.ops.row_update`."""
    if not grad.numel():
        return
    rows, sums = row_sums(ids, grad)
    mean_square = torch.linalg.vector_norm(sums, dim=1).square_().div_(sums.shape[1])
    apply_rows(weight, rows, sums, mean_square, sums.shape[1], lr, state, clip, eps)
