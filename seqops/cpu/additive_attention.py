"""Additive attention in plain torch: tile by tile over [B,Q,T,D], a hand-derived backward."""

from __future__ import annotations

import functools
import os
import pathlib
import platform
from collections.abc import Iterator

import torch
from torch import Tensor

from ._dtypes import compute_dtype

__all__ = ["additive_attention_scores_bwd", "additive_attention_weights", "allowed_positions", "tanh_is_cheap"]

# Elements of a tile of tanh values: two of them should stay in the cores' caches between the passes over them, each of
# which costs a start of all threads. Where a tile needs no second buffer, it has twice as many.
TILE = 2**19
# By products of exponentials tanh is as exact as torch.tanh where no query or key is above NEAR, and within the
# rounding of 1 where none is above FAR, beyond which a product might overflow. That is exact enough where they are at
# least TYPICAL in the mean: as large as what it is added to, and multiplied by.
NEAR, TYPICAL, FAR = 0.5, 0.25, 20.0


def allowed_positions(mask: Tensor | None, lengths: Tensor | None, T: int) -> Tensor | None:
    """bool [B, 1 or Q, T]: where a query may look. None: everywhere."""
    if lengths is None:
        return mask
    within = torch.arange(T, device=lengths.device) < lengths[:, None, None]
    return within if mask is None else within & mask


def _blocks(tile: int, B: int, Q: int, T: int, D: int, lengths: Tensor | None) -> Iterator[tuple[slice, slice, slice]]:
    """Covers [B,Q,T], up to the items' lengths, with blocks that make a tile of at most `tile` elements, or D."""
    # To look at a GPU's lengths would make the host wait for it.
    ends = lengths.tolist() if lengths is not None and lengths.device.type == "cpu" else [T] * B
    items = max(1, tile // max(1, Q * T * D))
    for b in range(0, B, items):
        end = min(T, max(ends[b : b + items]))
        positions = max(1, min(end, tile // max(1, D)))
        queries = max(1, tile // max(1, positions * D))
        for q in range(0, Q, queries):
            for t in range(0, end, positions):
                yield slice(b, min(b + items, B)), slice(q, min(q + queries, Q)), slice(t, min(t + positions, end))


def _magnitude(tensor: Tensor) -> tuple[float, float]:
    """The greatest and the mean absolute value; NaN, which concerns none but its own pairs, counts as 0."""
    size = tensor.abs()
    largest = float(size.amax())
    if largest != largest:
        return _magnitude(tensor.masked_fill(tensor.isnan(), 0))
    return largest, float(size.mean())


@functools.cache
def tanh_is_cheap() -> bool:
    """Whether torch.tanh takes no longer than a sum: with MKL's AVX-512, which only Intel's processors get from it."""
    if not torch.backends.mkl.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    # MKL may have been told to use less than torch does.
    if not os.environ.get("MKL_ENABLE_INSTRUCTIONS", "AVX512").startswith("AVX512"):
        return False
    facts = pathlib.Path("/proc/cpuinfo")
    return "GenuineIntel" in (facts.read_text() if facts.exists() else platform.processor())


class _Sums:
    """tanh(query + key) of all pairs, a tile at a time, in one of three ways.

    By torch.tanh where that is cheap. Else tanh(x) = e / (e + 2) with e = exp(2x) - 1, which is as exact near 0, and
    needs one exponential an element. With exp(2(q + k)) = exp(2q) * exp(2k) an element needs none: e is one product and
    one sum of what is found for each query and each key by itself. Where that is not exact enough, it is not done.
    """

    def __init__(self, query: Tensor, keys: Tensor, allowed: Tensor | None, dtype: torch.dtype) -> None:
        if allowed is not None:
            # What no query looks at may be NaN, and must not decide on the way either.
            query = query.masked_fill(~allowed.any(2, keepdim=True), 0)
            keys = keys.masked_fill(~allowed.any(1)[:, :, None], 0)
        self.query, self.keys = query.to(dtype), keys.to(dtype)
        self.shift: Tensor | None = None
        # To look at values on a GPU would make the host wait.
        self.by_torch = query.device.type != "cpu" or tanh_is_cheap()
        self.tile = 2 * TILE if self.by_torch else TILE
        (B, Q, D), T = query.shape, keys.shape[1]
        size = min(max(self.tile, D), B * Q * T * D)
        self.buffers = query.new_empty(1 if self.by_torch else 2, size, dtype=dtype).unbind()
        if self.by_torch:
            return
        self.query = self.query * 2
        # With one query there are as many elements as keys.
        if query.shape[1] == 1 or 0 in (query.numel(), keys.numel()):
            return
        (largest, mean), (largest_key, mean_key) = _magnitude(query.to(dtype)), _magnitude(self.keys)
        largest, typical = max(largest, largest_key), mean + mean_key
        near = largest <= NEAR
        if near or (typical >= TYPICAL and largest <= FAR):
            query, keys = self.query, self.keys * 2
            self.query = query.exp()
            self.shift = torch.expm1(query) if near else query.new_tensor(-1.0).expand_as(query)
            self.keys = keys.expm1_() if near else keys.exp_()

    def tanh(self, b: slice, q: slice, t: slice) -> Tensor:
        """[b,q,t,D] in the first buffer."""
        query, keys = self.query[b, q].unsqueeze(2), self.keys[b, t].unsqueeze(1)
        shape = torch.broadcast_shapes(query.shape, keys.shape)
        e, *divisor = (buffer[: shape.numel()].view(shape) for buffer in self.buffers)
        if self.by_torch:
            return torch.add(query, keys, out=e).tanh_()
        if self.shift is None:
            # Beyond 40 tanh is 1 in float64 too, and e would overflow.
            torch.add(query, keys, alpha=2, out=e).clamp_(max=40).expm1_()
        else:
            torch.addcmul(self.shift[b, q][:, :, None], query, keys, out=e)
        return e.div_(torch.add(e, 2, out=divisor[0]))


def additive_attention_weights(
    query: Tensor, keys: Tensor, v: Tensor, mask: Tensor | None, lengths: Tensor | None
) -> Tensor:
    """See `seqops.ops.additive_attention`."""
    (B, Q, D), T = query.shape, keys.shape[1]
    dtype = compute_dtype(query.dtype)
    scores, v = query.new_empty(B, Q, T, dtype=dtype), v.to(dtype)
    allowed = allowed_positions(mask, lengths, T)
    sums = _Sums(query, keys, allowed, dtype)
    for b, q, t in _blocks(sums.tile, B, Q, T, D, lengths):
        tile = sums.tanh(b, q, t)
        scores[b, q, t] = torch.mv(tile.flatten(0, 2), v).view(tile.shape[:3])
    if allowed is None:
        return scores.softmax(-1).to(query.dtype)
    # A row with no allowed position comes out of softmax as NaN, and is 0 after the second fill.
    weights = scores.masked_fill_(~allowed, -torch.inf).softmax(-1)
    return weights.masked_fill_(~allowed, 0).to(query.dtype)


def additive_attention_scores_bwd(
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
    """See `seqops.ops.additive_attention`."""
    (B, Q, D), T = query.shape, keys.shape[1]
    dtype = compute_dtype(query.dtype)
    dquery = query.new_zeros(query.shape if need_query else 0, dtype=dtype)
    dkeys = query.new_zeros(keys.shape if need_keys else 0, dtype=dtype)
    dv = query.new_zeros(v.shape if need_v else 0, dtype=dtype)
    # dscore is 0 where a query may not look, but there may be NaN there, which a product with 0 would not remove.
    allowed = allowed_positions(mask, lengths, T)
    masked_tile = None if allowed is None or allowed.shape[1] == 1 else ~allowed
    sums = _Sums(query, keys, allowed, dtype)
    for b, q, t in _blocks(sums.tile, B, Q, T, D, lengths):
        tile = sums.tanh(b, q, t)
        if masked_tile is not None:
            tile.masked_fill_(masked_tile[b, q, t, None], 0)
        ds = dscore[b, q, t]
        if need_v:
            dv.addmv_(tile.flatten(0, 2).t(), ds.reshape(-1))
        if need_query or need_keys:
            # tile = ds * (1 - tile^2), in one pass
            torch.ops.aten.tanh_backward.grad_input(ds[..., None].expand_as(tile), tile, grad_input=tile)
        if need_query:
            dquery[b, q] += tile.sum(2)
        if need_keys:
            dkeys[b, t] += tile.sum(1) if tile.shape[1] > 1 else tile[:, 0]
    if need_query:
        dquery *= v
    if need_keys:
        dkeys *= v
    return dquery.to(query.dtype), dkeys.to(query.dtype), dv.to(query.dtype)
