"""Hierarchical softmax: the public function, the autograd Function and the registration of its op."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..cpu._dtypes import compute_dtype
from ._checks import check_device, check_dtypes, check_shape
from ._logistic import logistic_backward, pairs, reduce
from ._register import register
from ._rows import kernel_takes

if TYPE_CHECKING:
    from ..embeddings.huffman import HuffmanTree

__all__ = ["hierarchical_softmax_loss"]


def hierarchical_softmax_loss(
    in_weight: Tensor,
    node_weight: Tensor,
    center: Tensor,
    target: Tensor,
    tree: HuffmanTree,
    *,
    padding_idx: int | None = None,
    mode: str = "mean",
    weight: Tensor | None = None,
    reduction: str = "mean",
    sparse: bool = False,
) -> Tensor:
    """Hierarchical softmax: -log p(target), a product of the branches on the target's path in a binary tree.

    h[b]    = in_weight[center[b]], or the mean or sum of in_weight over a bag of centres
    loss[b] = weight[b] * sum over the path's nodes n, with sign +1 or -1, of softplus(-sign * h[b] . node_weight[n])

    Args:
        in_weight, node_weight: [U, D], and [V - 1, D] for the V classes of the tree; fp16, bf16, fp32 or fp64.
        center: int32 or int64 [B], or bags [B, W]; -1 stands for none, as in target: a pair without centre or target is
            left out: loss and gradient 0.
        target: int [B], classes.
        tree: a `seqops.embeddings.HuffmanTree` on the tables' device.
        padding_idx: an id that is none, in center and target.
        mode: "mean" or "sum", of a bag.
        weight: [B], of a pair, in fp32, fp64 or the tables' dtype; differentiable.
        reduction: "none", "sum", or "mean" over the pairs that are not left out.
        sparse: gradients as coalesced sparse COO tensors, of the rows that occur, to count which the host waits for a
            GPU; not inside torch.compile.

    Returns:
        [B] where reduction is "none", else a scalar; fp32, or fp64 where the tables are. Gradients repeat to the bit.

    Raises:
        ValueError: a shape, a device or an option does not fit; on a CPU, an id is out of range. On a GPU, where to
            look would make the host wait, what is out of range is left out. TypeError: a dtype does not fit.
        RuntimeError: on a second derivative.

    Source: Morin and Bengio 2005; Mikolov et al. 2013, arXiv:1301.3781.
    """
    from ..embeddings.huffman import HuffmanTree

    op = "hierarchical_softmax_loss"
    p = pairs(op, in_weight, center, target, weight, padding_idx, mode, reduction, sparse)
    if not isinstance(tree, HuffmanTree):
        raise TypeError(f"{op}: tree must be a HuffmanTree, got {type(tree).__name__}")
    check_shape(op, "node_weight", node_weight, (tree.num_classes - 1, in_weight.shape[1]))
    check_dtypes(op, in_weight=in_weight, node_weight=node_weight)
    check_device(op, "tree", tree.nodes, "in_weight", in_weight)
    loss, _, _ = hierarchical_softmax_fwd(
        p.source, p.index, node_weight, p.target, tree.nodes, tree.signs, tree.offsets, tree.max_depth, sparse
    )
    return reduce(loss, p.present, weight, reduction)


class HierarchicalSoftmaxLoss(torch.autograd.Function):
    """Saves the tables, and of each pair the nodes and the slopes of the loss in their scores."""

    @staticmethod
    def forward(
        ctx: Any, source: Tensor, index: Tensor | None, weight: Tensor, target: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss, slopes, rows = hierarchical_softmax_fwd(source, index, weight, target, *rest)
        ctx.sparse = rest[-1]
        ctx.mark_non_differentiable(slopes, rows)
        ctx.save_for_backward(source, index, weight, slopes, rows)
        return loss, slopes, rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dsource, dweight = logistic_backward(ctx, *grads)
        return dsource, None, dweight, *(None,) * 6


def _fwd_fake(
    source: Tensor,
    index: Tensor | None,
    weight: Tensor,
    target: Tensor,
    nodes: Tensor,
    signs: Tensor,
    offsets: Tensor,
    depth: int,
    sparse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    B, dtype = target.shape[0], compute_dtype(weight.dtype)
    slopes = weight.new_empty(B, depth, dtype=dtype)
    return weight.new_empty(B, dtype=dtype), slopes, slopes.new_empty(B, depth, dtype=torch.int32)


# target [B], -1: the pair is left out; the paths as in HuffmanTree. Gives loss [B], and slopes and rows [B,depth] as
# negative_sampling_fwd does, the rows being nodes.
hierarchical_softmax_fwd = register(
    "hierarchical_softmax_fwd(Tensor source, Tensor? index, Tensor weight, Tensor target, Tensor nodes, Tensor signs, "
    "Tensor offsets, int depth, bool sparse) -> (Tensor, Tensor slopes, Tensor rows)",
    "logistic",
    _fwd_fake,
    kernel_takes,
    HierarchicalSoftmaxLoss,
)
