"""The best sequence of all, by depth-first search that the beam's score bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..ops._checks import check_shape
from .beam_search import Step, check_state, device_of
from .beams import first_tokens
from .hypotheses import NEVER, BeamSearchOutput, log_softmax
from .penalties import LengthPenalty, as_length_penalty

__all__ = ["ExactSearchOutput", "exact_search"]

OP = "exact_search"


class ExactSearchOutput(NamedTuple):
    """The best sequence of each item.

    sequences [B, L], lengths [B], scores [B], log_probs [B]   as in `beam_search`
    complete [B] bool   whether the search came to its end: no sequence has a better score
    nodes [B] int64     prefixes that the model was asked about
    """

    sequences: Tensor
    lengths: Tensor
    scores: Tensor
    log_probs: Tensor
    complete: Tensor
    nodes: Tensor


class Node(NamedTuple):
    """A prefix, its log-probability, and the state in which its last token is fed."""

    tokens: tuple[int, ...]
    log_prob: float
    leaves: tuple[Any, ...]
    tree: Any


class Best(NamedTuple):
    score: float
    log_prob: float
    tokens: tuple[int, ...]


@torch.no_grad()
def exact_search(
    step: Step,
    state: Any,
    *,
    batch_size: int,
    bos: int | Tensor,
    eos: int | Sequence[int],
    max_length: int,
    found: BeamSearchOutput | None = None,
    length_penalty: float | LengthPenalty = 0.0,
    max_nodes: int = 100_000,
    width: int = 16,
    pad: int | None = None,
    device: torch.device | str | None = None,
) -> ExactSearchOutput:
    """The sequences of the highest score, and so how often a beam search has missed them.

    A prefix is followed while log_prob / max(penalty(n) for the lengths n still open) is above the best score so far:
    log-probabilities only fall. `found`, a beam search's result, gives the first best score, and most prefixes are
    never followed; (exact.scores > found.scores[:, 0]).sum() are its search errors. What betters a score by no more
    than rounding does not better it.

    Args:
        step, state, batch_size, bos, eos, max_length, length_penalty, pad, device: as in `beam_search`. What is not a
            tensor in the state may depend on the number of steps only.
        found: of the same step, max_length and length_penalty.
        max_nodes: prefixes an item, at most; where they run out `complete` is False.
        width: prefixes of an item that are tried in one call of `step`, as its beams are.

    Returns:
        ExactSearchOutput; an item for which no sequence is possible has length 0 and score -inf.

    Raises:
        ValueError: an argument, the state or what `step` returns does not fit. TypeError: a dtype does not fit.

    Source: Stahlberg and Byrne 2019, arXiv:1908.10090.
    """
    for name, value in (
        ("batch_size", batch_size),
        ("max_length", max_length),
        ("max_nodes", max_nodes),
        ("width", width),
    ):
        if value < 1:
            raise ValueError(f"{OP}: {name} must be at least 1, got {value}")
    B = batch_size
    ends = {eos} if isinstance(eos, int) else {int(e) for e in eos}
    pad = (eos if isinstance(eos, int) else int(eos[0])) if pad is None else pad
    leaves, tree = pytree.tree_flatten(state)
    check_state(OP, leaves, B)
    device = device_of(device, bos, leaves)
    first = first_tokens(OP, bos, B, device).tolist()
    penalty = as_length_penalty(OP, length_penalty)
    scales = penalty(torch.arange(1, max_length + 1, dtype=torch.float64, device="cpu")).tolist()
    # The most that a prefix of n tokens, whose whole has n + 1 or more, can still be divided by.
    widest = [max(scales[n:]) for n in range(max_length)]

    best = _begin(found, B)
    stacks = [
        [Node((), 0.0, tuple(leaf[b] if isinstance(leaf, Tensor) else leaf for leaf in leaves), tree)] for b in range(B)
    ]
    nodes, complete, dtype = [0] * B, [True] * B, torch.float32
    while any(stacks):
        # All of one length: what is no tensor in their states is the same.
        depth = max(len(stack[-1].tokens) for stack in stacks if stack)
        taken: list[list[Node]] = []
        for b, stack in enumerate(stacks):
            own: list[Node] = []
            while stack and len(stack[-1].tokens) == depth and len(own) < min(width, max_nodes - nodes[b]):
                node = stack.pop()
                if _beats(node.log_prob / widest[depth], best[b].score, dtype):
                    own.append(node)
            nodes[b] += len(own)
            taken.append(own)
        W = max(map(len, taken))
        if W:
            log_p, states = _ask(step, taken, W, first, device)
            dtype = log_p.dtype
            if not all(0 <= e < log_p.shape[2] for e in ends):
                raise ValueError(f"{OP}: eos must lie in 0..{log_p.shape[2] - 1}, got {sorted(ends)}")
            for b, own in enumerate(taken):
                for w, node in reversed(list(enumerate(own))):
                    total = node.log_prob + log_p[b, w].double()
                    best[b] = _finish(node, total, ends, scales[depth], depth + 1 == max_length, best[b], dtype)
                    if depth + 1 == max_length:
                        continue
                    total[list(ends)] = NEVER
                    order = (total / widest[depth + 1] > best[b].score).nonzero()[:, 0]
                    order = order[total[order].argsort(stable=True)]
                    leaves, tree = states(b, w)
                    stacks[b] += [
                        Node((*node.tokens, token), value, leaves, tree)
                        for token, value in zip(order.tolist(), total[order].tolist(), strict=True)
                    ]
        for b, stack in enumerate(stacks):
            if nodes[b] >= max_nodes and stack:
                left = (_beats(n.log_prob / widest[len(n.tokens)], best[b].score, dtype) for n in stack)
                complete[b] = not any(left)
                stack.clear()
    L = max(len(one.tokens) for one in best)
    return ExactSearchOutput(
        torch.tensor([[*one.tokens, *[pad] * (L - len(one.tokens))] for one in best], device=device).view(B, L).long(),
        torch.tensor([len(one.tokens) for one in best], device=device),
        torch.tensor([one.score for one in best], dtype=dtype, device=device),
        torch.tensor([one.log_prob for one in best], dtype=dtype, device=device),
        torch.tensor(complete, device=device),
        torch.tensor(nodes, device=device),
    )


def _begin(found: BeamSearchOutput | None, B: int) -> list[Best]:
    if found is None:
        return [Best(NEVER, NEVER, ())] * B
    check_shape(OP, "found's sequences", found.sequences, (B, "n_best", "L"))
    rows = zip(found.scores[:, 0].tolist(), found.log_probs[:, 0].tolist(), found.lengths[:, 0].tolist(), strict=True)
    sequences = found.sequences[:, 0].tolist()
    return [Best(s, p, tuple(sequences[b][:n])) for b, (s, p, n) in enumerate(rows)]


def _beats(score: float, best: float, dtype: torch.dtype) -> bool:
    if score == NEVER or best == NEVER:
        return score > best
    return score > best + 16 * torch.finfo(dtype).eps * max(1.0, abs(best))


def _finish(
    node: Node, total: Tensor, ends: set[int], scale: float, last: bool, best: Best, dtype: torch.dtype
) -> Best:
    """The best of what ends with this prefix's next token, or of what was the best before."""
    if last:
        value, token = (float(t) for t in total.max(0))
        candidates = [(value, int(token))]
    else:
        candidates = [(float(total[e]), e) for e in sorted(ends)]
    for value, token in candidates:
        if _beats(value / scale, best.score, dtype):
            best = Best(value / scale, value, (*node.tokens, token))
    return best


def _ask(step: Step, taken: list[list[Node]], W: int, first: list[int], device: Any) -> tuple[Tensor, Any]:
    """log-probabilities [B,W,V], and what gives the leaves and tree of the state of one prefix's continuations."""
    B = len(taken)
    some = next(node for own in taken for node in own)
    # Places without a prefix are filled with another's: what comes of them is not looked at.
    table = [[own[w] if w < len(own) else some for w in range(W)] for own in taken]
    fed = [[node.tokens[-1] if node.tokens else first[b] for node in row] for b, row in enumerate(table)]
    joined = [
        torch.stack([torch.stack([node.leaves[i] for node in row]) for row in table])
        if isinstance(leaf, Tensor)
        else leaf
        for i, leaf in enumerate(some.leaves)
    ]
    logits, state, *_ = step(torch.tensor(fed, device=device), pytree.tree_unflatten(joined, some.tree))
    check_shape(OP, "step's logits", logits, (B, W, "V"))
    log_p = log_softmax(logits).cpu()
    if bool(torch.stack([log_p[b, w].isnan().any() for b, own in enumerate(taken) for w in range(len(own))]).any()):
        raise ValueError(f"{OP}: step's logits must be numbers, got NaN")
    after, tree = pytree.tree_flatten(state)
    for leaf in after:
        if isinstance(leaf, Tensor) and leaf.shape[:2] != (B, W):
            raise ValueError(f"{OP}: step's state must have shape [{B}, {W}, ...], got {list(leaf.shape)}")
    return log_p, lambda b, w: (tuple(x[b, w] if isinstance(x, Tensor) else x for x in after), tree)
