"""What every public op promises, whatever it computes."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import pytest
import torch
from cases import CASES, Case
from conftest import Path
from helpers import LAYOUTS, Expectation, assert_as_accurate, relayout
from torch import Tensor

from seqops import functional, reference

pytestmark = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def sizes(case: Case, **given: int) -> dict[str, int]:
    """Sizes 2, 3, 4 ..., all different."""
    return {name: i + 2 for i, name in enumerate(case.largest)} | given


def leaves(case: Case, device: str) -> dict[str, Tensor]:
    problem = case.problem(**sizes(case))
    return {n: t.float().to(device).requires_grad_() if t.is_floating_point() else t for n, t in problem.items()}


def first_output(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


@pytest.mark.parametrize("optional", [True, False], ids=["", "less"])
def test_every_subset_of_inputs_requiring_grad(path: Path, case: Case, optional: bool) -> None:
    if not optional and not case.optional:
        pytest.skip("no optional inputs")
    inputs = {n: t for n, t in case.problem(**sizes(case)).items() if optional or n not in case.optional}
    floating = [n for n, t in inputs.items() if t.is_floating_point()]
    expected = Expectation(case.reference, inputs, set(floating), torch.float32, path.device, **case.usual)
    for count in range(len(floating) + 1):
        # The kernels do not know of the inputs; the subsets are for the Function.
        if path.kernels and 1 < count < len(floating):
            continue
        for grad in itertools.combinations(floating, count):
            expected.check(case.op, set(grad))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(path: Path, case: Case, layout: str) -> None:
    """Of inputs and of incoming gradients; and the inputs are left as they are."""
    inputs = case.problem(**sizes(case))
    assert_as_accurate(case.op, case.reference, inputs, device=path.device, layout=layout, **case.usual)


def test_layouts_differ(case: Case) -> None:
    tensor = next(iter(case.problem(**sizes(case)).values()))
    assert len({relayout(tensor, layout).stride() for layout in LAYOUTS}) == len(LAYOUTS)


def test_sizes_of_one(path: Path, case: Case) -> None:
    every = dict.fromkeys(case.largest, 1)
    for name in (None, *case.largest):
        given = every if name is None else sizes(case, **{name: 1})
        assert_as_accurate(case.op, case.reference, case.problem(**given), device=path.device, **case.usual)


def test_sizes_of_zero(path: Path, case: Case) -> None:
    every = dict.fromkeys(case.zero, 0)
    for given in ({}, every, *({name: 0} for name in sorted(case.zero))):
        inputs = case.problem(**sizes(case, **given))
        assert_as_accurate(case.op, case.reference, inputs, device=path.device, **case.usual)


def test_nothing_is_kept_once_the_gradients_are_there(path: Path, case: Case) -> None:
    """Saved tensors go with backward, all else with the outputs, with no help of the garbage collector."""
    inputs = leaves(case, path.device)
    saved: list[weakref.ref[Any]] = []

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            saved.append(weakref.ref(self))

    def tensors() -> int:
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    def step() -> None:
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda s: s.tensor):
            output = first_output(case.op(**inputs, **case.usual))
        nodes, seen = [output.grad_fn], set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            nodes += [n for n, _ in node.next_functions]
            held = [n for n, value in getattr(node, "__dict__", {}).items() if isinstance(value, Tensor)]
            assert not held, f"{node.name()} holds tensors beside the saved ones: {held}"
        assert saved
        grads = torch.autograd.grad(output.sum(), list(inputs.values()))
        assert not any(ref() for ref in saved), "a saved tensor outlives backward"
        del output, grads, nodes, seen, node

    step()  # what is made once
    gc.collect()
    saved.clear()
    gc.disable()
    try:
        before = tensors()
        step()
        assert tensors() == before, "tensors outlive the outputs"
    finally:
        gc.enable()


def test_repeats_to_the_bit(path: Path, case: Case) -> None:
    results = []
    for _ in range(2):
        inputs = leaves(case, path.device)
        output = first_output(case.op(**inputs, **case.usual))
        results.append([output, *torch.autograd.grad(output.square().sum(), list(inputs.values()))])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_second_derivative_raises(path: Path, case: Case) -> None:
    """However it is asked for, and whatever the incoming gradient; create_graph alone is no fault."""
    for power in (1, 2):
        inputs = leaves(case, path.device)
        output = first_output(case.op(**inputs, **case.usual))
        (grad,) = torch.autograd.grad(output.pow(power).sum(), next(iter(inputs.values())), create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.square().sum().backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            torch.autograd.grad(grad.sum(), list(inputs.values()), allow_unused=True)


def test_no_gradient_without_grad_mode(path: Path, case: Case) -> None:
    inputs = leaves(case, path.device)
    expected = first_output(case.op(**inputs, **case.usual))
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            got = first_output(case.op(**inputs, **case.usual))
            assert not got.requires_grad
            assert torch.equal(got, expected)


def test_mixed_devices_and_dtypes_are_refused(path: Path, case: Case) -> None:
    inputs = {n: t.float().to(path.device) for n, t in case.problem(**sizes(case)).items()}
    for name in inputs:
        with pytest.raises(ValueError, match=f"^{case.name}: .* must be on the device of "):
            case.op(**inputs | {name: inputs[name].to("meta")}, **case.usual)
        with pytest.raises(TypeError, match=f"^{case.name}: "):
            case.op(**inputs | {name: inputs[name].double()}, **case.usual)
        with pytest.raises(TypeError, match=f"^{case.name}: {name} must be a Tensor, got list"):
            case.op(**inputs | {name: inputs[name].tolist()}, **case.usual)


def test_documented(case: Case) -> None:
    """One line, the shapes, the errors, the source."""
    text = case.op.__doc__ or ""
    for part in ("Args:", "Returns:", "Raises:", "Source:"):
        assert part in text, part
    assert all(f"{name}" in text for name in case.problem(**sizes(case)))


def test_no_op_is_left_out(case: Case) -> None:
    public = {n for n in functional.__all__ if not isinstance(getattr(functional, n), type)}
    assert public == set(CASES) == set(reference.__all__)
