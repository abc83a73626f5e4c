"""Additive attention: the public function, the autograd Function and the registration of its ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cpu.additive_attention import allowed_positions, tanh_is_cheap
from ._autograd import once_differentiable
from ._checks import FLOATING, PLAIN, are_plain, autocast, check_device, check_dtypes, check_lengths, check_shape
from ._register import calls_directly, register

__all__ = ["additive_attention"]

# Up to so many pairs of positions times features torch's own ops are as fast on a CPU; with one query, of which nothing
# is shared, up to as many more times, and what autograd then keeps is no larger than the keys.
SMALL, ONE_QUERY = 2**18, 2**4


def additive_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    v: Tensor,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    mask: Tensor | None = None,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Additive (Bahdanau) attention of queries over the positions of a sequence, both projected already.

    score[b,q,t] = sum_d v[d] * tanh(query[b,q,d] + keys[b,t,d])
    weights      = softmax of score over the allowed t, 0 at the others
    context      = weights @ values

    Args:
        query: [B, Q, D], fp16, bf16, fp32 or fp64, as all other floating arguments.
        keys, values: [B, T, D] and [B, T, E].
        v: [D].
        lengths: int [B] or a list, in 0..T: item b has the positions t < lengths[b]. None: all have T. Values on a GPU
            are clamped to 0..T, not checked.
        mask: bool [B, T] or [B, Q, T], True where a position takes part, as in scaled_dot_product_attention.
        need_weights: also give the weights.

    Returns:
        context [B, Q, E], and weights [B, Q, T], or None unless `need_weights`. A query with no allowed position has
        weights, context and gradients 0. What lies where no query may look, NaN too, has no effect.

    Raises:
        ValueError: a shape, a device or a length does not fit. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative, unless the problem is small and on a CPU.

    Source: Bahdanau et al. 2015, arXiv:1409.0473.
    """
    op = "additive_attention"
    plain = _are_plain(query, keys, values, v)
    if not plain:
        query, keys, values, v = autocast(op, query=query, keys=keys, values=values, v=v)  # type: ignore[assignment]
        check_dtypes(op, query=query, keys=keys, values=values, v=v)
        check_shape(op, "query", query, ("B", "Q", "D"))
        check_shape(op, "keys", keys, (query.shape[0], "T", query.shape[2]))
        check_shape(op, "values", values, (*keys.shape[:2], "E"))
        check_shape(op, "v", v, (query.shape[2],))
    B, T, _ = keys.shape
    lengths = check_lengths(op, lengths, B, T, query.device)
    mask = _check_mask(op, mask, query, T)
    allowed = allowed_positions(mask, lengths, T)
    if plain and query.itemsize >= 4 and (_is_small(query, T) or _keeps_nothing(query, keys, v)):
        weights = _composed_weights(query, keys, v, allowed)
    else:
        weights = torch.ops.seqops.additive_attention_weights(query, keys, v, mask, lengths)
    if allowed is None:
        context = torch.bmm(weights, values)
    else:
        # NaN in values that no query may see, or in the gradient of a query that may see none: a weight of 0 would not
        # remove it from the products.
        context = torch.bmm(weights, values.masked_fill(~allowed.any(1)[:, :, None], 0))
        context = context.masked_fill(~allowed.any(2, keepdim=True), 0)
    return context, weights if need_weights else None


def _are_plain(query: Tensor, keys: Tensor, values: Tensor, v: Tensor) -> bool:
    """Whether there is nothing to cast and nothing to find fault with, on the CPU, with nobody who traces: one look."""
    if type(query) not in PLAIN or type(keys) not in PLAIN or type(values) not in PLAIN or type(v) not in PLAIN:
        return False
    if not query.dim() == keys.dim() == values.dim() == 3 or not calls_directly(query):
        return False
    dtype, (B, T, D) = query.dtype, keys.shape
    return (
        dtype in FLOATING
        and query.shape == (B, query.shape[1], D)
        and are_plain(dtype, (B, T, D), keys)
        and are_plain(dtype, (B, T, values.shape[2]), values)
        and are_plain(dtype, (D,), v)
    )


def _is_small(query: Tensor, T: int) -> bool:
    return query.numel() * T <= (SMALL * ONE_QUERY if query.shape[1] == 1 else SMALL)


def _keeps_nothing(query: Tensor, keys: Tensor, v: Tensor) -> bool:
    """Whether torch's own ops are as fast and need no more memory than the keys have, which nothing holds on to."""
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (query, keys, v))
    return query.shape[1] == 1 and not needs_grad and tanh_is_cheap()


def _composed_weights(query: Tensor, keys: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    """The weights by torch's own ops: [B,Q,T,D] is built, and autograd keeps it."""
    hidden = query.unsqueeze(2) + keys.unsqueeze(1)
    if allowed is None:
        return (hidden.tanh_() @ v).softmax(-1)
    forbidden = ~allowed
    score = hidden.masked_fill_(forbidden[..., None], 0).tanh_() @ v
    # A row with no allowed position comes out of softmax as NaN, and is 0 after the second fill.
    return score.masked_fill(forbidden, -torch.inf).softmax(-1).masked_fill(forbidden, 0)


def _check_mask(op: str, mask: Tensor | None, query: Tensor, T: int) -> Tensor | None:
    """The mask as [B, 1 or Q, T]."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise TypeError(f"{op}: mask must be a Tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"{op}: mask must be bool, got {mask.dtype}")
    B, Q, _ = query.shape
    if tuple(mask.shape) not in ((B, T), (B, Q, T)):
        raise ValueError(f"{op}: mask must have shape [{B}, {T}] or [{B}, {Q}, {T}], got {list(mask.shape)}")
    check_device(op, "mask", mask, "query", query)
    return mask if mask.dim() == 3 else mask[:, None]


class AdditiveAttentionWeights(torch.autograd.Function):
    """Saves its inputs and the weights: backward finds the tanh values again."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, keys: Tensor, v: Tensor, mask: Tensor | None, lengths: Tensor | None
    ) -> Tensor:
        weights: Tensor = torch.ops.seqops.additive_attention_weights(query, keys, v, mask, lengths)
        ctx.save_for_backward(query, keys, v, mask, lengths, weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, saved: Sequence[Tensor], dweights: Tensor) -> tuple[Tensor | None, ...]:
        query, keys, v, mask, lengths, weights = saved
        need_query, need_keys, need_v, *_ = ctx.needs_input_grad
        allowed = allowed_positions(mask, lengths, keys.shape[1])
        if allowed is not None:
            # Where this query may not look there can be NaN.
            dweights = dweights.masked_fill(~allowed, 0)
        dtype = torch.promote_types(weights.dtype, torch.float32)
        weights, dweights = weights.to(dtype), dweights.to(dtype)
        dscore = weights * dweights
        dscore = torch.addcmul(dscore, weights, dscore.sum(-1, keepdim=True), value=-1)
        dquery, dkeys, dv = torch.ops.seqops.additive_attention_scores_bwd(
            dscore, query, keys, v, mask, lengths, need_query, need_keys, need_v
        )
        return dquery if need_query else None, dkeys if need_keys else None, dv if need_v else None, None, None


def _weights_fake(query: Tensor, keys: Tensor, v: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
    return query.new_empty(*query.shape[:2], keys.shape[1])


def _scores_bwd_fake(
    dscore: Tensor,
    query: Tensor,
    keys: Tensor,
    v: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    need_query: bool,
    need_keys: bool,
    need_v: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        query.new_empty(query.shape if need_query else 0),
        keys.new_empty(keys.shape if need_keys else 0),
        v.new_empty(v.shape if need_v else 0),
    )


def _kernel_takes(first: Tensor, *_: Any) -> bool:
    return first.dtype != torch.float64


# mask is bool [B, 1 or Q, T]. Gives [B,Q,T]: the softmax of the scores.
register(
    "additive_attention_weights(Tensor query, Tensor keys, Tensor v, Tensor? mask, Tensor? lengths) -> Tensor",
    "additive_attention",
    _weights_fake,
    _kernel_takes,
    AdditiveAttentionWeights,
)
# dscore [B,Q,T], fp32 for inputs of 16 bits, is 0 where a query may not look. Gives the gradients of query, keys and v;
# one that is not needed has no elements.
register(
    "additive_attention_scores_bwd(Tensor dscore, Tensor query, Tensor keys, Tensor v, Tensor? mask, Tensor? lengths, "
    "bool need_query, bool need_keys, bool need_v) -> (Tensor, Tensor, Tensor)",
    "additive_attention",
    _scores_bwd_fake,
    _kernel_takes,
)
