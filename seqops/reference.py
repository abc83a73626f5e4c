"""What each op means: a few plain lines an op, differentiated by autograd. The truth in tests, never fast."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "additive_attention",
    "beam_topk",
    "bpr_loss",
    "glove_loss",
    "gru",
    "gru_cell",
    "hierarchical_softmax_loss",
    "in_batch_softmax_loss",
    "layer_norm_gru",
    "layer_norm_gru_cell",
    "layer_norm_lstm",
    "layer_norm_lstm_cell",
    "linear_cross_entropy",
    "lstm",
    "lstm_cell",
    "nce_loss",
    "negative_sampling_loss",
    "rnn",
    "rnn_cell",
    "sampled_softmax_loss",
]


def _hidden(h: Tensor, w: Tensor, b: Tensor | None, heads: int, mask: Tensor | None) -> Tensor:
    """W h + b, where W [G*H,H/heads] holds the diagonal blocks of each gate's [H,H], and mask multiplies h."""
    gates = w.shape[0] // h.shape[1] if h.shape[1] else 1
    if heads > 1:
        w = torch.cat([torch.block_diag(*gate.chunk(heads)) for gate in w.chunk(gates)])
    return F.linear(h if mask is None else h * mask, w, b)


def _kept(zoneout: Tensor | float | None, old: Tensor, new: Tensor) -> Tensor:
    if zoneout is None:
        return new
    share = zoneout.to(new.dtype) if isinstance(zoneout, Tensor) else zoneout
    return share * old + (1 - share) * new


def rnn_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
) -> Tensor:
    a = F.linear(x, w_ih, b_ih) + _hidden(h, w_hh, b_hh, heads, recurrent_mask)
    return _kept(zoneout, h, torch.tanh(a) if nonlinearity == "tanh" else torch.relu(a))


def gru_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    reset_after: bool = True,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
) -> Tensor:
    gx_r, gx_z, gx_n = F.linear(x, w_ih, b_ih).chunk(3, -1)
    w_r, w_z, w_n = w_hh.chunk(3)
    b_r, b_z, b_n = (None, None, None) if b_hh is None else b_hh.chunk(3)
    rest = (heads, recurrent_mask)
    r = torch.sigmoid(gx_r + _hidden(h, w_r, b_r, *rest))
    z = torch.sigmoid(gx_z + _hidden(h, w_z, b_z, *rest))
    n = torch.tanh(gx_n + (r * _hidden(h, w_n, b_n, *rest) if reset_after else _hidden(r * h, w_n, b_n, *rest)))
    return _kept(zoneout, h, (1 - z) * n + z * h)


def lstm_cell(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    w_hr: Tensor | None = None,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Any = None,
) -> tuple[Tensor, Tensor]:
    h, c = state
    i, f, g, o = (F.linear(x, w_ih, b_ih) + _hidden(h, w_hh, b_hh, heads, recurrent_mask)).chunk(4, -1)
    new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    new_h = torch.sigmoid(o) * torch.tanh(new_c)
    kept_h, kept_c = zoneout if isinstance(zoneout, tuple) else (zoneout, None)
    return _kept(kept_h, h, new_h if w_hr is None else F.linear(new_h, w_hr)), _kept(kept_c, c, new_c)


def _at(zoneout: Any, t: int) -> Any:
    """Of step t, where it is a tensor."""
    if isinstance(zoneout, tuple):
        return tuple(_at(z, t) for z in zoneout)
    return zoneout[t] if isinstance(zoneout, Tensor) else zoneout


def _sequence(
    cell: Callable[..., tuple[Tensor, ...]],
    zoneout: Any,
    x: Tensor,
    state: tuple[Tensor, ...],
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: tuple[Tensor, ...] | None,
    reverse: bool,
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """The states after each step, stacked over time and 0 beyond an item's length, and those after the last."""
    T, B, _ = x.shape
    fresh = tuple(torch.zeros_like(s) for s in state) if reset_state is None else reset_state
    states = [[s] * T for s in state]
    for t in reversed(range(T)) if reverse else range(T):
        active = torch.ones(B, 1, dtype=torch.bool, device=x.device) if lengths is None else (t < lengths)[:, None]
        if reset is not None:
            state = tuple(torch.where(reset[t][:, None] & active, f, s) for f, s in zip(fresh, state, strict=True))
        state = tuple(torch.where(active, n, s) for n, s in zip(cell(x[t], state, _at(zoneout, t)), state, strict=True))
        for kept, s in zip(states, state, strict=True):
            kept[t] = torch.where(active, s, 0)
    return [torch.stack(k) if T else x.new_empty(0, *s.shape) for k, s in zip(states, state, strict=True)], state


def rnn(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    (y,), (h_n,) = _sequence(
        lambda x, s, zoneout: (
            rnn_cell(
                *(x, s[0], w_ih, w_hh, b_ih, b_hh),
                nonlinearity=nonlinearity,
                heads=heads,
                recurrent_mask=recurrent_mask,
                zoneout=zoneout,
            ),
        ),
        zoneout,
        *(x, (h0,), lengths, reset, None if reset_state is None else (reset_state,), reverse),
    )
    return y, h_n


def gru(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    reset_after: bool = True,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    (y,), (h_n,) = _sequence(
        lambda x, s, zoneout: (
            gru_cell(
                *(x, s[0], w_ih, w_hh, b_ih, b_hh),
                reset_after=reset_after,
                heads=heads,
                recurrent_mask=recurrent_mask,
                zoneout=zoneout,
            ),
        ),
        zoneout,
        *(x, (h0,), lengths, reset, None if reset_state is None else (reset_state,), reverse),
    )
    return y, h_n


def lstm(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    w_hr: Tensor | None = None,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Any = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: tuple[Tensor, Tensor] | None = None,
    reverse: bool = False,
    return_cells: bool = False,
) -> tuple[Any, ...]:
    (y, cells), (h_n, c_n) = _sequence(
        lambda x, s, zoneout: lstm_cell(
            *(x, (s[0], s[1]), w_ih, w_hh, b_ih, b_hh),
            w_hr=w_hr,
            heads=heads,
            recurrent_mask=recurrent_mask,
            zoneout=zoneout,
        ),
        zoneout,
        *(x, state, lengths, reset, reset_state, reverse),
    )
    return (y, (h_n, c_n), cells) if return_cells else (y, (h_n, c_n))


def layer_norm_gru_cell(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    gamma_ih: Tensor | None = None,
    gamma_hh: Tensor | None = None,
    *,
    joint: bool = False,
    eps: float = 1e-5,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Tensor | float | None = None,
) -> Tensor:
    width, products = w_ih.shape[:1], _hidden(h, w_hh, None, heads, recurrent_mask)
    if joint:
        gx = torch.zeros_like(products)
        gh = F.layer_norm(F.linear(x, w_ih, b_ih) + products, width, gamma_hh, b_hh, eps)
    else:
        gx = F.layer_norm(F.linear(x, w_ih), width, gamma_ih, b_ih, eps)
        gh = F.layer_norm(products, width, gamma_hh, b_hh, eps)
    (gx_r, gx_z, gx_n), (gh_r, gh_z, gh_n) = gx.chunk(3, -1), gh.chunk(3, -1)
    r, z = torch.sigmoid(gx_r + gh_r), torch.sigmoid(gx_z + gh_z)
    n = torch.tanh(gx_n + r * gh_n)
    return _kept(zoneout, h, (1 - z) * n + z * h)


def layer_norm_gru(
    x: Tensor,
    h0: Tensor,
    *weights: Tensor | None,
    zoneout: Tensor | float | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    reverse: bool = False,
    **rest: Any,
) -> tuple[Tensor, Tensor]:
    (y,), (h_n,) = _sequence(
        lambda x, s, zoneout: (layer_norm_gru_cell(x, *s, *weights, zoneout=zoneout, **rest),),
        zoneout,
        x,
        (h0,),
        lengths,
        reset,
        None if reset_state is None else (reset_state,),
        reverse,
    )
    return y, h_n


def layer_norm_lstm_cell(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    gamma_ih: Tensor | None = None,
    gamma_hh: Tensor | None = None,
    gamma_c: Tensor | None = None,
    beta_c: Tensor | None = None,
    *,
    joint: bool = False,
    norm_cell: bool = True,
    eps: float = 1e-5,
    heads: int = 1,
    recurrent_mask: Tensor | None = None,
    zoneout: Any = None,
) -> tuple[Tensor, Tensor]:
    h, c = state
    width, products = w_ih.shape[:1], _hidden(h, w_hh, None, heads, recurrent_mask)
    if joint:
        a = F.layer_norm(F.linear(x, w_ih, b_ih) + products, width, gamma_hh, b_hh, eps)
    else:
        a = F.layer_norm(F.linear(x, w_ih), width, gamma_ih, b_ih, eps)
        a = a + F.layer_norm(products, width, gamma_hh, b_hh, eps)
    i, f, g, o = a.chunk(4, -1)
    new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    normed = F.layer_norm(new_c, c.shape[1:], gamma_c, beta_c, eps) if norm_cell else new_c
    kept_h, kept_c = zoneout if isinstance(zoneout, tuple) else (zoneout, None)
    return _kept(kept_h, h, torch.sigmoid(o) * torch.tanh(normed)), _kept(kept_c, c, new_c)


def layer_norm_lstm(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    *weights: Tensor | None,
    zoneout: Any = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: tuple[Tensor, Tensor] | None = None,
    reverse: bool = False,
    return_cells: bool = False,
    **rest: Any,
) -> Any:
    (y, cells), (h_n, c_n) = _sequence(
        lambda x, s, zoneout: layer_norm_lstm_cell(x, s, *weights, zoneout=zoneout, **rest),  # type: ignore[arg-type]
        zoneout,
        x,
        state,
        lengths,
        reset,
        reset_state,
        reverse,
    )
    return (y, (h_n, c_n), cells) if return_cells else (y, (h_n, c_n))


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


def beam_topk(
    logits: Tensor,
    scores: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    normalized: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    V = logits.shape[2]
    log_p = logits.to(scores.dtype)
    if not normalized:
        # torch's log_softmax of a row that is all -inf is NaN, in value and gradient.
        dead = (logits == -torch.inf).all(-1, keepdim=True)
        log_p = torch.log_softmax(log_p.masked_fill(dead, 0) / temperature, -1).masked_fill(dead, -torch.inf)
    values = scores[:, :, None] + log_p
    if mask is not None:
        values = torch.where(mask[:, None] if mask.dim() == 2 else mask, values, -torch.inf)
    best, flat = torch.sort(values.flatten(1), dim=1, descending=True, stable=True)
    return best[:, :k], flat[:, :k] // V, flat[:, :k] % V


def _is_one(ids: Tensor, padding_idx: int | None) -> Tensor:
    """Which ids are not none."""
    return (ids >= 0) & (ids != (-1 if padding_idx is None else padding_idx))


def _rows(table: Tensor, ids: Tensor, inside: Tensor) -> Tensor:
    """table[ids] in float32 at least, 0 where an id is none."""
    rows = table[torch.where(inside, ids, 0).long()]
    return torch.where(inside[..., None], rows.to(torch.promote_types(table.dtype, torch.float32)), 0)


def _pairs(
    in_weight: Tensor, center: Tensor, target: Tensor, padding_idx: int | None, mode: str
) -> tuple[Tensor, Tensor]:
    """h [B,D] of each pair's centre or bag of centres, and which pairs have both a centre and a target."""
    bags = center if center.dim() == 2 else center[:, None]
    member = _is_one(bags, padding_idx)
    h = _rows(in_weight, bags, member).sum(1)
    h = h / member.sum(1, keepdim=True).clamp(min=1) if mode == "mean" else h
    return h, member.any(1) & _is_one(target, padding_idx)


def _reduced(terms: Tensor, present: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    loss = torch.where(present, terms.sum(1), 0)
    loss = loss if weight is None else torch.where(present, loss * weight, 0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / present.sum()


def negative_sampling_loss(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    target: Tensor,
    negatives: Tensor,
    *,
    padding_idx: int | None = None,
    mode: str = "mean",
    weight: Tensor | None = None,
    positive_weight: float = 1.0,
    collision: str = "skip",
    reduction: str = "mean",
) -> Tensor:
    h, present = _pairs(in_weight, center, target, padding_idx, mode)
    target = target[:, None]
    inside = _is_one(negatives, padding_idx) & ((negatives != target) | (collision == "keep"))
    positive = (h[:, None] * _rows(out_weight, target, present[:, None])).sum(-1)
    negative = (h[:, None] * _rows(out_weight, negatives, inside)).sum(-1)
    terms = torch.where(inside, -F.logsigmoid(-negative), 0)
    return _reduced(torch.cat((-positive_weight * F.logsigmoid(positive), terms), 1), present, weight, reduction)


def _sampled(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    target: Tensor,
    negatives: Tensor,
    bias: Tensor | None,
    padding_idx: int | None,
    mode: str,
    log_q: Tensor | None,
    collision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Corrected scores [B,1+K], the target's first, which of them there are, and which pairs."""
    h, present = _pairs(in_weight, center, target, padding_idx, mode)
    negative = _is_one(negatives, padding_idx) & ((negatives != target[:, None]) | (collision == "keep"))
    inside = present[:, None] & torch.cat((present[:, None], negative), 1)
    classes = torch.cat((target[:, None], negatives), 1)
    scores = (h[:, None] * _rows(out_weight, classes, inside)).sum(-1)
    if bias is not None:
        scores = scores + _rows(bias[:, None], classes, inside)[..., 0]
    if log_q is not None:
        expected = log_q.to(scores.dtype) + math.log(max(1, negatives.shape[1]))
        scores = scores - _rows(expected[:, None], classes, inside)[..., 0]
    return scores, inside, present


def sampled_softmax_loss(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    target: Tensor,
    negatives: Tensor,
    *,
    bias: Tensor | None = None,
    padding_idx: int | None = None,
    mode: str = "mean",
    weight: Tensor | None = None,
    log_q: Tensor | None = None,
    collision: str = "keep",
    reduction: str = "mean",
) -> Tensor:
    given = (in_weight, out_weight, center, target, negatives, bias, padding_idx, mode, log_q, collision)
    scores, inside, present = _sampled(*given)
    # A pair that is left out keeps its target, at a score of 0.
    inside = torch.cat((torch.ones_like(inside[:, :1]), inside[:, 1:]), 1)
    log_p = torch.log_softmax(scores.masked_fill(~inside, -torch.inf), 1)[:, :1]
    return _reduced(-log_p, present, weight, reduction)


def nce_loss(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    target: Tensor,
    negatives: Tensor,
    *,
    bias: Tensor | None = None,
    padding_idx: int | None = None,
    mode: str = "mean",
    weight: Tensor | None = None,
    log_q: Tensor | None = None,
    collision: str = "keep",
    reduction: str = "mean",
) -> Tensor:
    given = (in_weight, out_weight, center, target, negatives, bias, padding_idx, mode, log_q, collision)
    scores, inside, present = _sampled(*given)
    signs = torch.ones_like(scores)
    signs[:, 1:] = -1
    return _reduced(torch.where(inside, -F.logsigmoid(signs * scores), 0), present, weight, reduction)


def bpr_loss(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    target: Tensor,
    negatives: Tensor,
    *,
    bias: Tensor | None = None,
    padding_idx: int | None = None,
    mode: str = "mean",
    weight: Tensor | None = None,
    collision: str = "skip",
    reduction: str = "mean",
) -> Tensor:
    given = (in_weight, out_weight, center, target, negatives, bias, padding_idx, mode, None, collision)
    scores, inside, present = _sampled(*given)
    terms = -F.logsigmoid(scores[:, :1] - scores[:, 1:])
    return _reduced(torch.where(inside[:, 1:], terms, 0), present, weight, reduction)


def in_batch_softmax_loss(
    query: Tensor,
    key: Tensor,
    *,
    log_q: Tensor | None = None,
    ids: Tensor | None = None,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    wide, B = torch.promote_types(query.dtype, torch.float32), query.shape[0]
    scores = (query @ key.t()).to(wide) / temperature
    if log_q is not None:
        scores = scores - log_q.to(wide)
    if ids is not None:
        twins = (ids[:, None] == ids).fill_diagonal_(False)
        scores = torch.where(twins, -torch.inf, scores)
    loss = -torch.log_softmax(scores, 1).diagonal()
    loss = loss if weight is None else loss * weight
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.sum() / B


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    wide, V = torch.promote_types(input.dtype, torch.float32), linear_weight.shape[0]
    present = target != ignore_index
    target = torch.where(present, target, 0).long()
    # Rows that are left out hold anything.
    logits = F.linear(torch.where(present[..., None], input, 0), linear_weight, linear_bias).to(wide)
    y = (1 - label_smoothing) * F.one_hot(target, V).to(wide) + label_smoothing / V
    weight = torch.ones(V, dtype=wide, device=target.device) if weight is None else weight.to(wide)
    loss = -torch.where(y * weight == 0, 0, y * weight * torch.log_softmax(logits, -1)).sum(-1)
    loss = torch.where(present, loss, 0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / torch.where(present, weight[target], 0).sum()


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
) -> Tensor:
    present = (i >= 0) & (j >= 0)
    i, j = torch.where(present, i, 0).long(), torch.where(present, j, 0).long()
    wide = torch.promote_types(weight.dtype, torch.float32)
    score = (weight[i].to(wide) * context_weight[j].to(wide)).sum(1) + bias[i].to(wide) + context_bias[j].to(wide)
    share = (x.to(wide) / x_max).pow(alpha).clamp(max=1)
    loss = torch.where(present, share * (score - x.to(wide).log()).square(), 0)
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.sum() / present.sum()


def hierarchical_softmax_loss(
    in_weight: Tensor,
    node_weight: Tensor,
    center: Tensor,
    target: Tensor,
    tree: Any,
    *,
    padding_idx: int | None = None,
    mode: str = "mean",
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    h, present = _pairs(in_weight, center, target, padding_idx, mode)
    target = torch.where(present, target, 0).long()
    place = tree.offsets[target][:, None] + torch.arange(tree.max_depth, device=target.device)
    inside = place < tree.offsets[target + 1][:, None]
    place = torch.where(inside, place, 0)
    scores = (h[:, None] * _rows(node_weight, tree.nodes[place], inside)).sum(-1)
    terms = torch.where(inside, -F.logsigmoid(tree.signs[place] * scores), 0)
    return _reduced(terms, present, weight, reduction)
