"""GloVe's loss: the public function, the autograd Function of its scores and their registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cpu._dtypes import compute_dtype
from ..cpu.rows import check_range
from ._autograd import once_differentiable
from ._checks import check_device, check_dtypes, check_shape
from ._register import register
from ._rows import check_ids, check_sparse, row_gradient

__all__ = ["glove_loss"]


def glove_loss(
    weight: Tensor,
    context_weight: Tensor,
    bias: Tensor,
    context_bias: Tensor,
    i: Tensor,
    j: Tensor,
    x: Tensor,
    *,
    x_max: float = 100.0,
    alpha: float = 0.75,
    reduction: str = "mean",
    sparse: bool = False,
) -> Tensor:
    """GloVe: weighted least squares of the logarithms of co-occurrence counts.

    loss[n] = min(1, (x[n] / x_max)^alpha) * (weight[i[n]] . context_weight[j[n]] + bias[i[n]] + context_bias[j[n]]
                                              - log(x[n]))^2

    Args:
        weight, context_weight: [V, D] and [U, D], fp16, bf16, fp32 or fp64; they may be one tensor. Products, losses
            and sums are fp32 for 16 bits, and a row's gradient is rounded once.
        bias, context_bias: [V] and [U], of the same dtype.
        i, j: int32 or int64 [N]; -1: the pair is left out, loss and gradient 0.
        x: [N], the counts, above 0 where a pair is not left out, in fp32, fp64 or the tables' dtype. They have no
            gradient.
        x_max, alpha: from which count on a pair counts in full, and how its weight falls below; above 0, at least 0.
        reduction: "none", "sum", or "mean" over the pairs that are not left out.
        sparse: gradients of weight and context_weight as coalesced sparse COO tensors, of the rows that occur, to count
            which the host waits for a GPU; not inside torch.compile.

    Returns:
        [N] where reduction is "none", else a scalar; fp32, or fp64 where the tables are.

    Raises:
        ValueError: a shape, a device or an option does not fit; on a CPU, an id is out of range or a count is not above
            0. On a GPU, where to look would make the host wait, such a pair is left out. TypeError: a dtype does not
            fit. RuntimeError: on a second derivative.

    Source: Pennington, Socher and Manning 2014, doi:10.3115/v1/D14-1162; their program trains with half of this loss.
    """
    op = "glove_loss"
    check_shape(op, "weight", weight, ("V", "D"))
    check_shape(op, "context_weight", context_weight, ("U", weight.shape[1]))
    check_shape(op, "bias", bias, weight.shape[:1])
    check_shape(op, "context_bias", context_bias, context_weight.shape[:1])
    check_dtypes(op, weight=weight, context_weight=context_weight, bias=bias, context_bias=context_bias)
    check_sparse(op, sparse)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{op}: reduction must be one of 'none', 'mean', 'sum', got {reduction!r}")
    if not x_max > 0 or not alpha >= 0:
        raise ValueError(f"{op}: x_max must be above 0 and alpha at least 0, got {x_max} and {alpha}")
    check_ids(op, "i", i, ("N",), "weight", weight)
    check_ids(op, "j", j, i.shape, "weight", weight)
    check_shape(op, "x", x, i.shape)
    check_device(op, "x", x, "weight", weight)
    V, U, dtype = weight.shape[0], context_weight.shape[0], compute_dtype(weight.dtype)
    if x.dtype not in (weight.dtype, torch.float32, torch.float64):
        raise TypeError(f"{op}: x must be {dtype}, got {x.dtype}")
    some_absent = [check_range(op, n, of, size, low=-1) for n, of, size in (("i", i, V), ("j", j, U))]
    on_trust = x.device.type != "cpu" or torch.compiler.is_compiling()
    count, present = x.detach().to(dtype), None
    if any(some_absent):
        present = (i >= 0) & (j >= 0)
        if on_trust:
            present = present & (i < V) & (j < U) & (x > 0)
        i, j = torch.where(present, i, -1), torch.where(present, j, -1)
        # A pair that is left out scores 0, and is compared with log(1).
        count = torch.where(present, count, 1)
    if not on_trust and not bool((count > 0).all()):
        raise ValueError(f"{op}: x must be above 0, got {count[~(count > 0)][0].item()}")
    score = glove_scores(weight, context_weight, bias, context_bias, i, j, sparse)
    share = (count / x_max).pow(alpha).clamp(max=1)
    loss = share * (score - count.log()).square()
    if reduction == "none":
        return loss
    total = loss.sum()
    return total if reduction == "sum" else total / (loss.numel() if present is None else present.sum())


class GloveScores(torch.autograd.Function):
    """Saves what it is given: each table's rows are factors of the other's gradient, and are read where they lie."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        context_weight: Tensor,
        bias: Tensor,
        context_bias: Tensor,
        i: Tensor,
        j: Tensor,
        sparse: bool,
    ) -> Tensor:
        ctx.sparse = sparse
        given = weight, context_weight, bias, context_bias, i, j
        ctx.save_for_backward(*given)
        scores: Tensor = glove_scores(*given, sparse)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, saved: Sequence[Tensor], dscores: Tensor) -> tuple[Tensor | None, ...]:
        weight, context_weight, bias, context_bias, i, j = saved
        d, one = dscores[:, None], dscores.new_ones(1, 1).expand(len(dscores), 1)
        need_weight, need_context, need_bias, need_context_bias, *_ = ctx.needs_input_grad
        return (
            row_gradient(context_weight, j, d, i[:, None], weight, ctx.sparse) if need_weight else None,
            row_gradient(weight, i, d, j[:, None], context_weight, ctx.sparse) if need_context else None,
            row_gradient(d, None, one, i[:, None], bias[:, None], False)[:, 0] if need_bias else None,
            row_gradient(d, None, one, j[:, None], context_bias[:, None], False)[:, 0] if need_context_bias else None,
            *[None] * 3,
        )


def _scores_fake(
    weight: Tensor, context_weight: Tensor, bias: Tensor, context_bias: Tensor, i: Tensor, j: Tensor, sparse: bool
) -> Tensor:
    return weight.new_empty(i.shape[0], dtype=compute_dtype(weight.dtype))


# i and j int [N], both negative where a pair is left out: it scores 0 and has no gradient. Gives the scores [N], in
# fp32 at least. Torch gathers as fast as a kernel would, on every device.
glove_scores = register(
    "glove_scores(Tensor weight, Tensor context_weight, Tensor bias, Tensor context_bias, Tensor i, Tensor j, "
    "bool sparse) -> Tensor",
    "glove_loss",
    _scores_fake,
    lambda *_: False,
    GloveScores,
)
