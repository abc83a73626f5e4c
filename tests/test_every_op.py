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


def first_output(case: Case, inputs: dict[str, Tensor], reference: bool = False) -> Tensor:
    first = next(t for t in inputs.values() if isinstance(t, Tensor) and t.is_floating_point())
    options = {n: o.to(first.device) if isinstance(o, Tensor) else o for n, o in case.usual(**sizes(case)).items()}
    options = {
        n: o.to(first.dtype) if isinstance(o, Tensor) and o.is_floating_point() else o for n, o in options.items()
    }
    outputs = (case.reference if reference else case.op)(**inputs, **options)
    return outputs if isinstance(outputs, Tensor) else outputs[0]


@pytest.mark.parametrize("optional", [True, False], ids=["", "less"])
def test_every_subset_of_inputs_requiring_grad(path: Path, case: Case, optional: bool) -> None:
    if not optional and not case.optional:
        pytest.skip("no optional inputs")
    given = sizes(case)
    left_out = frozenset().union(*() if optional else case.optional)
    inputs = {n: t for n, t in case.problem(**given).items() if n not in left_out}
    floating = [n for n, t in inputs.items() if t.is_floating_point()]
    expected = Expectation(case.reference, inputs, set(floating), torch.float32, path.device, **case.usual(**given))
    for count in range(len(floating) + 1):
        # The kernels do not know of the inputs; the subsets are for the Function. Of many inputs all are too many.
        if (path.kernels or len(floating) > 10) and (count > 1 or not optional) and count < len(floating):
            continue
        for grad in itertools.combinations(floating, count):
            expected.check(case.op, set(grad))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(path: Path, case: Case, layout: str) -> None:
    """Of inputs and of incoming gradients; and the inputs are left as they are."""
    if layout not in case.layouts:
        pytest.skip("the op's values would be rounding errors")
    given = sizes(case)
    inputs = case.problem(**given)
    assert_as_accurate(case.op, case.reference, inputs, device=path.device, layout=layout, **case.usual(**given))


def test_layouts_differ(case: Case) -> None:
    tensor = next(iter(case.problem(**sizes(case)).values()))
    assert len({relayout(tensor, layout).stride() for layout in LAYOUTS}) == len(LAYOUTS)


def test_sizes_of_one(path: Path, case: Case) -> None:
    every = dict.fromkeys(case.largest, 1)
    for name in (None, *case.largest):
        given = every if name is None else sizes(case, **{name: 1})
        options = {"device": path.device, "drawn": True} | case.usual(**given)
        assert_as_accurate(case.op, case.reference, case.problem(**given), **options)


def test_sizes_of_zero(path: Path, case: Case) -> None:
    every = dict.fromkeys(case.zero, 0)
    for zeros in ({}, every, *({name: 0} for name in sorted(case.zero))):
        given = sizes(case, **zeros)
        inputs = case.problem(**given)
        assert_as_accurate(case.op, case.reference, inputs, device=path.device, **case.usual(**given))


def test_nothing_is_kept_once_the_gradients_are_there(path: Path, case: Case) -> None:
    """Saved tensors go with backward, all else with the outputs, with no help of the garbage collector."""
    if path.kernels and path.device == "cpu":
        pytest.skip("the Function is the same")
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
            output = first_output(case, inputs)
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
    gc.freeze()  # what has been there before is not looked at again
    saved.clear()
    gc.disable()
    try:
        before = tensors()
        step()
        assert tensors() == before, "tensors outlive the outputs"
    finally:
        gc.enable()
        gc.unfreeze()


def test_repeats_to_the_bit(path: Path, case: Case) -> None:
    results = []
    for _ in range(2):
        inputs = leaves(case, path.device)
        output = first_output(case, inputs)
        results.append([output, *torch.autograd.grad(output.square().sum(), list(inputs.values()))])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_second_derivative_is_right_or_raises(path: Path, case: Case) -> None:
    """However it is asked for, and whatever the incoming gradient; create_graph alone is no fault."""
    first = next(iter(case.problem(**sizes(case))))
    for power in (1, 2):
        inputs = leaves(case, path.device)
        (grad,) = torch.autograd.grad(first_output(case, inputs).pow(power).sum(), inputs[first], create_graph=True)
        try:
            again = torch.autograd.grad(
                grad.square().sum(), list(inputs.values()), allow_unused=True, retain_graph=True
            )
        except RuntimeError as error:
            assert "once_differentiable" in str(error)  # noqa: PT017
            with pytest.raises(RuntimeError, match="once_differentiable"):
                grad.sum().backward()
            continue
        exact = {n: t.detach().cpu().double().requires_grad_() for n, t in inputs.items()}
        output = first_output(case, exact, reference=True)
        (grad,) = torch.autograd.grad(output.pow(power).sum(), exact[first], create_graph=True)
        expected = torch.autograd.grad(grad.square().sum(), list(exact.values()), allow_unused=True)
        for a, b in zip(again, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(a.cpu().double(), b, rtol=1e-4, atol=1e-4)


def test_no_gradient_without_grad_mode(path: Path, case: Case) -> None:
    inputs = leaves(case, path.device)
    expected = first_output(case, inputs)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            got = first_output(case, inputs)
        assert not got.requires_grad
        if case.label == "lstm as torch has it" and not path.kernels:
            # Computed by torch.lstm, whose own bits without gradients are others on some processors.
            torch.testing.assert_close(got, expected)
        else:
            assert torch.equal(got, expected)


def test_mixed_devices_and_dtypes_are_refused(path: Path, case: Case) -> None:
    inputs = {n: t.float().to(path.device) for n, t in case.problem(**sizes(case)).items()}
    for name in inputs:
        with pytest.raises(ValueError, match=f"^{case.name}: .* must be on the device of "):
            first_output(case, inputs | {name: inputs[name].to("meta")})
        with pytest.raises(TypeError, match=f"^{case.name}: "):
            first_output(case, inputs | {name: inputs[name].double()})
        with pytest.raises(TypeError, match=f"^{case.name}: {name} must be a Tensor, got list"):
            first_output(case, inputs | {name: inputs[name].tolist()})


def test_documented(case: Case) -> None:
    """One line, the shapes, the errors, the source."""
    text = getattr(functional, case.name).__doc__ or ""
    for part in ("Args:", "Returns:", "Raises:", "Source:"):
        assert part in text, part
    assert all(name in text for name in case.problem(**sizes(case)) if name not in ("reset_h", "reset_c"))


def test_no_op_is_left_out(case: Case) -> None:
    public = {n for n in functional.__all__ if not isinstance(getattr(functional, n), type)}
    assert public == {c.name for c in CASES.values()} == set(reference.__all__)
