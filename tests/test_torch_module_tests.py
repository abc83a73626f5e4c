"""torch's own test inputs of nn.RNN, nn.GRU, nn.LSTM and their cells, with ours in place of torch's."""

from __future__ import annotations

import copy
import functools
import importlib.util
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from seqops import nn

if importlib.util.find_spec("expecttest") is None:
    pytest.skip("torch's test inputs need expecttest, which torch does not require", allow_module_level=True)

# The import forbids all the process to set torch.backends.mkldnn.enabled and its like, and changes warnings' filters.
flags_may_be_set = getattr(torch.backends, "__allow_nonbracketed_mutation_flag")
with warnings.catch_warnings():
    from torch.testing._internal import common_modules
    from torch.testing._internal.common_utils import noncontiguous_like
setattr(torch.backends, "__allow_nonbracketed_mutation_flag", flags_may_be_set)

pytestmark = [
    pytest.mark.usefixtures("cpu_path"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

NAMES = ["RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"]
INFOS = {info.module_cls.__name__: info for info in common_modules.module_db if info.module_cls.__name__ in NAMES}
DTYPES = [torch.float32, torch.float64]

every_class = pytest.mark.parametrize("name", NAMES)


def inputs(name: str, dtype: torch.dtype, training: bool = True) -> list[Any]:
    torch.manual_seed(0)
    info, options = INFOS[name], {}
    if name in ("RNN", "GRU"):
        options = {"with_packed_sequence": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=True, training=training, **options
        )
    return list(found)


def flat(value: Any) -> list[Tensor]:
    """The tensors in arguments or outputs, of a PackedSequence its data."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return [value.data]
    return [t for v in value for t in flat(v)]


def relaid(value: Any, contiguous: bool) -> Any:
    """New leaves with the same values, in another layout if asked."""
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return torch.nn.utils.rnn.PackedSequence(relaid(value.data, contiguous), *value[1:])
    if isinstance(value, Tensor):
        value = value.detach().clone()
        return (value if contiguous else noncontiguous_like(value)).requires_grad_()
    return tuple(relaid(v, contiguous) for v in value)


def make(library: Any, name: str, sample: Any, dtype: torch.dtype, training: bool) -> torch.nn.Module:
    torch.manual_seed(1)
    given = sample.constructor_input
    return getattr(library, name)(*given.args, **given.kwargs, dtype=dtype).train(training)


def results(module: torch.nn.Module, args: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs, and gradients of a functional that tells their elements apart, of arguments and parameters."""
    outputs = flat(module(*args))
    functional = torch.stack([(o * torch.arange(o.numel()).cos().view_as(o)).sum() for o in outputs]).sum()
    return [*outputs, *torch.autograd.grad(functional, [*flat(args), *module.parameters()])]


def test_all_classes_have_inputs() -> None:
    assert sorted(INFOS) == sorted(NAMES)
    assert all(len(inputs(name, torch.float32)) >= 2 for name in NAMES)


@every_class
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("contiguous", [True, False])
def test_inputs(name: str, dtype: torch.dtype, training: bool, contiguous: bool) -> None:
    for sample in inputs(name, dtype, training):
        assert not sample.forward_input.kwargs
        ours, theirs = (make(library, name, sample, dtype, training) for library in (nn, torch.nn))
        args = [relaid(sample.forward_input.args, contiguous) for _ in "ab"]
        assert contiguous or any(not t.is_contiguous() for t in flat(args))
        for a, b in zip(results(ours, args[0]), results(theirs, args[1]), strict=True):
            torch.testing.assert_close(a, b)


@every_class
def test_torchs_own_references(name: str) -> None:
    """What its inputs come with: the same as a batch of one."""
    for sample in inputs(name, torch.float64):
        if isinstance(sample.forward_input.args[0], torch.nn.utils.rnn.PackedSequence):
            continue
        module = make(nn, name, sample, torch.float64, training=True)
        expected = sample.reference_fn(module, *sample.forward_input.args)
        for a, b in zip(flat(module(*sample.forward_input.args)), flat(expected), strict=True):
            torch.testing.assert_close(a, b)


@every_class
def test_gradients(name: str) -> None:
    """Against finite differences, of all inputs and parameters; every other sample is enough."""
    for sample in inputs(name, torch.float64)[::2]:
        module, args = make(nn, name, sample, torch.float64, training=True), sample.forward_input.args
        parameters = dict(module.named_parameters())
        tensors = [t.detach().requires_grad_() for t in (*flat(args), *parameters.values())]

        def call(*given: Tensor, args: Any = args, module: Any = module, names: Any = tuple(parameters)) -> Any:
            given, weights = given[: -len(names)], given[-len(names) :]
            first = args[0]
            if isinstance(first, torch.nn.utils.rnn.PackedSequence):
                first = torch.nn.utils.rnn.PackedSequence(given[0], *first[1:])
            else:
                first = given[0]
            state = () if len(args) == 1 else (given[1] if isinstance(args[1], Tensor) else tuple(given[1:]),)
            named = dict(zip(names, weights, strict=True))
            return tuple(flat(torch.func.functional_call(module, named, (first, *state))))

        assert torch.autograd.gradcheck(call, tensors, fast_mode=True)


@every_class
def test_copied_and_moved(name: str) -> None:
    for sample in inputs(name, torch.float32)[:4]:
        module, args = make(nn, name, sample, torch.float32, training=True), sample.forward_input.args
        expected = flat(module(*args))
        for a, b in zip(flat(copy.deepcopy(module)(*args)), expected, strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(flat(module.double().float()(*args)), expected, strict=True):
            torch.testing.assert_close(a, b)


@every_class
def test_error_inputs(name: str) -> None:
    info = INFOS[name]
    samples = info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    assert samples
    for sample in samples:
        given, at_construction = sample.module_error_input, common_modules.ModuleErrorEnum.CONSTRUCTION_ERROR
        call = functools.partial(getattr(nn, name), *given.constructor_input.args, **given.constructor_input.kwargs)
        if sample.error_on != at_construction:
            call = functools.partial(call(), *given.forward_input.args, **given.forward_input.kwargs)
        with pytest.raises(sample.error_type, match=sample.error_regex):
            call()
