"""seqops.convert: whole models' recurrent modules become seqops', and stay the objects that they are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrizations, parametrize

import seqops

pytestmark = pytest.mark.usefixtures("cpu_path")

I, H = 3, 5
CLASSES = ["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"]


def first(output: Any) -> Tensor:
    """The first tensor of a layer's or a cell's output."""
    return output if isinstance(output, Tensor) else first(output[0])


class Tagger(torch.nn.Module):
    """A model as people write them: modules in a list, in a dict, by name, and beside others."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, I)
        self.encoder = torch.nn.LSTM(I, H, 2, bidirectional=True, dropout=0.5)
        self.layers = torch.nn.ModuleList([torch.nn.GRU(2 * H, H), torch.nn.RNN(H, H, nonlinearity="relu")])
        self.cells = torch.nn.ModuleDict({"gru": torch.nn.GRUCell(H, H), "lstm": torch.nn.LSTMCell(H, H)})
        self.head = torch.nn.Sequential(torch.nn.Linear(H, H), torch.nn.RNNCell(H, 2, nonlinearity="relu"))

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.encoder(self.embedding(tokens))
        for layer in self.layers:
            x, _ = layer(x)
        h, _ = self.cells["lstm"](self.cells["gru"](x[-1]))
        return self.head(h)


LINES = [
    "encoder: torch.nn.modules.rnn.LSTM -> seqops.nn.LSTM",
    "layers.0: torch.nn.modules.rnn.GRU -> seqops.nn.GRU",
    "layers.1: torch.nn.modules.rnn.RNN -> seqops.nn.RNN",
    "cells.gru: torch.nn.modules.rnn.GRUCell -> seqops.nn.GRUCell",
    "cells.lstm: torch.nn.modules.rnn.LSTMCell -> seqops.nn.LSTMCell",
    "head.1: torch.nn.modules.rnn.RNNCell -> seqops.nn.RNNCell",
]


@pytest.fixture
def model() -> Tagger:
    torch.manual_seed(0)
    return Tagger()


def output_and_gradients(model: torch.nn.Module) -> list[Tensor]:
    tokens = torch.arange(12).remainder(7).view(4, 3)
    model.zero_grad()
    torch.manual_seed(1)
    output = model(tokens)
    output.sum().backward()
    return [output.detach(), *(p.grad.clone() for p in model.parameters())]


def test_a_whole_model(model: Tagger) -> None:
    """Values and gradients, with dropout; the parameters, the state_dict and the order of modules."""
    before = output_and_gradients(model)
    modules, parameters = list(model.named_modules()), list(model.named_parameters())
    state = {n: t.clone() for n, t in model.state_dict().items()}
    lines: list[str] = []
    assert seqops.convert(model, report=lines.append) is model
    assert lines == LINES
    for a, b in zip(output_and_gradients(model), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6)
    for kept, now in ((modules, model.named_modules()), (parameters, model.named_parameters())):
        assert [(n, id(v)) for n, v in kept] == [(n, id(v)) for n, v in now]
    assert list(model.state_dict()) == list(state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    Tagger().load_state_dict(model.state_dict())
    assert not any(type(m).__module__ == "torch.nn.modules.rnn" for m in model.modules())


@pytest.mark.parametrize("name", CLASSES)
def test_the_model_itself(name: str) -> None:
    model = getattr(torch.nn, name)(I, H)
    text, lines = repr(model), []
    assert seqops.convert(model, report=lines.append) is model
    assert lines == [f"the model: torch.nn.modules.rnn.{name} -> seqops.nn.{name}"]
    assert type(model) is getattr(seqops.nn, name)
    assert repr(model) == text
    fresh = getattr(seqops.nn, name)(I, H)
    for attribute in vars(fresh).keys() - vars(model).keys():
        assert getattr(model, attribute) == getattr(fresh, attribute)


def test_a_converted_module_has_all_that_ours_have() -> None:
    modules = [torch.nn.GRU(I, H), torch.nn.LSTM(I, H), torch.nn.GRUCell(I, H)]
    gru, lstm, cell = (seqops.convert(m, report=None) for m in modules)
    x, reset = torch.randn(4, 2, I), torch.zeros(4, 2, dtype=torch.bool)
    assert gru(x, reset=reset, lengths=[4, 2])[0].shape == (4, 2, H)
    assert lstm(x, return_cells=True)[2].shape == (1, 4, 2, H)
    assert gru.reset_after
    assert cell.reset_after


def test_a_second_time_nothing_is_left_to_do(model: Tagger) -> None:
    seqops.convert(model, report=None)
    types = [type(m) for m in model.modules()]
    lines: list[str] = []
    seqops.convert(model, report=lines.append)
    assert not lines
    assert [type(m) for m in model.modules()] == types


def test_report(model: Tagger, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, unless it is given or None; nothing where there is nothing."""
    seqops.convert(copy.deepcopy(model), report=None)
    seqops.convert(torch.nn.Linear(2, 2))
    assert not capsys.readouterr().out
    seqops.convert(model)
    assert capsys.readouterr().out.splitlines() == LINES


@pytest.mark.parametrize("model", [None, [torch.nn.GRU(I, H)], torch.nn.GRU, {}], ids=["None", "list", "class", "dict"])
def test_what_is_no_module(model: Any) -> None:
    with pytest.raises(TypeError, match=f"model must be a torch.nn.Module, got {type(model).__name__}"):
        seqops.convert(model)


def test_one_module_in_two_places() -> None:
    gru = torch.nn.GRU(H, H)
    model = torch.nn.ModuleList([gru, torch.nn.ModuleList([gru])])
    lines: list[str] = []
    seqops.convert(model, report=lines.append)
    assert lines == ["0: torch.nn.modules.rnn.GRU -> seqops.nn.GRU"]
    assert model[0] is model[1][0] is gru
    assert type(gru) is seqops.nn.GRU


def test_shared_parameters() -> None:
    model = torch.nn.ModuleList([torch.nn.GRU(H, H), torch.nn.GRU(H, H)])
    model[1].weight_hh_l0 = model[0].weight_hh_l0
    seqops.convert(model, report=None)
    assert model[1].weight_hh_l0 is model[0].weight_hh_l0
    x = torch.randn(4, 2, H)
    with torch.no_grad():
        before = model[1](x)[0]
        model[0].weight_hh_l0.mul_(2)
        assert not torch.allclose(model[1](x)[0], before)


def test_optimizer_goes_on(model: Tagger) -> None:
    """One made before, with its state, steps as it would have."""
    models = [model, copy.deepcopy(model)]
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.1) for m in models]
    for step in range(4):
        if step == 2:
            seqops.convert(models[0], report=None)
        for m, optimizer in zip(models, optimizers, strict=True):
            output_and_gradients(m)
            optimizer.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_hooks_and_mode_are_kept() -> None:
    gru, called = torch.nn.GRU(I, H), []
    gru.register_forward_pre_hook(lambda module, args: called.append("before"))
    gru.register_forward_hook(lambda module, args, output: called.append("after"))
    gru.register_full_backward_hook(lambda module, grads, outputs: called.append("backward"))
    gru.register_buffer("mine", torch.ones(2))
    gru.note = "mine"
    gru.eval()
    gru.weight_hh_l0.requires_grad_(False)
    gru.weight_ih_l0.register_hook(lambda grad: called.append("weight"))
    model = seqops.convert(torch.nn.Sequential(gru), report=None)
    model(torch.randn(4, 2, I, requires_grad=True))[0].sum().backward()
    assert called[:2] == ["before", "after"]
    assert sorted(called[2:]) == ["backward", "weight"]
    assert not gru.training
    assert gru.note == "mine"
    assert "mine" in gru.state_dict()
    assert gru.weight_hh_l0.grad is None


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "LSTMCell"])
def test_parametrized(name: str) -> None:
    """They stay so: trained, shown, copied, converted once, and undone."""
    weight, x = ("weight_ih", torch.randn(2, I)) if "Cell" in name else ("weight_ih_l0", torch.randn(4, 2, I))
    module = getattr(torch.nn, name)(I, H)
    parametrizations.weight_norm(module, weight)
    text, expected, lines = repr(module), first(module(x)), []
    seqops.convert(module, report=lines.append)
    assert lines == [f"the model: torch.nn.modules.rnn.{name} -> seqops.nn.{name}"]
    assert isinstance(module, getattr(seqops.nn, name))
    assert type(module).__name__ == f"Parametrized{name}"
    assert parametrize.type_before_parametrizations(module) is getattr(seqops.nn, name)
    assert repr(module) == text
    torch.testing.assert_close(first(module(x)), expected)
    torch.testing.assert_close(first(copy.deepcopy(module)(x)), expected)
    first(module(x)).sum().backward()
    assert module.parametrizations[weight].original0.grad is not None
    lines.clear()
    seqops.convert(module, report=lines.append)
    assert not lines
    with torch.no_grad():
        module.parametrizations[weight].original0.mul_(2)
    assert not torch.allclose(first(module(x)), expected)
    changed = first(module(x))
    parametrize.remove_parametrizations(module, weight)
    assert type(module) is getattr(seqops.nn, name)
    torch.testing.assert_close(first(module(x)), changed)


def test_parametrized_apart() -> None:
    """What is done to one module does not show in another that had its class."""
    module = torch.nn.GRU(I, H)
    parametrizations.weight_norm(module, "weight_hh_l0")
    other = copy.deepcopy(module)
    seqops.convert(module, report=None)
    assert isinstance(other, torch.nn.GRU)
    parametrizations.weight_norm(module, "weight_ih_l0")
    assert not parametrize.is_parametrized(other, "weight_ih_l0")
    x = torch.randn(4, 2, I)
    torch.testing.assert_close(module(x)[0], other(x)[0])


class Doubled(torch.nn.GRU):
    """A subclass, whose forward is its own."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Any:
        output, h = super().forward(input, hx)
        return 2 * output, h


def test_subclasses_are_left() -> None:
    model = torch.nn.ModuleDict({"mine": Doubled(I, H), "norm": Doubled(I, H), "torchs": torch.nn.GRU(I, H)})
    parametrizations.weight_norm(model["norm"], "weight_hh_l0")
    lines: list[str] = []
    seqops.convert(model, report=lines.append)
    assert lines == [
        f"mine: {Doubled.__module__}.Doubled left as it is: a subclass",
        f"norm: {Doubled.__module__}.Doubled left as it is: a subclass",
        "torchs: torch.nn.modules.rnn.GRU -> seqops.nn.GRU",
    ]
    assert type(model["mine"]) is Doubled


def test_what_is_no_torch_class_is_not_mentioned() -> None:
    model = torch.nn.ModuleList([seqops.nn.GRU(I, H), torch.nn.RNNBase("GRU", I, H), torch.nn.Linear(I, H)])
    lines: list[str] = []
    seqops.convert(model, report=lines.append)
    assert not lines


def test_copies_and_pickles(model: Tagger) -> None:
    seqops.convert(model, report=None)
    expected = output_and_gradients(model)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(m) for m in clone.modules()] == [type(m) for m in model.modules()]
        for a, b in zip(output_and_gradients(clone), expected, strict=True):
            assert torch.equal(a, b)


def test_moves_and_compiles(model: Tagger) -> None:
    """What torch.compile refuses of torch's modules it takes of ours."""
    seqops.convert(model, report=None).double().eval()
    tokens = torch.arange(12).remainder(7).view(4, 3)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), model(tokens))
