"""Cross entropy of a linear layer in torch: a chunk of the logits at a time becomes losses and, in place, gradients."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ._dtypes import compute_dtype

__all__ = ["by_chunks", "linear_cross_entropy_bwd", "linear_cross_entropy_fwd"]

# Held at once. More do not make the products faster on a CPU.
LOGITS = 2**23
# In 16 bits the rows' gradients of one chunk are summed in a product that gives 16 bits: few enough not to overflow.
ROWS = 4096


class SoftmaxRows(Protocol):
    def __call__(
        self,
        logits: Tensor,
        target: Tensor,
        own: Tensor,
        whole: Tensor,
        share: float,
        class_weight: Tensor | None,
        scale: Tensor | None,
        gradient: bool,
    ) -> Tensor:
        """The losses [n] of logits [n,V], which, for `gradient`, become scale[n] times their own gradients.

        loss = whole * (log of the sum of exp(logits)) - own * logits[target] - share * (sum of class_weight * logits)

        A target below 0: loss and gradients 0. class_weight None: all 1; scale None: all 1.
        """


def softmax_rows(
    logits: Tensor,
    target: Tensor,
    own: Tensor,
    whole: Tensor,
    share: float,
    class_weight: Tensor | None,
    scale: Tensor | None,
    gradient: bool,
) -> Tensor:
    """See SoftmaxRows. All logits less their row's highest: what the loss is made of is then small where it is."""
    z = logits.to(compute_dtype(logits.dtype))
    z.sub_(z.amax(1, keepdim=True))
    chosen = target.clamp(min=0)[:, None]
    loss = -own * z.gather(1, chosen)[:, 0]
    if share:
        loss -= share * (z.sum(1) if class_weight is None else z @ class_weight)
    total = z.exp_().sum(1)
    loss = torch.where(target >= 0, loss + whole * total.log(), 0)
    if not gradient:
        return loss
    own, whole = (own, whole) if scale is None else (own * scale, whole * scale)
    z.mul_((whole / total)[:, None])
    if share:
        # Of a row that is left out all factors are 0 but this one.
        shares = share * (target >= 0).to(z.dtype)[:, None]
        shares = shares if scale is None else shares * scale[:, None]
        z.sub_(shares if class_weight is None else shares * class_weight)
    z.scatter_add_(1, chosen, -own[:, None])
    if z is not logits:
        logits.copy_(z)
    return loss


def by_chunks(
    softmax: SoftmaxRows,
    at_once: int,
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
    """The losses [N] and the gradients of their sum, weighted by `scale`, through `at_once` logits at a time."""
    N, V = input.shape[0], weight.shape[0]
    dtype, gradient = compute_dtype(input.dtype), need_input or need_weight or need_bias
    kept = target >= 0
    share = label_smoothing / V
    if class_weight is None:
        whole = kept.to(dtype)
        own = whole * (1 - label_smoothing)
    else:
        class_weight = class_weight.to(dtype).contiguous()
        own = torch.where(kept, (1 - label_smoothing) * class_weight[target.clamp(min=0)], 0)
        whole = own + kept * (share * class_weight.sum())
    # NaN in what is left out: a factor of 0 would not remove it.
    scale = None if scale is None else torch.where(kept, scale.to(dtype), 0)
    input, weight, target = input.contiguous(), weight.contiguous(), target.contiguous()
    loss = input.new_empty(N, dtype=dtype)
    dinput = torch.empty_like(input) if need_input else input.new_empty(0)
    dweight = weight.new_zeros(weight.shape if need_weight else 0, dtype=dtype)
    dbias = weight.new_zeros(V if need_bias else 0, dtype=dtype)
    rows = max(1, min(N, at_once // V, ROWS if input.dtype.itemsize == 2 else N))
    memory = input.new_empty(rows, V)
    for start in range(0, N, rows):
        part = slice(start, min(start + rows, N))
        logits, x = memory[: part.stop - start], torch.where(kept[part, None], input[part], 0)
        if bias is None:
            torch.mm(x, weight.t(), out=logits)
        else:
            torch.addmm(bias, x, weight.t(), out=logits)
        loss[part] = softmax(
            logits, target[part], own[part], whole[part], share, class_weight,
            None if scale is None else scale[part], gradient,
        )  # fmt: skip
        if need_input:
            torch.mm(logits, weight, out=dinput[part])
        if need_weight and dweight.dtype == x.dtype:
            dweight.addmm_(logits.t(), x)
        elif need_weight:
            dweight += logits.t() @ x
        if need_bias:
            dbias += logits.sum(0, dtype=dtype)
    return loss, dinput, dweight, dbias


def linear_cross_entropy_bwd(
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
    """See `seqops.ops.linear_cross_entropy`. On a CPU the rows that are left out cost nothing."""
    kept = None if target.device.type != "cpu" or bool((target >= 0).all()) else (target >= 0).nonzero()[:, 0]
    x, goal = input, target
    if kept is not None:
        x, goal, scale = input[kept], target[kept], None if scale is None else scale[kept]
    loss, dinput, dweight, dbias = by_chunks(
        softmax_rows, LOGITS, scale, x, weight, bias, goal, class_weight, label_smoothing,
        need_input, need_weight, need_bias,
    )  # fmt: skip
    if kept is not None:
        loss = loss.new_zeros(input.shape[0]).index_copy_(0, kept, loss)
        dinput = dinput.new_zeros(input.shape).index_copy_(0, kept, dinput) if need_input else dinput
    return loss, dinput, dweight, dbias


def linear_cross_entropy_fwd(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    label_smoothing: float,
    summed: bool,
) -> Tensor:
    """See `seqops.ops.linear_cross_entropy`."""
    given = input, weight, bias, target, class_weight, label_smoothing
    loss = linear_cross_entropy_bwd(None, *given, False, False, False)[0]
    return loss.sum() if summed else loss
