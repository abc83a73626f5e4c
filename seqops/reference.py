"""What each op means: a few plain lines an op, differentiated by autograd. The truth in tests, never fast."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gru", "gru_cell"]


def gru_cell(
    x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    gx = x @ w_ih.T if b_ih is None else x @ w_ih.T + b_ih
    gh = h @ w_hh.T if b_hh is None else h @ w_hh.T + b_hh
    (gx_r, gx_z, gx_n), (gh_r, gh_z, gh_n) = gx.chunk(3, -1), gh.chunk(3, -1)
    r = torch.sigmoid(gx_r + gh_r)
    z = torch.sigmoid(gx_z + gh_z)
    n = torch.tanh(gx_n + r * gh_n)
    return (1 - z) * n + z * h


def gru(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    T = x.shape[0]
    h, y = h0, [h0] * T
    for t in reversed(range(T)) if reverse else range(T):
        active = torch.ones_like(h0[:, :1], dtype=torch.bool) if lengths is None else (t < lengths)[:, None]
        h = torch.where(active, gru_cell(x[t], h, w_ih, w_hh, b_ih, b_hh), h)
        y[t] = torch.where(active, h, 0)
    return torch.stack(y) if T else x.new_empty(0, *h0.shape), h
