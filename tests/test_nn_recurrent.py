"""nn.RNN, nn.GRU, nn.LSTM and their cells against torch.nn's."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import helpers
import pytest
import torch
from conftest import Path
from torch import Tensor
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence, pad_sequence
from torch.utils.checkpoint import checkpoint

from seqops import functional, nn, reference

pytestmark = [
    pytest.mark.filterwarnings("ignore:dropout option adds dropout"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

I, H = 3, 5


@dataclass(frozen=True)
class Kind:
    """A class of torch.nn, of the same name here, with keyword arguments of its own."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def ours(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        return getattr(nn, self.name)(I, H, *args, **self.options, **kwargs)

    def theirs(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        return getattr(torch.nn, self.name)(I, H, *args, **self.options, **kwargs)

    def pair(self, *args: Any, **kwargs: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Ours and torch's with the same parameters."""
        torch.manual_seed(0)
        theirs, ours = self.theirs(*args, **kwargs), self.ours(*args, **kwargs)
        ours.load_state_dict(theirs.state_dict())
        return ours, theirs


LAYERS = {
    "RNN": Kind("RNN"),
    "RNN relu": Kind("RNN", {"nonlinearity": "relu"}),
    "GRU": Kind("GRU"),
    "LSTM": Kind("LSTM"),
    "LSTM projected": Kind("LSTM", {"proj_size": 2}),
}
CELLS = {
    "RNNCell": Kind("RNNCell"),
    "RNNCell relu": Kind("RNNCell", {"nonlinearity": "relu"}),
    "GRUCell": Kind("GRUCell"),
    "LSTMCell": Kind("LSTMCell"),
}
every_layer = pytest.mark.parametrize("kind", LAYERS.values(), ids=LAYERS)
every_cell = pytest.mark.parametrize("kind", CELLS.values(), ids=CELLS)
every_kind = pytest.mark.parametrize("kind", (LAYERS | CELLS).values(), ids=LAYERS | CELLS)
cpu_path = pytest.mark.usefixtures("cpu_path")


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return helpers.randn(*shape, seed=seed).to(dtype)


def state_of(module: torch.nn.Module, *B: int, seed: int = 2, dtype: torch.dtype = torch.float32) -> Any:
    """A random hx; without B one for an unbatched input."""
    if isinstance(module, torch.nn.RNNCellBase):
        shapes: list[tuple[int, ...]] = [(*B, H)] * (1 + isinstance(module, (nn.LSTMCell, torch.nn.LSTMCell)))
    else:
        rows = module.num_layers * (1 + module.bidirectional)
        shapes = [(rows, *B, module.proj_size or H), (rows, *B, H)][: 1 + (module.mode == "LSTM")]
    states = tuple(randn(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes))
    return states if len(states) == 2 else states[0]


def flat(value: Any) -> list[Tensor]:
    """The tensors of an output or a state, in order."""
    if value is None:
        return []
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, Tensor) else [t for v in value for t in flat(v)]


def leaf(value: Any) -> Any:
    """The same values, whose gradients are found apart from any other."""
    if value is None:
        return None
    if isinstance(value, PackedSequence):
        return PackedSequence(leaf(value.data), *value[1:])
    return value.detach().clone().requires_grad_() if isinstance(value, Tensor) else tuple(leaf(v) for v in value)


def weighted_sum(*tensors: Tensor) -> Tensor:
    """A functional that tells the elements of its arguments apart."""
    return torch.stack([(t * torch.arange(t.numel()).cos().view_as(t)).sum() for t in tensors]).sum()


def results(
    module: torch.nn.Module,
    input: Any,
    hx: Any = None,
    reset_state: Any = None,
    call: Callable[..., Any] | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """All outputs, and all gradients of one functional of them; `call` stands for the module's own forward."""
    module.zero_grad()
    input, hx, reset_state = leaf(input), leaf(hx), leaf(reset_state)
    if reset_state is not None:
        options["reset_state"] = reset_state
    outputs = flat((module if call is None else call)(input, hx, **options))
    weighted_sum(*outputs).backward()
    leaves = {"input": input, "hx": hx, "reset_state": reset_state, **dict(module.named_parameters())}
    found = {f"output {i}": o.detach() for i, o in enumerate(outputs)}
    for name, value in leaves.items():
        for i, t in enumerate(flat(value)):
            found[f"gradient of {name} {i}"] = torch.zeros_like(t) if t.grad is None else t.grad.clone()
    return found


def close(ours: Tensor, theirs: Tensor, name: str = "") -> None:
    tight = theirs.dtype == torch.float64
    rtol, atol = (1e-9, 1e-10) if tight else (1e-4, 2e-6)
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}")


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        close(ours[name], expected, name)


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


# Zoneout, recurrent dropout and heads.

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
