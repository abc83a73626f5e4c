"""GloVe's scores in torch."""

from __future__ import annotations

from torch import Tensor

from ._dtypes import compute_dtype

__all__ = ["glove_scores"]


def glove_scores(
    weight: Tensor, context_weight: Tensor, bias: Tensor, context_bias: Tensor, i: Tensor, j: Tensor, sparse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `seqops.ops.glove_loss`."""
    dtype = compute_dtype(weight.dtype)
    left_out = i < 0
    some = left_out.device.type != "cpu" or bool(left_out.any())
    if some:
        i, j = i.clamp(min=0), j.clamp(min=0)
    if not weight.shape[0] or not context_weight.shape[0]:
        # No pair can have a row.
        words = weight.new_zeros(len(i), weight.shape[1], dtype=dtype)
        return words.new_zeros(len(i)), words, words.clone()
    words, contexts = weight.index_select(0, i).to(dtype), context_weight.index_select(0, j).to(dtype)
    scores = bias.index_select(0, i).to(dtype) + context_bias.index_select(0, j).to(dtype)
    scores += (words * contexts).sum(1)
    return scores.masked_fill_(left_out, 0) if some else scores, words, contexts
