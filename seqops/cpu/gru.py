"""GRU over a sequence in plain torch: products for all steps outside the time loop, a hand-derived backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gru_sequence_bwd", "gru_sequence_fwd"]


def _active(lengths: Tensor, T: int) -> Tensor:
    """bool [T,B,1]: which steps lie within their item."""
    return (torch.arange(T, device=lengths.device)[:, None] < lengths)[:, :, None]


def gru_sequence_fwd(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """See `seqops.ops.gru`."""
    T, B, _ = x.shape
    H = h0.shape[1]
    gx = F.linear(x, w_ih, b_ih)
    gx_rz, gx_n = gx[..., : 2 * H].unbind(0), gx[..., 2 * H :].unbind(0)
    y = gx.new_empty(T, B, H)
    y_t = y.unbind(0)
    active = None if lengths is None else _active(lengths, T)
    w = w_hh.t()
    h = h0
    for t in range(T - 1, -1, -1) if reverse else range(T):
        gh = torch.mm(h, w) if b_hh is None else torch.addmm(b_hh, h, w)
        r, z = torch.add(gx_rz[t], gh[:, : 2 * H]).sigmoid_().chunk(2, 1)
        n = torch.addcmul(gx_n[t], r, gh[:, 2 * H :]).tanh_()
        torch.lerp(n, h, z, out=y_t[t])
        h = y_t[t] if active is None else torch.where(active[t], y_t[t], h)
    if active is not None:
        y.masked_fill_(~active, 0)
    return y, h.clone()


def gru_sequence_bwd(
    grad_y: Tensor,
    grad_h_n: Tensor,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    h_prev: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.gru`.

    Every gradient of step t is linear in dh_t, with factors that do not depend on later steps: they are found for all
    steps at once, and the loop is left with a product, a scaling and a matrix product a step.
    """
    T, B, H = h_prev.shape
    dgx = F.linear(x, w_ih, b_ih)
    dgh = F.linear(h_prev, w_hh, b_hh).view(T, B, 3, H)
    gh_n = dgh[:, :, 2].clone()
    r, z = dgx[..., : 2 * H].add_(dgh[:, :, :2].flatten(2)).sigmoid_().chunk(2, -1)
    n = dgx[..., 2 * H :].addcmul_(r, gh_n).tanh_()
    by_n = (1 - z) * (1 - n * n)
    torch.mul(by_n, r, out=dgh[:, :, 2])
    torch.mul(gh_n * (1 - r), dgh[:, :, 2], out=dgh[:, :, 0])
    torch.mul((h_prev - n) * z, 1 - z, out=dgh[:, :, 1])
    if lengths is not None:
        ended = ~_active(lengths, T)
        by_n.masked_fill_(ended, 0)
        dgh.masked_fill_(ended[..., None], 0)
        z = z.masked_fill(ended, 1)

    dh_all = torch.empty_like(h_prev)
    dh_t, dgh_t, z_t, grad_t = dh_all.unbind(0), dgh.unbind(0), z.unbind(0), grad_y.unbind(0)
    passed = grad_h_n
    for t in range(T) if reverse else range(T - 1, -1, -1):
        dh = torch.add(passed, grad_t[t], out=dh_t[t])
        dgh_t[t].mul_(dh[:, None])
        passed = torch.addmm(dh * z_t[t], dgh_t[t].flatten(1), w_hh)
    dgh = dgh.flatten(2)
    dgx[..., : 2 * H] = dgh[..., : 2 * H]
    torch.mul(by_n, dh_all, out=dgx[..., 2 * H :])
    return dgx, dgh, passed.clone() if T == 0 else passed
