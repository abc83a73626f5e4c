"""In-batch softmax: the public function, one product of a batch with itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cpu._dtypes import compute_dtype
from ._checks import check_device, check_dtypes, check_shape
from ._rows import check_ids

__all__ = ["in_batch_softmax_loss"]


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
    """Softmax cross entropy of each query's own key among the keys of the batch, as two-tower retrieval learns.

    s[b,c]  = query[b] . key[c] / temperature - log_q[c]
    loss[b] = weight[b] * (log(sum_c exp(s[b,c])) - s[b,b]), over the c that are b, or of which ids[c] != ids[b]

    Args:
        query, key: [B, D], fp16, bf16, fp32 or fp64. The [B, B] scores are one product in this dtype, then fp32.
        log_q: [B], in the dtypes that weight may have: the logarithm of the probability with which each key comes into
            a batch. Frequent keys are negatives more often, which this takes back. None: all alike. It has no gradient.
        ids: int32 or int64 [B]: keys with the id of a query's own are not its negatives. None: all are.
        temperature: above 0.
        weight: [B], of a pair, in fp32, fp64 with fp64, or the dtype of query; differentiable.
        reduction: "none", "sum" or "mean" over the pairs.

    Returns:
        [B] where reduction is "none", else a scalar; fp32, or fp64 where query is.

    Raises:
        ValueError: a shape, a device or an option does not fit. TypeError: a dtype does not fit.

    Source: Yi et al. 2019, doi:10.1145/3298689.3346996.
    """
    op = "in_batch_softmax_loss"
    check_shape(op, "query", query, ("B", "D"))
    check_shape(op, "key", key, query.shape)
    check_dtypes(op, query=query, key=key)
    dtype = compute_dtype(query.dtype)
    if not temperature > 0:
        raise ValueError(f"{op}: temperature must be above 0, got {temperature}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{op}: reduction must be one of 'none', 'mean', 'sum', got {reduction!r}")
    for name, given in (("log_q", log_q), ("weight", weight)):
        if given is not None:
            check_shape(op, name, given, query.shape[:1])
            check_device(op, name, given, "query", query)
            if given.dtype not in (query.dtype, dtype):
                raise TypeError(f"{op}: {name} must be {dtype}, got {given.dtype}")
    correction = None if log_q is None else -log_q.detach().to(dtype)
    if query.dtype == dtype and not torch.is_autocast_enabled(query.device.type):
        # What is done to the queries, or within the product, needs no pass over [B, B].
        scaled = query / temperature
        scores = scaled @ key.t() if correction is None else torch.addmm(correction, scaled, key.t())
    else:
        scores = (query @ key.t()).to(dtype) / temperature
        scores = scores if correction is None else scores + correction
    if ids is not None:
        check_ids(op, "ids", ids, query.shape[:1], "query", query)
        scores = scores.masked_fill_((ids[:, None] == ids).fill_diagonal_(False), -torch.inf)
    own = torch.arange(query.shape[0], device=query.device)
    loss = F.cross_entropy(scores, own, reduction="none")
    loss = loss if weight is None else loss * weight.to(dtype)
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()
