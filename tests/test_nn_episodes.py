"""Recurrent layers over sequences that begin anew inside, are cut short, or show all their cells."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from recurrent_layers import (
    LAYERS,
    H,
    I,
    Kind,
    assert_same,
    close,
    cpu_path,
    every_layer,
    flat,
    leaf,
    randn,
    results,
    state_of,
    weighted_sum,
)
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_sequence

pytestmark = [
    pytest.mark.filterwarnings("ignore:dropout option adds dropout"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


def in_segments(module: torch.nn.Module, x: Tensor, hx: Any, reset: Tensor, reset_state: Any, lengths: Any) -> Any:
    """What `reset` means: each item's episodes run one by one through torch's own module, time first."""
    T, B, _ = x.shape
    zero = tuple(torch.zeros_like(s) for s in flat(state_of(module, B, dtype=x.dtype)))
    hx, fresh = (zero if s is None else tuple(flat(s)) for s in (hx, reset_state))
    directions = 1 + module.bidirectional
    ways = torch.arange(module.num_layers * directions) % directions
    outputs, lasts = [], []
    for b in range(B):
        end = T if lengths is None else int(lengths[b])
        starts = sorted({0, *reset[:end, b].nonzero().flatten().tolist()}) if end else []
        y, last = [], [h[:, b] for h in hx]
        for i, (start, stop) in enumerate(zip(starts, [*starts[1:], end], strict=False)):
            # Forwards the given state is that of the first episode, if no reset precedes it; backwards, of the last.
            given = torch.where(ways == 0, start == 0 and not reset[0, b], i == len(starts) - 1)
            state = [torch.where(given[:, None], h[:, b], f[:, b]) for h, f in zip(hx, fresh, strict=True)]
            out, new = module(x[start:stop, b], tuple(state) if len(state) == 2 else state[0])
            y.append(out)
            # Forwards the last state is that of the last episode; backwards, of the first.
            last = [
                n if i == 0 else torch.where(ways[:, None] == 0, n, s) for n, s in zip(flat(new), last, strict=True)
            ]
        padding = x.new_zeros(T - end, directions * (module.proj_size or H))
        outputs.append(torch.cat([*y, padding]))
        lasts.append(last)
    return torch.stack(outputs, 1), [torch.stack(states, 1) for states in zip(*lasts, strict=True)]


def resets(where: str, T: int, B: int) -> Tensor:
    reset = torch.full((T, B), where == "everywhere")
    if where == "here and there":
        reset[2, 0] = reset[0, 1] = reset[1, 1] = reset[4, 1] = reset[3, 2] = reset[5, 2] = True
    elif where == "at the start":
        reset[0] = True
    return reset


@cpu_path
@every_layer
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, True)])
@pytest.mark.parametrize("where", ["here and there", "at the start", "everywhere", "nowhere"])
def test_reset_equals_separate_episodes(kind: Kind, layers: int, bidirectional: bool, where: str) -> None:
    """Values and gradients; with lengths too, beyond which a reset is none."""
    ours, theirs = kind.pair(layers, bidirectional=bidirectional, dtype=torch.float64)
    T, B = 6, 3
    x, reset = randn(T, B, I, seed=1, dtype=torch.float64), resets(where, T, B)
    hx, fresh = (state_of(theirs, B, seed=seed, dtype=torch.float64) for seed in (2, 4))
    for lengths, states in itertools.product((None, [6, 4, 3], [0, 2, 5]), ((None, None), (hx, fresh))):
        found = results(ours, x, *states, reset=reset, lengths=lengths)
        expected = results(
            theirs,
            x,
            *states,
            call=lambda x, hx, reset, lengths, reset_state=None: in_segments(
                theirs, x, hx, reset, reset_state, lengths
            ),
            reset=reset,
            lengths=lengths,
        )
        assert_same(found, expected)


def by_torchs_cell(module: torch.nn.Module, x: Tensor, hx: Any, reset: Tensor, reset_state: Any) -> Any:
    """The loop that `reset` stands for, over torch's cell with the weights of a module's first layer."""
    cls = getattr(torch.nn, ("RNN" if module.mode.startswith("RNN") else module.mode) + "Cell")
    options = {"nonlinearity": module.nonlinearity} if cls is torch.nn.RNNCell else {}
    cell = cls(I, H, **options, dtype=x.dtype)
    weights = {n: getattr(module, f"{n}_l0") for n, _ in cell.named_parameters()}
    state, fresh = ([s[0] for s in flat(states)] for states in (hx, reset_state))
    states = []
    for t in range(x.shape[0]):
        state = [torch.where(reset[t][:, None], f, s) for f, s in zip(fresh, state, strict=True)]
        given = tuple(state) if len(state) == 2 else state[0]
        state = flat(torch.func.functional_call(cell, weights, (x[t], given)))
        states.append(state)
    y, *cells = (torch.stack(s) for s in zip(*states, strict=True))
    return y, [s[None] for s in state], [c[None] for c in cells]


@cpu_path
@pytest.mark.parametrize("name", ["RNN", "RNN relu", "GRU", "LSTM"])
def test_reset_equals_a_loop_over_torchs_cell(name: str) -> None:
    """And with it `return_cells`."""
    ours = LAYERS[name].ours(dtype=torch.float64)
    x, reset = randn(6, 3, I, seed=1, dtype=torch.float64), resets("here and there", 6, 3)
    hx, fresh = (state_of(ours, 3, seed=seed, dtype=torch.float64) for seed in (2, 4))
    options = {"return_cells": True} if name == "LSTM" else {}
    found = results(ours, x, hx, fresh, reset=reset, **options)
    assert_same(found, results(ours, x, hx, fresh, call=functools.partial(by_torchs_cell, ours), reset=reset))


@cpu_path
@every_layer
def test_reset_in_other_layouts(kind: Kind) -> None:
    time_first = kind.ours(2, bidirectional=True)
    batch_first = kind.ours(2, bidirectional=True, batch_first=True)
    batch_first.load_state_dict(time_first.state_dict())
    x, reset = randn(6, 3, I, seed=1), resets("here and there", 6, 3)
    hx, fresh = (state_of(time_first, 3, seed=seed) for seed in (2, 4))
    expected = flat(time_first(x, hx, reset=reset, reset_state=fresh))
    y, *last = flat(batch_first(x.transpose(0, 1), hx, reset=reset.t(), reset_state=fresh))
    for a, b in zip((y.transpose(0, 1), *last), expected, strict=True):
        close(a, b)

    def item(states: Any, b: int) -> Any:
        one = tuple(s[:, b] for s in flat(states))
        return one if len(one) == 2 else one[0]

    for b, module in itertools.product(range(3), (time_first, batch_first)):
        found = module(x[:, b], item(hx, b), reset=reset[:, b], reset_state=item(fresh, b))
        for a, e in zip(flat(found), expected, strict=True):
            close(a, e[:, b])


@cpu_path
@every_layer
@pytest.mark.parametrize(
    ("dirty", "bidirectional"),
    [(slice(0, 3), False), (slice(0, 3), True), (slice(3, 6), True)],
    ids=["before", "before, bidirectional", "after, bidirectional"],
)
def test_nan_does_not_pass_a_reset(kind: Kind, dirty: slice, bidirectional: bool) -> None:
    """In values, and in the gradients of what lies on the other side; that of the weights is of both."""
    module = kind.ours(2, bidirectional=bidirectional)
    clean, reset = randn(6, 2, I, seed=1), torch.zeros(6, 2, dtype=torch.bool)
    reset[3] = True
    x = clean.clone()
    x[dirty, 0] = torch.nan
    hx, fresh = (state_of(module, 2, seed=seed) for seed in (2, 4))
    other = slice(3, 6) if dirty.start == 0 else slice(0, 3)
    # What the other episode begins with: reset_state in one direction, hx in the opposite one.
    by_fresh, by_hx = (
        (slice(0, None, 2), slice(1, None, 2)) if dirty.start == 0 else (slice(1, None, 2), slice(0, None, 2))
    )
    if not bidirectional:
        by_fresh, by_hx = slice(None), slice(0)
    found = []
    for given in (leaf(x), leaf(clean)):
        h, f = leaf(hx), leaf(fresh)
        y = module(given, h, reset=reset, reset_state=f)[0][other]
        weighted_sum(y).backward()
        states = [*(t.grad[by_hx] for t in flat(h)), *(t.grad[by_fresh] for t in flat(f))]
        found.append((y.detach(), given.grad[other], *states))
    assert all(t.isfinite().all() for t in found[1])
    for a, b in zip(*found, strict=True):
        close(a, b)


@cpu_path
@every_layer
def test_nan_in_a_state_that_is_replaced(kind: Kind) -> None:
    """Has no effect at all, on no gradient."""
    module = kind.ours()
    x, reset = randn(4, 2, I, seed=1), resets("at the start", 4, 2)
    clean = state_of(module, 2)
    dirty = tuple(torch.full_like(h, torch.nan) for h in flat(clean))
    found = results(module, x, dirty if len(dirty) == 2 else dirty[0], reset=reset)
    assert_same(found, results(module, x, clean, reset=reset))
    for i in range(len(dirty)):
        assert (found[f"gradient of hx {i}"] == 0).all()


@every_layer
def test_bad_resets(kind: Kind) -> None:
    name = kind.name
    for batch_first, shape in ((False, r"\[4, 2\]"), (True, r"\[2, 4\]")):
        module = kind.ours(bidirectional=True, batch_first=batch_first)
        x = torch.randn(2, 4, I) if batch_first else torch.randn(4, 2, I)
        good, fresh = torch.zeros(x.shape[:2], dtype=torch.bool), flat(state_of(module, 2))
        given = tuple(fresh) if len(fresh) == 2 else fresh[0]
        with pytest.raises(ValueError, match=rf"{name}: reset must have shape {shape}, got"):
            module(x, reset=good.t())
        with pytest.raises(ValueError, match=rf"{name}: reset must have shape {shape}, got \[8\]"):
            module(x, reset=good.flatten())
        for dtype in (torch.int64, torch.float32, torch.uint8):
            with pytest.raises(TypeError, match=f"{name}: reset must be bool, got {dtype}"):
                module(x, reset=good.to(dtype), lengths=[4, 3])
        with pytest.raises(TypeError, match=f"{name}: reset must be a Tensor, got list"):
            module(x, reset=good.tolist())
        with pytest.raises(ValueError, match=rf"{name}: reset_state must have shape \[2, 2, \d\], got \[2, 1, \d\]"):
            module(x, reset=good, reset_state=[f[:, :1] for f in fresh] if len(fresh) == 2 else fresh[0][:, :1])
        if len(fresh) == 2:
            with pytest.raises(TypeError, match="LSTM: reset_state must be a pair"):
                module(x, reset=good, reset_state=fresh[:1])
        item = x[0] if batch_first else x[:, 0]
        with pytest.raises(ValueError, match=r"reset must have shape \[4\], got \[4, 1\]"):
            module(item, reset=torch.zeros(4, 1, dtype=torch.bool))
        with pytest.raises(ValueError, match=rf"{name}: reset_state must have shape \[2, \d\], got \[2, 2, \d\]"):
            module(item, reset=torch.zeros(4, dtype=torch.bool), reset_state=given)


@cpu_path
@pytest.mark.parametrize("kind", [LAYERS["LSTM"], LAYERS["LSTM projected"]], ids=["LSTM", "LSTM projected"])
def test_return_cells(kind: Kind) -> None:
    """The last of each item's cells is its c_n, in every layout; beyond its length they are 0."""
    lengths = torch.tensor([6, 2, 4])
    items = [randn(int(n), I, seed=i) for i, n in enumerate(lengths)]
    modules = [kind.ours(2, bidirectional=True, batch_first=batch_first) for batch_first in (False, True)]
    modules[1].load_state_dict(modules[0].state_dict())
    for module in modules:
        _, (_, c_n), cells = module(pad_sequence(items, module.batch_first), lengths=lengths, return_cells=True)
        assert cells.shape == (4, 3, 6, H) if module.batch_first else (4, 6, 3, H)
        _, (_, c_packed), from_packed = module(pack_sequence(items, enforce_sorted=False), return_cells=True)
        close(from_packed, cells)
        close(c_packed, c_n)
        cells = cells.transpose(1, 2) if module.batch_first else cells
        for b, n in enumerate(lengths.tolist()):
            close(cells[::2, n - 1, b], c_n[::2, b])
            close(cells[1::2, 0, b], c_n[1::2, b])
            assert (cells[:, n:, b] == 0).all()
            _, _, alone = module(items[b], return_cells=True)
            assert alone.shape == (4, n, H)
            close(alone, cells[:, :n, b])
    # What else the call gives does not depend on it.
    x = randn(4, 2, I, seed=1)
    with_cells, without = modules[0](x, return_cells=True), modules[0](x)
    for a, b in zip(flat(with_cells[:2]), flat(without), strict=True):
        close(a, b)


@cpu_path
@every_layer
def test_truncated_backpropagation(kind: Kind) -> None:
    """A long sequence in chunks: the same values, and no gradient across a chunk's border."""
    module = kind.ours(2)
    x = randn(12, 2, I, seed=1).requires_grad_()
    state, outputs, hx = state_of(module, 2), [], None
    expected = module(x, state)
    hx = state
    for start in range(0, 12, 4):
        y, hx = module(x[start : start + 4], hx)
        outputs.append(y)
        (grad,) = torch.autograd.grad(weighted_sum(y, *flat(hx)), x, retain_graph=True)
        assert (grad[:start] == 0).all()
        assert (grad[start : start + 4] != 0).any(-1).all()
        hx = hx.detach() if isinstance(hx, Tensor) else tuple(h.detach() for h in hx)
    for a, b in zip(flat((torch.cat(outputs), hx)), flat(expected), strict=True):
        close(a, b)
