"""Cross entropy of a linear layer: the public function, the autograd Function and the registration of its ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cpu._dtypes import compute_dtype
from ..cpu.rows import check_range
from ._autograd import once_differentiable
from ._checks import autocast, check_device, check_dtypes, check_shape
from ._register import register
from ._rows import check_ids

__all__ = ["linear_cross_entropy"]


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Softmax cross entropy of a linear layer's outputs, without ever holding its logits, [N, V].

    logits  = input @ linear_weight^T + linear_bias
    loss[n] = -sum_v y[n,v] * weight[v] * log_softmax(logits[n])[v]
    y[n,v]  = (1 - label_smoothing) * (v == target[n]) + label_smoothing / V

    The logits are made some rows at a time, and their gradients in their place. Reduced losses do both in the forward,
    and keep the gradients of inputs and weights for the backward; "none" makes the logits again there.

    Args:
        input: [..., D], fp16, bf16, fp32 or fp64; logits are in this dtype, all else in fp32 at least.
        linear_weight: [V, D], of the same dtype, V at least 1.
        target: int32 or int64 [...], classes.
        linear_bias: [V] or None, of the same dtype.
        weight: [V] or None, of a class, in fp32, fp64 with fp64, or the dtype of input. It has no gradient.
        reduction: "none", "sum", or "mean", which divides the sum by that of weight[target], over what is not ignored.
        ignore_index: where it is the target, loss and gradients are 0, whatever the input. None: -100.
        label_smoothing: in 0..1.

    Returns:
        [...] where reduction is "none", else a scalar; fp32, or fp64 where input is. The mean of nothing is NaN, and
        has gradients of 0, as torch's.

    Raises:
        ValueError: a shape, a device or an option does not fit; on a CPU, a target is out of range. On a GPU, where to
            look would make the host wait, such a row is ignored. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative.

    Source: torch.nn.functional.linear_cross_entropy of torch 2.13, but for K-dimensional losses, and targets that are
    probabilities; the gradients in the forward: Hsu et al. 2024, arXiv:2410.10989.
    """
    op = "linear_cross_entropy"
    input, linear_weight, linear_bias = autocast(  # type: ignore[assignment]
        op, input=input, linear_weight=linear_weight, linear_bias=linear_bias
    )
    check_shape(op, "linear_weight", linear_weight, ("V", "D"))
    V, D = linear_weight.shape
    if V < 1:
        raise ValueError(f"{op}: linear_weight must have a class at least, got shape {list(linear_weight.shape)}")
    if input.dim() < 1 or input.shape[-1] != D:
        raise ValueError(f"{op}: input must have shape [..., {D}], got {list(input.shape)}")
    if linear_bias is not None:
        check_shape(op, "linear_bias", linear_bias, (V,))
    check_dtypes(op, input=input, linear_weight=linear_weight, linear_bias=linear_bias)
    check_ids(op, "target", target, input.shape[:-1], "input", input)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{op}: reduction must be one of 'none', 'mean', 'sum', got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{op}: label_smoothing must lie in 0..1, got {label_smoothing}")
    dtype = compute_dtype(input.dtype)
    if weight is not None:
        check_shape(op, "weight", weight, (V,))
        check_device(op, "weight", weight, "input", input)
        if weight.dtype not in (input.dtype, dtype):
            raise TypeError(f"{op}: weight must be {dtype}, got {weight.dtype}")
        weight = weight.detach()
    shape, target = target.shape, target.flatten().long()
    ignored = target == (-100 if ignore_index is None else ignore_index)
    check_range(op, "target", torch.where(ignored, 0, target), V)
    target = torch.where(ignored | (target < 0) | (target >= V), -1, target)
    loss: Tensor = torch.ops.seqops.linear_cross_entropy_fwd(
        input.flatten(0, -2) if input.dim() > 1 else input[None],
        linear_weight,
        linear_bias,
        target,
        weight,
        label_smoothing,
        reduction != "none",
    )
    if reduction != "mean":
        return loss.view(shape) if reduction == "none" else loss
    kept = target >= 0
    if weight is None:
        count = kept.sum().to(dtype)
    else:
        count = torch.where(kept, weight[target.clamp(min=0)], 0).sum(dtype=dtype)
    # Through 0 / 0 the gradients would be NaN too.
    return torch.where(count == 0, torch.nan, loss / torch.where(count == 0, 1, count))


class LinearCrossEntropy(torch.autograd.Function):
    """Saves the gradients of a sum, but its inputs where each loss has its own incoming gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        class_weight: Tensor | None,
        label_smoothing: float,
        summed: bool,
    ) -> Tensor:
        ctx.summed, ctx.label_smoothing, ctx.dtype = summed, label_smoothing, input.dtype
        given = input, weight, bias, target, class_weight, label_smoothing
        if not summed:
            ctx.save_for_backward(input, weight, bias, target, class_weight)
            rows: Tensor = torch.ops.seqops.linear_cross_entropy_fwd(*given, False)
            return rows
        loss, *gradients = torch.ops.seqops.linear_cross_entropy_bwd(None, *given, *ctx.needs_input_grad[:3])
        # The inputs so that a second derivative in them raises.
        ctx.save_for_backward(*gradients, input, weight, bias)
        total: Tensor = loss.sum()
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, saved: Sequence[Tensor], dloss: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:3]
        if ctx.summed:
            # In fp32 at least: a scale in 16 bits would be off by the same for all.
            gradients = [g.to(dloss.dtype) * dloss for g in saved[:3]]
        else:
            gradients = torch.ops.seqops.linear_cross_entropy_bwd(dloss, *saved, ctx.label_smoothing, *needs)[1:]
        return *(g.to(ctx.dtype) if need else None for g, need in zip(gradients, needs, strict=True)), *[None] * 4


def _fwd_fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    label_smoothing: float,
    summed: bool,
) -> Tensor:
    return input.new_empty(() if summed else input.shape[0], dtype=compute_dtype(input.dtype))


def _bwd_fake(
    scale: Tensor | None,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    label_smoothing: float,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = compute_dtype(input.dtype)
    return (
        input.new_empty(input.shape[0], dtype=dtype),
        input.new_empty(input.shape if need_input else 0),
        weight.new_empty(weight.shape if need_weight else 0, dtype=dtype),
        weight.new_empty(weight.shape[0] if need_bias else 0, dtype=dtype),
    )


def _kernel_takes(first: Tensor | None, second: Tensor, *_: Any) -> bool:
    return second.dtype != torch.float64


# target int64 [N], -1: left out. Gives the losses [N], or their sum.
register(
    "linear_cross_entropy_fwd(Tensor input, Tensor weight, Tensor? bias, Tensor target, Tensor? class_weight, "
    "float label_smoothing, bool summed) -> Tensor",
    "linear_cross_entropy",
    _fwd_fake,
    _kernel_takes,
    LinearCrossEntropy,
)
# Gives the losses [N] and the gradients of the sum of scale * loss, scale None: 1; that of input in its dtype, those of
# weight and bias in fp32 at least. One that is not needed has no elements.
register(
    "linear_cross_entropy_bwd(Tensor? scale, Tensor input, Tensor weight, Tensor? bias, Tensor target, "
    "Tensor? class_weight, float label_smoothing, bool need_input, bool need_weight, bool need_bias) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    "linear_cross_entropy",
    _bwd_fake,
    _kernel_takes,
)
