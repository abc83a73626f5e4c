"""nn.RNN, nn.GRU, nn.LSTM and their cells against torch.nn's."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Path
from recurrent_layers import (
    LAYERS,
    H,
    I,
    Kind,
    assert_same,
    close,
    cpu_path,
    every_cell,
    every_kind,
    every_layer,
    flat,
    randn,
    results,
    state_of,
    weighted_sum,
)
from torch import Tensor
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence, pad_sequence
from torch.utils.checkpoint import checkpoint

from seqops import nn, reference

pytestmark = [
    pytest.mark.filterwarnings("ignore:dropout option adds dropout"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


@cpu_path
@every_layer
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (3, True), (2, False)])
@pytest.mark.parametrize("batch_first", [True, False])
def test_equals_torch(kind: Kind, layers: int, bidirectional: bool, bias: bool, batch_first: bool) -> None:
    ours, theirs = kind.pair(layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    assert repr(ours) == repr(theirs)
    for dtype, given_hx in itertools.product((torch.float32, torch.float64), (False, True)):
        ours.to(dtype)
        theirs.to(dtype)
        x = randn(4, 6, I, seed=1, dtype=dtype)
        hx = state_of(theirs, 4 if batch_first else 6, dtype=dtype) if given_hx else None
        assert_same(results(ours, x, hx), results(theirs, x, hx))


@every_layer
def test_one_layer_on_every_path(path: Path, kind: Kind) -> None:
    ours, theirs = kind.pair(bidirectional=True)
    ours.to(path.device)
    x = torch.randn(4, 2, I)
    for a, b in zip(flat(ours(x.to(path.device))), flat(theirs(x)), strict=True):
        close(a.cpu(), b)


@cpu_path
@every_layer
@pytest.mark.parametrize("batch_first", [True, False])
def test_unbatched(kind: Kind, batch_first: bool) -> None:
    ours, theirs = kind.pair(2, bidirectional=True, batch_first=batch_first)
    x = randn(7, I, seed=1)
    for hx in (None, state_of(theirs)):
        assert_same(results(ours, x, hx), results(theirs, x, hx))


@cpu_path
@every_layer
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_packed(kind: Kind, enforce_sorted: bool, batch_first: bool) -> None:
    ours, theirs = kind.pair(2, bidirectional=True, batch_first=batch_first)
    lengths = [5, 3, 3, 1] if enforce_sorted else [3, 1, 5, 3]
    items = [torch.randn(n, I) for n in lengths]
    packed = pack_sequence(items, enforce_sorted)
    for hx in (None, state_of(theirs, 4)):
        assert_same(results(ours, packed, hx), results(theirs, packed, hx))
        y, (y2, h2) = ours(packed, hx)[0], theirs(packed, hx)
        for field_name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            a, b = getattr(y, field_name), getattr(y2, field_name)
            assert (a is None and b is None) or torch.equal(a, b)
        # lengths= says the same of a padded batch, in any order.
        padded = pad_sequence(items, batch_first, padding_value=torch.nan)
        y3, h3 = ours(padded, hx, lengths=lengths)
        for a, b in zip(flat((y3, h3)), flat((pad_packed_sequence(y2, batch_first)[0], h2)), strict=True):
            close(a, b)


@cpu_path
@every_layer
def test_padding_never_reaches_gradients(kind: Kind) -> None:
    module = kind.ours(2, bidirectional=True)
    x = torch.randn(5, 3, I)
    x[2:, 0] = torch.nan
    x[:, 1] = torch.inf
    x.requires_grad_()
    y, *states = flat(module(x, lengths=torch.tensor([2, 0, 5])))
    assert all(t.isfinite().all() for t in (y, *states))
    # A gradient at padding is one of a constant, whatever it is.
    grad_y = torch.ones_like(y)
    grad_y[2:, 0] = torch.nan
    torch.autograd.backward((y, *states), (grad_y, *(torch.ones_like(s) for s in states)))
    for p in (x, *module.parameters()):
        assert p.grad.isfinite().all()
    assert (x.grad[2:, 0] == 0).all()
    assert (x.grad[:, 1] == 0).all()


@cpu_path
@every_layer
@pytest.mark.parametrize("packed", [False, True])
def test_dropout_draws_as_torch(kind: Kind, packed: bool) -> None:
    ours, theirs = kind.pair(3, dropout=0.5, bidirectional=True, batch_first=True)
    x = torch.randn(4, 6, I)
    if packed:
        x = pack_sequence([item[:n] for item, n in zip(x, (3, 6, 1, 4), strict=True)], enforce_sorted=False)
    outputs = []
    for module in (ours, theirs):
        torch.manual_seed(7)
        outputs.append(results(module, x))
    assert_same(*outputs)
    assert not torch.equal(results(ours, x)["output 0"], outputs[0]["output 0"])
    # Differentiable in eval mode too.
    assert_same(results(ours.eval(), x), results(theirs.eval(), x))


@cpu_path
@every_kind
def test_initialisation_and_state_dict(kind: Kind) -> None:
    args: tuple[Any, ...] = () if "Cell" in kind.name else (2,)
    modules = []
    for make in (kind.ours, kind.theirs):
        torch.manual_seed(3)
        modules.append(make(*args))
    ours, theirs = modules
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert repr(ours) == repr(theirs)
    for assign in (False, True):
        other = kind.ours(*args)
        theirs.load_state_dict(other.state_dict(), assign=assign)
        ours.load_state_dict(theirs.state_dict(), assign=assign)
        for a, b in zip(ours.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
        x = torch.randn(4, I) if "Cell" in kind.name else torch.randn(4, 2, I)
        assert_same(results(ours, x), results(theirs, x))
    for library in (ours, theirs):
        with pytest.raises(RuntimeError, match="Missing key"):
            library.load_state_dict({})


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("RNN", (I, H, 2, "relu", False, True, 0.1, True)),
        ("GRU", (I, H, 2, False, True, 0.1, True)),
        ("LSTM", (I, H, 2, False, True, 0.1, True, 2)),
        ("RNNCell", (I, H, False, "relu")),
        ("GRUCell", (I, H, False)),
        ("LSTMCell", (I, H, False)),
    ],
)
def test_arguments_by_position(name: str, args: tuple[Any, ...]) -> None:
    ours, theirs = (getattr(library, name)(*args) for library in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert getattr(ours, "nonlinearity", None) == getattr(theirs, "nonlinearity", None)


@cpu_path
@every_kind
def test_copies(kind: Kind) -> None:
    module = kind.ours() if "Cell" in kind.name else kind.ours(2, bidirectional=True)
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    x = torch.randn(4, I) if "Cell" in kind.name else torch.randn(4, 2, I)
    expected = results(module, x)
    for clone in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(saved, weights_only=False),
    ):
        assert type(clone) is type(module)
        assert not {id(p) for p in clone.parameters()} & {id(p) for p in module.parameters()}
        assert_same(results(clone, x), expected)


def weight_norm(module: torch.nn.Module) -> None:
    parametrizations.weight_norm(module, "weight_ih_l0")


def weight_norm_of_old(module: torch.nn.Module) -> None:
    torch.nn.utils.weight_norm(module, "weight_hh_l1")


def pruned(module: torch.nn.Module) -> None:
    prune.l1_unstructured(module, "weight_hh_l0", 0.5)


class FixedMask(torch.nn.Module):
    """DropConnect, as if it always drew the same."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (torch.arange(weight.numel()).view_as(weight) % 3 > 0)


def drop_connect(module: torch.nn.Module) -> None:
    parametrize.register_parametrization(module, "weight_hh_l0", FixedMask())
    parametrize.register_parametrization(module, "bias_hh_l1_reverse", FixedMask())


def replaced(module: torch.nn.Module) -> None:
    module.weight_hh_l0 = torch.nn.Parameter(torch.full_like(module.weight_hh_l0, 0.1))


def deleted_and_set(module: torch.nn.Module) -> None:
    raw = module.weight_hh_l0
    del module.weight_hh_l0
    module.register_parameter("raw", torch.nn.Parameter(raw.detach()))
    module.weight_hh_l0 = module.raw * 0.5


def tied(module: torch.nn.Module) -> None:
    module.weight_hh_l1 = module.weight_hh_l0
    module.bias_ih_l0_reverse = module.bias_hh_l0


def in_float64(module: torch.nn.Module) -> None:
    module.double()
    module.float()


@cpu_path
@every_layer
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "change", [weight_norm, weight_norm_of_old, pruned, drop_connect, replaced, deleted_and_set, tied, in_float64]
)
def test_changed_weights_are_used(kind: Kind, change: Callable[[torch.nn.Module], None]) -> None:
    ours, theirs = kind.pair(2, bidirectional=True)
    x = randn(4, 2, I, seed=1)
    before = ours(x)[0]
    outputs = []
    for module in (ours, theirs):
        change(module)
        outputs.append(results(module, x))
    assert_same(*outputs)
    if change not in (weight_norm, weight_norm_of_old, in_float64):
        assert not torch.allclose(ours(x)[0], before)
    # And once more, where they change in place.
    with torch.no_grad():
        for p in (*ours.parameters(), *theirs.parameters()):
            p.mul_(1.5)
    if change is not deleted_and_set:  # there the product was taken once
        assert_same(results(ours, x), results(theirs, x))


@cpu_path
@every_layer
def test_functional_call(kind: Kind) -> None:
    """With other parameters, of another dtype too, and then again with its own."""
    ours, theirs = kind.pair(2)
    x = randn(4, 2, I, seed=1, dtype=torch.float64)
    other = {n: torch.randn_like(p, dtype=torch.float64) for n, p in ours.named_parameters()}
    for a, b in zip(*(flat(torch.func.functional_call(m, other, (x,))) for m in (ours, theirs)), strict=True):
        close(a, b)
    assert_same(results(ours, x.float()), results(theirs, x.float()))


class Counter(torch.nn.Module):
    """Leaves a weight as it is, and counts how often it is asked."""

    calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight


@cpu_path
@every_kind
def test_a_parametrization_is_evaluated_once(kind: Kind) -> None:
    """One that draws, such as DropConnect, draws once for all steps."""
    name, x = ("weight_hh", torch.randn(2, I)) if "Cell" in kind.name else ("weight_hh_l0", torch.randn(4, 2, I))
    module, counter = kind.ours(), Counter()
    parametrize.register_parametrization(module, name, counter)
    counter.calls = 0
    module(x)
    assert counter.calls == 1


@cpu_path
@every_layer
def test_what_torch_keeps_of_the_weights(kind: Kind) -> None:
    ours, theirs = kind.pair(2, bidirectional=True)

    def assert_kept() -> None:
        parameters = list(ours.parameters())
        assert [id(w) for w in ours._flat_weights] == [id(p) for p in parameters]
        assert [id(w) for weights in ours.all_weights for w in weights] == [id(p) for p in parameters]

    assert ours._flat_weights_names == theirs._flat_weights_names
    assert [len(weights) for weights in ours.all_weights] == [len(weights) for weights in theirs.all_weights]
    assert_kept()
    places = [p.data_ptr() for p in ours.parameters()]
    assert ours.flatten_parameters() is None
    assert [p.data_ptr() for p in ours.parameters()] == places
    ours.to(torch.float64)
    assert_kept()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    assert_kept()
    ours.weight_hh_l0 = torch.nn.Parameter(ours.weight_hh_l0.detach().clone())
    assert_kept()


def pair_of(module: torch.nn.Module, h: Tensor) -> Any:
    """A state of tensors h, as many as the module's state has."""
    return (h, h.clone()) if "LSTM" in type(module).__name__ else h


BAD_CALLS: dict[str, Callable[[torch.nn.Module], Any]] = {
    "1-D input": lambda m: m(torch.randn(I)),
    "4-D input": lambda m: m(torch.randn(1, 1, 1, I)),
    "input size": lambda m: m(torch.randn(4, 2, 2)),
    "dtype": lambda m: m(torch.randn(4, 2, I, dtype=torch.float64)),
    "integers": lambda m: m(torch.ones(4, 2, I, dtype=torch.int64)),
    "2-D hx, batched": lambda m: m(torch.randn(4, 2, I), pair_of(m, torch.randn(1, H))),
    "3-D hx, unbatched": lambda m: m(torch.randn(4, I), pair_of(m, torch.randn(1, 1, H))),
    "hx batch": lambda m: m(torch.randn(4, 2, I), pair_of(m, torch.randn(1, 3, H))),
    "hx size": lambda m: m(torch.randn(4, 2, I), pair_of(m, torch.randn(1, 2, 4))),
    "hx rows": lambda m: m(torch.randn(4, 2, I), pair_of(m, torch.randn(2, 2, H))),
    "hx of another kind": lambda m: m(
        torch.randn(4, 2, I), torch.randn(1, 2, H) if m.mode == "LSTM" else (torch.randn(1, 2, H),) * 2
    ),
    "no steps": lambda m: m(torch.randn(0, 2, I)),
    "no steps, unbatched": lambda m: m(torch.randn(0, I)),
    "no Tensor": lambda m: m(None),
}


def errors(modules: tuple[torch.nn.Module, torch.nn.Module], call: Callable[[torch.nn.Module], Any]) -> list[Any]:
    found = []
    for module in modules:
        with pytest.raises((ValueError, RuntimeError, TypeError, AttributeError, IndexError)) as caught:
            call(module)
        found.append((type(caught.value), str(caught.value)))
    return found


@cpu_path
@every_layer
@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS)
def test_errors_are_torchs(kind: Kind, call: Callable[[torch.nn.Module], Any]) -> None:
    ours, theirs = errors(kind.pair(), call)
    assert ours == theirs


@cpu_path
@every_layer
def test_errors_are_torchs_for_packed_sequences(kind: Kind) -> None:
    unsorted = pack_sequence([torch.randn(2, I), torch.randn(4, I)], enforce_sorted=False)
    calls = [lambda m: m(unsorted, pair_of(m, torch.randn(1, 1, H)))]
    # With an LSTM these reach torch's loops unchecked, and fail at some product.
    if kind.name != "LSTM":
        calls += [
            lambda m: m(pack_sequence([torch.randn(4, I)]), torch.randn(1, 3, H)),
            lambda m: m(pack_sequence([torch.randn(4, 2)])),
            lambda m: m(unsorted.double()),
        ]
    for call in calls:
        ours, theirs = errors(kind.pair(), call)
        assert ours == theirs


@every_kind
def test_dtypes_that_differ(kind: Kind) -> None:
    """torch's text is of some product inside; ours names the argument."""
    cell = "Cell" in kind.name
    ours, theirs = kind.pair()
    x = randn(2, I, seed=1) if cell else randn(4, 2, I, seed=1)
    with pytest.raises(RuntimeError):
        theirs(x, state_of(theirs, 2, dtype=torch.float64))
    with pytest.raises(TypeError, match="must have the dtype of x"):
        ours(x, state_of(ours, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((0, H), {}),
        ((I, -1), {}),
        ((I, 5.0), {}),
        ((3.0, H), {}),
        ((I, H, 0), {}),
        ((I, H), {"dropout": 2}),
        ((I, H), {"dropout": True}),
        ((I, H), {"bias": 1}),
        ((I, H), {"batch_first": 1}),
        ((I, H), {"proj_size": -1}),
        ((I, H), {"proj_size": H}),
        ((I, H), {"no_such_argument": 1}),
        ((I,), {}),
    ],
)
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_constructor_errors_are_torchs(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    errors = []
    for library in (nn, torch.nn):
        with pytest.raises((ValueError, TypeError)) as caught:
            getattr(library, name)(*args, **kwargs)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("args", [(I, H, 1, "gelu"), (I, H, 1, None)])
def test_nonlinearities_that_there_are_not(args: tuple[Any, ...]) -> None:
    ours, theirs = errors((nn.RNN, torch.nn.RNN), lambda cls: cls(*args))
    assert ours == theirs
    cells = (nn.RNNCell(I, H, nonlinearity=args[3]), torch.nn.RNNCell(I, H, nonlinearity=args[3]))
    ours, theirs = errors(cells, lambda m: m(torch.randn(2, I)))
    assert ours == theirs


@every_layer
def test_options_where_they_make_no_sense(kind: Kind) -> None:
    module = kind.ours()
    packed = pack_sequence([torch.randn(4, I), torch.randn(3, I)])
    reset, fresh = torch.zeros(4, 2, dtype=torch.bool), state_of(module, 2)
    for options in ({"lengths": [4, 3]}, {"reset": reset}, {"reset_state": fresh}):
        with pytest.raises(ValueError, match=f"{kind.name}: {next(iter(options))} must be None with a PackedSequence"):
            module(packed, **options)
    with pytest.raises(ValueError, match="lengths must be None with an unbatched input"):
        module(torch.randn(4, I), lengths=[4])
    with pytest.raises(ValueError, match="reset_state must be None where reset is None"):
        module(torch.randn(4, 2, I), reset_state=fresh)
    with pytest.raises(ValueError, match=r"lengths must lie in 0\.\.4, got 3\.\.5"):
        module(torch.randn(4, 2, I), lengths=[3, 5])


@cpu_path
@every_cell
@pytest.mark.parametrize("B", [(), (4,)], ids=["unbatched", ""])
@pytest.mark.parametrize("bias", [True, False])
def test_cell_equals_torch(kind: Kind, B: tuple[int, ...], bias: bool) -> None:
    ours, theirs = kind.pair(bias=bias)
    assert repr(ours) == repr(theirs)
    x = randn(*B, I, seed=1)
    for hx in (None, state_of(theirs, *B)):
        assert_same(results(ours, x, hx), results(theirs, x, hx))


@cpu_path
@every_cell
@pytest.mark.parametrize(
    "change",
    [
        lambda m: parametrizations.weight_norm(m, "weight_ih"),
        lambda m: prune.l1_unstructured(m, "weight_hh", 0.5),
        lambda m: parametrize.register_parametrization(m, "bias_hh", FixedMask()),
    ],
    ids=["weight_norm", "pruned", "parametrized bias"],
)
def test_cell_with_computed_weights_equals_torch(kind: Kind, change: Callable[[torch.nn.Module], Any]) -> None:
    ours, theirs = kind.pair()
    change(ours), change(theirs)
    x, hx = randn(4, I, seed=1), state_of(theirs, 4)
    assert_same(results(ours, x, hx), results(theirs, x, hx))


@every_cell
def test_cell_on_every_path(path: Path, kind: Kind) -> None:
    ours, theirs = kind.pair()
    x, hx = randn(4, I, seed=1), state_of(theirs, 4)
    moved = [h.to(path.device) for h in flat(hx)]
    found = ours.to(path.device)(x.to(path.device), moved if len(moved) == 2 else moved[0])
    for a, b in zip(flat(found), flat(theirs(x, hx)), strict=True):
        close(a.cpu(), b)


BAD_CELL_CALLS: dict[str, Callable[[torch.nn.Module], Any]] = {
    "0-D input": lambda m: m(torch.randn(())),
    "3-D input": lambda m: m(torch.randn(1, 4, I)),
    "3-D hx": lambda m: m(torch.randn(4, I), pair_of(m, torch.randn(1, 4, H))),
    "input size": lambda m: m(torch.randn(4, 2)),
    "input size, unbatched": lambda m: m(torch.randn(2)),
    "hx batch": lambda m: m(torch.randn(4, I), pair_of(m, torch.randn(3, H))),
    "hx size": lambda m: m(torch.randn(4, I), pair_of(m, torch.randn(4, 4))),
    "1-D hx, batched": lambda m: m(torch.randn(4, I), pair_of(m, torch.randn(H))),
    "2-D hx, unbatched": lambda m: m(torch.randn(I), pair_of(m, torch.randn(1, H))),
    "second size": lambda m: m(torch.randn(4, I), (torch.randn(4, H), torch.randn(4, 4))),
    "second batch": lambda m: m(torch.randn(4, I), (torch.randn(4, H), torch.randn(3, H))),
    "one of two": lambda m: m(torch.randn(4, I), (torch.randn(4, H),)),
    "three of two": lambda m: m(torch.randn(4, I), (torch.randn(4, H),) * 3),
}


@every_cell
@pytest.mark.parametrize("call", BAD_CELL_CALLS.values(), ids=BAD_CELL_CALLS)
def test_cell_errors_are_torchs(kind: Kind, call: Callable[[torch.nn.Module], Any]) -> None:
    ours, theirs = errors(kind.pair(), call)
    assert ours == theirs


@cpu_path
@every_layer
def test_compiles_whole(kind: Kind) -> None:
    """Once for all lengths and batch sizes."""
    torch._dynamo.reset()
    module = kind.ours(bidirectional=True)
    parameters = list(module.parameters())

    def model(x: Tensor, lengths: Tensor, reset: Tensor, fresh: Any) -> Tensor:
        return weighted_sum(*flat(module(x, lengths=lengths, reset=reset, reset_state=fresh)), *flat(module(x)))

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for T, B in ((6, 7), (9, 8)):
        fresh = state_of(module, B)
        args = (torch.randn(T, B, I), torch.randint(1, T + 1, (B,)), torch.rand(T, B) < 0.3, fresh)
        expected = torch.autograd.grad(model(*args), parameters)
        with torch._dynamo.config.patch(error_on_recompile=True):
            found = torch.autograd.grad(compiled(*args), parameters)
        for a, b in zip(found, expected, strict=True):
            close(a, b)


@cpu_path
@every_cell
def test_cell_compiles_whole(kind: Kind) -> None:
    torch._dynamo.reset()
    cell = kind.ours()
    compiled = torch.compile(cell, fullgraph=True, dynamic=True, backend="aot_eager")
    for B in (2, 3):
        x, hx = randn(B, I, seed=1), state_of(cell, B)
        assert_same(results(cell, x, hx, call=compiled), results(cell, x, hx))


@cpu_path
@every_kind
def test_autocast(kind: Kind) -> None:
    module = kind.ours()
    x = randn(2, I, seed=1) if "Cell" in kind.name else randn(4, 2, I, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = flat(module(x))
    for a, b in zip(outputs, flat(module(x)), strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.02)
    weighted_sum(*(o.float() for o in outputs)).backward()
    for p in module.parameters():
        assert p.grad.dtype == torch.float32


@cpu_path
@every_layer
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint(kind: Kind, use_reentrant: bool) -> None:
    module = kind.ours(2, bidirectional=True, dropout=0.5)
    x = randn(4, 2, I, seed=1)
    found = []

    def run(x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        # The old kind of checkpoint does not look into tuples.
        return tuple(flat(module(x, states if len(states) == 2 else states[0])))

    again = functools.partial(checkpoint, run, use_reentrant=use_reentrant)
    for call in (run, again):
        torch.manual_seed(0)
        found.append(results(module, x, state_of(module, 2), call=lambda x, hx, call=call: call(x, *flat(hx))))
    assert_same(*found)


@cpu_path
@every_kind
def test_without_gradients(kind: Kind) -> None:
    module = kind.ours()
    x = randn(2, I, seed=1) if "Cell" in kind.name else randn(4, 2, I, seed=1)
    hx = state_of(module, 2)
    expected = flat(module(x, hx))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            outputs = flat(module(x, hx))
        for a, b in zip(outputs, expected, strict=True):
            assert not a.requires_grad
            close(a, b.detach())
    # Nothing to derive: no parameter, input or state requires grad.
    assert not any(o.requires_grad for o in flat(module.requires_grad_(False)(x, hx)))


@cpu_path
@pytest.mark.parametrize("kind", [LAYERS["RNN"], LAYERS["GRU"], LAYERS["LSTM projected"]], ids=["RNN", "GRU", "LSTM"])
def test_many_steps(kind: Kind) -> None:
    """In seconds, and without a depth that grows with the steps."""
    module = kind.ours()
    x = randn(65536, 1, I, seed=1).requires_grad_()
    y, *last = flat(module(x))
    assert torch.equal(y[-1], last[0][0])
    y[-1].sum().backward()
    assert x.grad[-1].abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in module.parameters())


@every_kind
def test_meta_device(kind: Kind) -> None:
    cell = "Cell" in kind.name
    module = kind.ours(device="meta") if cell else kind.ours(2, bidirectional=True, device="meta")
    x = torch.randn(2, I) if cell else torch.randn(4, 2, I)
    options = {} if cell else {"lengths": torch.tensor([4, 2]), "reset": torch.ones(4, 2, dtype=torch.bool)}
    meta = {n: t.to("meta") for n, t in options.items()}
    shapes = [t.shape for t in flat(module(x.to("meta"), **meta))]
    module.to_empty(device="cpu")
    torch.manual_seed(3)
    module.reset_parameters()
    torch.manual_seed(3)
    fresh = kind.ours() if cell else kind.ours(2, bidirectional=True)
    found = flat(module(x, **options))
    assert [t.shape for t in found] == shapes
    for a, b in zip(found, flat(fresh(x, **options)), strict=True):
        close(a, b)


@cpu_path
@pytest.mark.parametrize("bias", [True, False])
def test_reset_gate_before_the_product(bias: bool) -> None:
    gru = nn.GRU(I, H, bias=bias, bidirectional=True, reset_after=False, dtype=torch.float64)
    cell = nn.GRUCell(I, H, bias=bias, reset_after=False, dtype=torch.float64)

    def by_reference(x: Tensor, hx: Tensor, **options: Any) -> Any:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if bias else 2]
        ways = [
            reference.gru(
                x, h, *(getattr(gru, f"{n}_l0{s}") for n in names), reset_after=False, reverse=bool(s), **options
            )
            for h, s in zip(hx, ("", "_reverse"), strict=True)
        ]
        y, h_n = zip(*ways, strict=True)
        return torch.cat(y, -1), torch.stack(h_n)

    x, hx = randn(4, 3, I, seed=1, dtype=torch.float64), state_of(gru, 3, dtype=torch.float64)
    for options in ({}, {"lengths": torch.tensor([4, 0, 2])}):
        assert_same(results(gru, x, hx, **options), results(gru, x, hx, call=by_reference, **options))
    weights = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    expected = results(cell, x[0], hx[0], call=lambda x, h: reference.gru_cell(x, h, *weights, reset_after=False))
    assert_same(results(cell, x[0], hx[0]), expected)
    assert not torch.allclose(cell(x[0], hx[0]), torch.nn.GRUCell.forward(cell, x[0], hx[0]))


def test_reset_gate_before_the_product_is_shown_and_kept() -> None:
    for cls, theirs in ((nn.GRU, torch.nn.GRU), (nn.GRUCell, torch.nn.GRUCell)):
        module = cls(I, H, bias=False, reset_after=False)
        assert repr(module) == f"{cls.__name__}(3, 5, bias=False, reset_after=False)"
        assert "reset_after" not in repr(cls(I, H))
        assert list(module.state_dict()) == list(theirs(I, H, bias=False).state_dict())
        for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert not clone.reset_after
