"""nn.GRU and nn.GRUCell against torch.nn's."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Path
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from seqops import nn

pytestmark = pytest.mark.filterwarnings("ignore:dropout option adds dropout")


def pair(*args: Any, **kwargs: Any) -> tuple[nn.GRU, torch.nn.GRU]:
    """Ours and torch's with the same parameters."""
    torch.manual_seed(0)
    theirs = torch.nn.GRU(*args, **kwargs)
    ours = nn.GRU(*args, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6)


def assert_same_grads(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for (name, p), (theirs_name, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == theirs_name
        assert p.grad is not None, name
        close(p.grad, q.grad)


def weighted_sum(*tensors: Tensor) -> Tensor:
    """A functional that tells the elements of its arguments apart."""
    return torch.stack([(t * torch.linspace(-1, 1, t.numel()).view_as(t)).sum() for t in tensors]).sum()


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (3, True), (2, False)])
@pytest.mark.parametrize("batch_first", [True, False])
def test_equals_torch(layers: int, bidirectional: bool, bias: bool, batch_first: bool) -> None:
    ours, theirs = pair(3, 5, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    assert repr(ours) == repr(theirs)
    for given_hx in (False, True):
        x, x2 = (torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
        hx = hx2 = None
        if given_hx:
            B = 4 if batch_first else 6
            hx, hx2 = (
                torch.randn(ours.num_layers * (1 + bidirectional), B, 5, generator=torch.Generator().manual_seed(2))
                for _ in "ab"
            )
            hx.requires_grad_()
            hx2.requires_grad_()
        ours.zero_grad()
        theirs.zero_grad()
        (y, h), (y2, h2) = ours(x, hx), theirs(x2, hx2)
        close(y, y2)
        close(h, h2)
        weighted_sum(y, h).backward()
        weighted_sum(y2, h2).backward()
        close(x.grad, x2.grad)
        if hx is not None:
            close(hx.grad, hx2.grad)
        assert_same_grads(ours, theirs)


def test_one_layer_on_every_path(path: Path) -> None:
    ours, theirs = pair(3, 5, bidirectional=True)
    ours.to(path.device)
    x = torch.randn(4, 2, 3)
    y, h = ours(x.to(path.device))
    y2, h2 = theirs(x)
    close(y.cpu(), y2)
    close(h.cpu(), h2)


@pytest.mark.usefixtures("cpu_path")
def test_unbatched() -> None:
    ours, theirs = pair(3, 5, 2, bidirectional=True, batch_first=True)
    x, hx = torch.randn(7, 3), torch.randn(4, 5)
    for args in ((x,), (x, hx)):
        for a, b in zip(ours(*args), theirs(*args), strict=True):
            assert a.shape == b.shape
            close(a, b)


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("given_hx", [True, False])
def test_packed(enforce_sorted: bool, given_hx: bool) -> None:
    ours, theirs = pair(3, 5, 2, bidirectional=True)
    lengths = [5, 3, 3, 1] if enforce_sorted else [3, 1, 5, 3]
    hx = torch.randn(4, 4, 5) if given_hx else None
    items = [torch.randn(n, 3) for n in lengths]
    packed = pack_sequence(items, enforce_sorted)
    (y, h), (y2, h2) = ours(packed, hx), theirs(packed, hx)
    assert isinstance(y, PackedSequence)
    close(y.data, y2.data)
    close(h, h2)
    for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        a, b = getattr(y, field), getattr(y2, field)
        assert (a is None and b is None) or torch.equal(a, b)
    weighted_sum(y.data, h).backward()
    weighted_sum(y2.data, h2).backward()
    assert_same_grads(ours, theirs)

    # lengths= says the same of a padded batch, in any order.
    padded = torch.nn.utils.rnn.pad_sequence(items, padding_value=float("nan"))
    y3, h3 = ours(padded, hx, lengths=lengths)
    close(y3, pad_packed_sequence(y2)[0])
    close(h3, h2)


@pytest.mark.usefixtures("cpu_path")
def test_padding_never_reaches_gradients() -> None:
    gru = nn.GRU(3, 4, 2, bidirectional=True)
    x = torch.randn(5, 3, 3)
    x[2:, 0] = float("nan")
    x[:, 1] = float("inf")
    x.requires_grad_()
    y, h = gru(x, lengths=torch.tensor([2, 0, 5]))
    assert y.isfinite().all()
    # A gradient at padding is one of a constant, whatever it is.
    grad_y = torch.ones_like(y)
    grad_y[2:, 0] = float("nan")
    torch.autograd.backward((y, h), (grad_y, torch.ones_like(h)))
    for p in (x, *gru.parameters()):
        assert p.grad.isfinite().all()
    assert (x.grad[2:, 0] == 0).all()
    assert (x.grad[:, 1] == 0).all()


@pytest.mark.usefixtures("cpu_path")
def test_dropout_draws_as_torch() -> None:
    ours, theirs = pair(3, 5, 3, dropout=0.5, bidirectional=True)
    x = torch.randn(4, 6, 3)
    outputs = []
    for module in (ours, theirs):
        torch.manual_seed(7)
        outputs.append(module(x)[0])
    close(*outputs)
    assert not torch.equal(outputs[0], ours(x)[0])
    ours.eval()
    theirs.eval()
    close(ours(x)[0], theirs(x)[0])
    ours(x)[0].sum().backward()  # in eval mode too


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_initialisation_and_state_dict(kind: str) -> None:
    args: tuple[Any, ...] = (3, 5, 2) if kind == "GRU" else (3, 5)
    modules = []
    for library in (nn, torch.nn):
        torch.manual_seed(3)
        modules.append(getattr(library, kind)(*args))
    ours, theirs = modules
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert repr(ours) == repr(theirs)
    other = getattr(nn, kind)(*args)
    theirs.load_state_dict(other.state_dict())
    ours.load_state_dict(theirs.state_dict(), assign=True)
    for a, b in zip(ours.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    for clone in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        x = torch.randn(4, 3) if kind == "GRUCell" else torch.randn(4, 2, 3)
        a, b = clone(x), ours(x)
        close(a[0], b[0])


@pytest.mark.usefixtures("cpu_path")
def test_weights_that_are_replaced_are_used() -> None:
    ours, theirs = pair(3, 5)
    x = torch.randn(4, 2, 3)
    for module in (ours, theirs):
        module.weight_hh_l0 = torch.nn.Parameter(torch.full((15, 5), 0.1))
    close(ours(x)[0], theirs(x)[0])
    torch.nn.utils.parametrizations.weight_norm(ours, "weight_ih_l0")
    before = ours(x)[0]
    close(before, theirs(x)[0])
    with torch.no_grad():
        ours.parametrizations.weight_ih_l0.original0.mul_(2)
    assert not torch.allclose(ours(x)[0], before)


BAD_CALLS: list[tuple[str, Callable[[torch.nn.Module], Any]]] = [
    ("1-D input", lambda m: m(torch.randn(3))),
    ("4-D input", lambda m: m(torch.randn(1, 1, 1, 3))),
    ("input size", lambda m: m(torch.randn(4, 2, 2))),
    ("dtype", lambda m: m(torch.randn(4, 2, 3, dtype=torch.float64))),
    ("2-D hx, batched", lambda m: m(torch.randn(4, 2, 3), torch.randn(1, 5))),
    ("3-D hx, unbatched", lambda m: m(torch.randn(4, 3), torch.randn(1, 1, 5))),
    ("hx batch", lambda m: m(torch.randn(4, 2, 3), torch.randn(1, 3, 5))),
    ("hx size", lambda m: m(torch.randn(4, 2, 3), torch.randn(1, 2, 4))),
    ("no steps", lambda m: m(torch.randn(0, 2, 3))),
]


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize("call", [c for _, c in BAD_CALLS], ids=[n for n, _ in BAD_CALLS])
def test_errors_are_torchs(call: Callable[[torch.nn.Module], Any]) -> None:
    errors = []
    for module in pair(3, 5):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            call(module)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((0, 5), {}),
        ((3, -1), {}),
        ((3, 5.0), {}),
        ((3, 5, 0), {}),
        ((3, 5), {"dropout": 2}),
        ((3, 5), {"dropout": True}),
        ((3, 5), {"bias": 1}),
        ((3, 5), {"proj_size": 2}),
    ],
)
def test_constructor_errors_are_torchs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    errors = []
    for library in (nn, torch.nn):
        with pytest.raises((ValueError, TypeError)) as caught:
            library.GRU(*args, **kwargs)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


def test_lengths_where_they_make_no_sense() -> None:
    gru = nn.GRU(3, 5)
    with pytest.raises(ValueError, match="PackedSequence"):
        gru(pack_padded_sequence(torch.randn(4, 2, 3), [4, 3]), lengths=[4, 3])
    with pytest.raises(ValueError, match="unbatched"):
        gru(torch.randn(4, 3), lengths=[4])


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given_hx", [True, False])
def test_cell_equals_torch(batched: bool, bias: bool, given_hx: bool) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.GRUCell(3, 5, bias)
    ours = nn.GRUCell(3, 5, bias)
    ours.load_state_dict(theirs.state_dict())
    shape = (4,) if batched else ()
    x, hx = torch.randn(*shape, 3), torch.randn(*shape, 5) if given_hx else None
    h, h2 = ours(x, hx), theirs(x, hx)
    assert h.shape == h2.shape
    close(h, h2)
    weighted_sum(h).backward()
    weighted_sum(h2).backward()
    assert_same_grads(ours, theirs)


@pytest.mark.parametrize("shapes", [((1, 1, 3), (4, 5)), ((4, 3), (1, 4, 5)), ((4, 2), (4, 5)), ((4, 3), (3, 5))])
def test_cell_rejects(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"[Ee]xpected|must have shape"):
        nn.GRUCell(3, 5)(*(torch.randn(s) for s in shapes))


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize("layers", [1, 2])
def test_compiles_whole(layers: int) -> None:
    torch._dynamo.reset()
    gru, cell = nn.GRU(3, 5, layers, bidirectional=True), nn.GRUCell(10, 4)

    def model(x: Tensor, lengths: Tensor) -> Tensor:
        y, h = gru(x, lengths=lengths)
        return cell(y[0], y.new_zeros(x.shape[1], 4)).sum() + weighted_sum(y, h)

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    parameters = [*gru.parameters(), *cell.parameters()]
    for T, B in itertools.product((4, 7), (2, 3)):
        x, lengths = torch.randn(T, B, 3), torch.randint(1, T + 1, (B,))
        expected = torch.autograd.grad(model(x, lengths), parameters)
        for a, b in zip(torch.autograd.grad(compiled(x, lengths), parameters), expected, strict=True):
            close(a, b)


@pytest.mark.usefixtures("cpu_path")
def test_autocast() -> None:
    gru = nn.GRU(3, 5, 2)
    x = torch.randn(4, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y, h = gru(x)
    assert y.dtype == h.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), gru(x)[0], rtol=0.05, atol=0.02)
    y.sum().backward()
    assert gru.weight_hh_l0.grad.dtype == torch.float32


def test_meta_device() -> None:
    gru = nn.GRU(3, 5, 2, bidirectional=True, device="meta")
    y, h = gru(torch.randn(4, 2, 3, device="meta"))
    assert y.shape == (4, 2, 10)
    assert h.shape == (4, 2, 5)
    assert y.device.type == "meta"
