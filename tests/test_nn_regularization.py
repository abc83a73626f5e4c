"""Recurrent layers and cells with zoneout, recurrent dropout and heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recurrent_layers import (
    I,
    cpu_path,
    flat,
    randn,
    weighted_sum,
)
from torch import Tensor

from seqops import functional, nn

pytestmark = [
    pytest.mark.filterwarnings("ignore:dropout option adds dropout"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


P_ZONEOUT, P_DROPOUT = 0.3, 0.4


def regularized(name: str, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    zoneout = (P_ZONEOUT, 0.1) if name == "LSTM" else P_ZONEOUT
    return getattr(nn, name)(I, 6, num_heads=2, zoneout=zoneout, recurrent_dropout=P_DROPOUT, **options)


def by_the_ops(module: torch.nn.Module, x: Tensor, hx: Any, reset: Tensor, masks: list[Tensor], kept: list[Any]) -> Any:
    """One bidirectional layer, with the draws given."""
    op = getattr(functional, module.mode.split("_")[0].lower())
    ys = []
    for d, suffix in enumerate(("", "_reverse")):
        weights = [getattr(module, f"{n}_l0{suffix}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        state = tuple(s[d] for s in hx) if isinstance(hx, tuple) else hx[d]
        r = torch.cat((reset[1:], torch.zeros_like(reset[:1]))) if d else reset
        draws = {"heads": 2, "recurrent_mask": masks[d], "zoneout": kept[d]}
        ys.append(op(x, state, *weights, reset=r, reverse=bool(d), **draws)[0])
    return torch.cat(ys, -1)


@cpu_path
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("training", [True, False])
def test_regularized_layers(name: str, training: bool) -> None:
    """The draws are the generator's, one mask of W_hh's input for all steps; out of training expectations."""
    module = regularized(name, bidirectional=True).train(training)
    T, B, states = 5, 4, 2 if name == "LSTM" else 1
    x, reset = randn(T, B, I, seed=1), randn(T, B, seed=2) > 1
    hx = tuple(randn(2, B, 6, seed=3 + i) for i in range(states))
    hx = hx if states == 2 else hx[0]
    rates = (P_ZONEOUT, 0.1)[:states]
    generator = torch.Generator().manual_seed(7)
    masks, kept = [], []
    for _ in range(2):
        if training:
            drawn = tuple(torch.empty(T, B, 6).bernoulli_(p, generator=generator) for p in rates)
            masks.append(torch.empty(B, 6).bernoulli_(1 - P_DROPOUT, generator=generator) / (1 - P_DROPOUT))
        else:
            drawn = rates
            masks.append(None)
        kept.append(drawn if states == 2 else drawn[0])
    y, _ = module(x, hx, reset=reset, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(y, by_the_ops(module, x, hx, reset, masks, kept))
    again, _ = module(x, hx, reset=reset, generator=torch.Generator().manual_seed(7))
    other, _ = module(x, hx, reset=reset, generator=torch.Generator().manual_seed(8))
    assert torch.equal(again, y)
    assert torch.equal(other, y) == (not training)


@cpu_path
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_regularized_layers_in_all_layouts(name: str) -> None:
    """Batch first, packed, unbatched, several layers with dropout between them, all from one generator."""
    module = regularized(name, num_layers=3, dropout=0.5, batch_first=True, bidirectional=True)

    def run(x: Any) -> Any:
        return flat(module(x, generator=torch.Generator().manual_seed(3))[0])[0]

    lengths = [5, 3]
    x = randn(2, 5, I, seed=1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    y = run(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(run(x), y)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True)
    assert run(packed).shape == (8, 12)
    assert torch.equal(run(packed), run(packed))
    assert run(x[0]).shape == (5, 12)
    weighted_sum(y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    module.eval()
    torch.testing.assert_close(run(x)[:1], run(x[:1]))


@cpu_path
@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
def test_regularized_cells(name: str) -> None:
    """A loop over the cell is the layer out of training, and draws zoneout in training."""
    torch.manual_seed(0)
    zoneout = (0.3, 0.1) if name == "LSTMCell" else 0.3
    cell = getattr(nn, name)(I, 6, num_heads=3, zoneout=zoneout).eval()
    layer = getattr(nn, name[:-4])(I, 6, num_heads=3, zoneout=zoneout).eval()
    layer.load_state_dict({f"{k}_l0": v for k, v in cell.state_dict().items()})
    x, state = randn(4, 2, I, seed=1), None
    outputs = []
    for x_t in x:
        state = cell(x_t, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    torch.testing.assert_close(torch.stack(outputs), layer(x)[0])
    cell.train()
    draws = torch.Generator().manual_seed(1)
    old = torch.empty(2, 6).bernoulli_(0.3, generator=draws)
    hx = tuple(randn(2, 6, seed=i) for i in range(2)) if name == "LSTMCell" else randn(2, 6, seed=1)
    mask = (randn(2, 6, seed=4) > 0) * 2.0
    h = flat(cell(x[0], hx, recurrent_mask=mask, generator=torch.Generator().manual_seed(1)))[0]
    assert torch.equal(h[old == 1], flat(hx)[0][old == 1])
    assert (h[old == 0] != flat(hx)[0][old == 0]).all()
    assert cell(x[0][0]).shape == (6,) if name != "LSTMCell" else cell(x[0][0])[0].shape == (6,)


@cpu_path
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"])
def test_heads_are_the_blocks_of_the_matrix(name: str) -> None:
    torch.manual_seed(0)
    ours, theirs = getattr(nn, name)(I, 6, num_heads=2), getattr(torch.nn, name)(I, 6)
    weights = ours.state_dict()
    key = next(k for k in weights if k.startswith("weight_hh"))
    blocks = weights[key].view(-1, 2, 3, 3)
    weights[key] = torch.stack([torch.block_diag(*b) for b in blocks]).flatten(0, 1)
    theirs.load_state_dict(weights)
    x = randn(*(() if "Cell" in name else (4,)), 2, I, seed=1)
    torch.testing.assert_close(flat(ours(x)), flat(theirs(x)))
    assert "num_heads=2" in repr(ours)
    assert "num_heads" not in repr(getattr(nn, name)(I, 6))


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"])
def test_bad_regularization(name: str) -> None:
    cls = getattr(nn, name)
    for options in (
        {"num_heads": 0},
        {"num_heads": 4},
        {"num_heads": 2.0},
        {"zoneout": -0.1},
        {"zoneout": 1.5},
        {"zoneout": float("nan")},
        {"zoneout": (0.1, 0.1, 0.1)},
        {"zoneout": True},
        *([] if "Cell" in name else [{"recurrent_dropout": 2}, {"recurrent_dropout": None}]),
        *([{"zoneout": (0.1, 2)}] if "LSTM" in name else [{"zoneout": (0.1, 0.1)}]),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: {next(iter(options))} must"):
            cls(I, 6, **options)
    if name == "LSTM":
        with pytest.raises(ValueError, match=r"^LSTM: num_heads must be 1 with proj_size"):
            cls(I, 6, proj_size=2, num_heads=2)


@cpu_path
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_regularized_layers_compile_whole(name: str) -> None:
    module = regularized(name)
    x = randn(4, 2, I, seed=1)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert compiled(x)[0].shape == (4, 2, 6)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])
    module.eval()
    torch.testing.assert_close(compiled(x)[0], module(x)[0])


def test_all_of_the_recurrent_input_dropped() -> None:
    """At a rate of 1 nothing of the state meets W_hh, and nothing is divided by zero."""
    module = nn.RNN(I, 4, recurrent_dropout=1.0)
    x = randn(3, 2, I, seed=1)
    expected = torch.tanh(x @ module.weight_ih_l0.t() + module.bias_ih_l0 + module.bias_hh_l0)
    torch.testing.assert_close(module(x)[0], expected)
