"""What each op means: a few plain lines an op, differentiated by autograd. The truth in tests, never fast."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["additive_attention", "beam_topk", "gru", "gru_cell"]


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


def additive_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    v: Tensor,
    *,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    T = keys.shape[1]
    allowed = torch.ones(*query.shape[:2], T, dtype=torch.bool, device=query.device)
    if lengths is not None:
        allowed = allowed & (torch.arange(T, device=query.device) < lengths[:, None, None])
    if mask is not None:
        allowed = allowed & (mask if mask.dim() == 3 else mask[:, None])
    hidden = torch.tanh(torch.where(allowed[..., None], query[:, :, None] + keys[:, None], 0))
    score = torch.where(allowed, hidden @ v, -torch.inf)
    weights = torch.where(allowed, torch.softmax(score, -1), 0)
    context = weights @ torch.where(allowed.any(1)[..., None], values, 0)
    return context, weights if need_weights else None


def beam_topk(logits: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    V = logits.shape[2]
    # torch's log_softmax of a row that is all -inf is NaN, in value and gradient.
    dead = (logits == -torch.inf).all(-1, keepdim=True)
    log_p = torch.log_softmax(logits.masked_fill(dead, 0).to(scores.dtype), -1).masked_fill(dead, -torch.inf)
    values = (scores[:, :, None] + log_p).flatten(1)
    best, flat = torch.sort(values, dim=1, descending=True, stable=True)
    return best[:, :k], flat[:, :k] // V, flat[:, :k] % V
