"""GloVe's scores in torch."""

from __future__ import annotations

from torch import Tensor

from ._dtypes import compute_dtype
from .rows import absent_of, scores_of

__all__ = ["glove_scores"]


def glove_scores(
    weight: Tensor, context_weight: Tensor, bias: Tensor, context_bias: Tensor, i: Tensor, j: Tensor, sparse: bool
) -> Tensor:
    """See `seqops.ops.glove_loss`."""
    dtype = compute_dtype(weight.dtype)
    on_cpu = weight.device.type == "cpu"
    # To look whether there are any would make the host wait for a GPU.
    absent = absent_of(i) if on_cpu else i < 0
    if absent is not None:
        i, j = i.clamp(min=0), j.clamp(min=0)
    if not weight.shape[0] or not context_weight.shape[0]:
        # No pair can have a row.
        return weight.new_zeros(len(i), dtype=dtype)
    scores = bias.index_select(0, i).to(dtype) + context_bias.index_select(0, j).to(dtype)
    vectors = weight.index_select(0, i)
    if on_cpu:
        scores += scores_of(vectors, context_weight, j[:, None])[:, 0]
    else:
        scores += (vectors.to(dtype) * context_weight.index_select(0, j)).sum(1)
    return scores if absent is None else scores.masked_fill_(absent, 0)
