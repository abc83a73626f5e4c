"""What the layer-normalised recurrent ops share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cpu._recurrent import HiddenWeights
from ._checks import check_shape
from ._recurrent import rows_of, without_padding

__all__ = ["check_norms", "input_side", "kernel_takes", "weight_gradient"]


def check_norms(op: str, joint: bool, eps: float, **norms: tuple[Tensor | None, int]) -> None:
    """Shapes of gammas and betas; `joint` leaves no place for gamma_ih."""
    if not eps > 0:
        raise ValueError(f"{op}: eps must be above 0, got {eps}")
    for name, (tensor, size) in norms.items():
        if tensor is not None:
            check_shape(op, name, tensor, (size,))
    if joint and norms["gamma_ih"][0] is not None:
        raise ValueError(f"{op}: gamma_ih must be None with joint")


def kernel_takes(most: int, first: Tensor, h: Tensor, *_: object) -> bool:
    """The op's first two arguments, the second [B,H]: whether a program can hold a row of all its gates."""
    return first.dtype != torch.float64 and h.shape[1] <= most


def input_side(
    x: Tensor,
    w_ih: Tensor,
    b_ih: Tensor | None,
    gamma_ih: Tensor | None,
    lengths: Tensor | None,
    joint: bool,
    eps: float,
) -> Tensor:
    """The input's share [T,B,G*H] of the gates, or with `joint` of what is normalised, differentiated by autograd."""
    with torch.autocast(x.device.type if x.device.type != "meta" else "cpu", enabled=False):
        (x,) = without_padding(lengths, x)
        if joint:
            return F.linear(x, w_ih, b_ih)
        return F.layer_norm(F.linear(x, w_ih), w_ih.shape[:1], gamma_ih, b_ih, eps)


def weight_gradient(
    d_products: Tensor, h_prev: Tensor, w_hh: Tensor, recurrent_mask: Tensor | None, heads: int
) -> Tensor:
    met = h_prev if recurrent_mask is None else h_prev * recurrent_mask
    return HiddenWeights(w_hh, heads).gradient(rows_of(d_products), rows_of(met))
