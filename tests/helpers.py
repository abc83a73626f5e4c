"""The comparison that all ops' tests share: an op against its reference in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["LAYOUTS", "OTHER_DEFAULTS", "Expectation", "assert_as_accurate", "randn", "relayout", "run_with_grads"]

# How the inputs and the incoming gradients lie in memory.
LAYOUTS = ("contiguous", "transposed", "strided", "expanded")


@contextmanager
def default_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# Not float32, and not the CPU: what is made on "meta" without a device has no data.
OTHER_DEFAULTS = (default_float64, functools.partial(torch.device, "meta"))


def randn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """float64 values that float32 holds exactly, so that the truth and what is tested start from the same numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(scale).double()


def relayout(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another layout; for "expanded", which can hold no others, those of the first item."""
    if layout == "transposed":
        order = tuple(range(tensor.dim()))[::-1]
        return tensor.permute(order).contiguous().permute(order)
    if layout == "strided":
        # With an offset, and NaN or the largest integer between: what is read beside the values shows.
        nothing = torch.nan if tensor.is_floating_point() else torch.iinfo(torch.int32).max
        spread = tensor.new_full((*tensor.shape, 3), True if tensor.dtype == torch.bool else nothing)
        spread[..., 1] = tensor
        return spread[..., 1]
    if layout == "expanded" and tensor.dim() and tensor.shape[0]:
        return tensor[:1].expand_as(tensor)
    return tensor.contiguous()


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


def run_with_grads(
    fn: Callable[..., Any],
    inputs: dict[str, Tensor],
    grad: set[str],
    dtype: torch.dtype,
    device: str,
    layout: str = "contiguous",
    **options: Any,
) -> dict[str, Tensor]:
    """fn(**inputs, **options) in one dtype, and the gradients of a fixed random functional of its floating outputs.

    Fails where an input is modified, or where outputs require grad though no input does.
    """
    given = inputs | {n: o for n, o in options.items() if isinstance(o, Tensor)}
    given = {n: t.to(device, dtype) if t.is_floating_point() else t.to(device) for n, t in given.items()}
    given = {n: relayout(t, layout) for n, t in given.items()}
    before = {n: t.clone() for n, t in given.items()}
    for name in grad:
        given[name] = given[name].detach().requires_grad_()
    outputs = fn(**options | given)
    outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(o for o in outputs if o is not None)
    result = {f"output {i}": o.detach() for i, o in enumerate(outputs)}
    graded = {i: o for i, o in enumerate(outputs) if o.requires_grad}
    assert bool(graded) == bool(grad), f"outputs {list(graded)} require grad, where the inputs {sorted(grad)} do"
    if grad:
        weights = [randn(*o.shape, seed=1000 + i).to(o.device, dtype).to(o.dtype) for i, o in graded.items()]
        weights = [relayout(w, layout) for w in weights]
        asked = [given[n] for n in sorted(grad)]
        grads = torch.autograd.grad(list(graded.values()), asked, weights, materialize_grads=True)
        result |= {f"gradient of {n}": g for n, g in zip(sorted(grad), grads, strict=True)}
    for name, t in before.items():
        assert _same(given[name].detach(), t), f"{name} was modified"
    return result


class Expectation:
    """What an op has to give for its inputs, and how far off each output and gradient may be.

    The error against the float64 reference is at most twice the same-dtype reference's. To that come four roundings of
    the largest true value, for where the reference is exact by chance. What is not finite, or no floating value, is
    exact. Of many random problems some cancel: with `drawn` the four roundings are of the largest value in the whole
    problem, not in the one output or gradient.

    In float64 the truth is rounded too: there the reference's error is that in float32, scaled down, and counts thrice.
    """

    def __init__(
        self,
        reference: Callable[..., Any],
        inputs: dict[str, Tensor],
        grad: set[str],
        dtype: torch.dtype,
        device: str,
        drawn: bool = False,
        **options: Any,
    ) -> None:
        self.inputs = {n: t.to(dtype).double() if t.is_floating_point() else t for n, t in inputs.items()}
        self.dtype, self.device, self.options = dtype, device, options
        self.truth = run_with_grads(reference, self.inputs, grad, torch.float64, "cpu", **options)
        same = run_with_grads(reference, self.inputs, grad, dtype, device, **options)
        self.dtypes = {n: t.dtype for n, t in same.items()}
        eps, factor = torch.finfo(dtype).eps, 2.0
        if dtype == torch.float64:
            same = run_with_grads(reference, self.inputs, grad, torch.float32, device, **options)
            factor = 3 * eps / torch.finfo(torch.float32).eps
        self.allowed = {}
        values = torch.cat([t.flatten() for t in (*inputs.values(), *self.truth.values()) if t.is_floating_point()])
        largest = values[values.isfinite()].abs().max().item() if values.isfinite().any() else 0.0
        for name, expected in self.truth.items():
            finite = expected.isfinite()
            if finite.any():
                error = (same[name].double().cpu() - expected)[finite].abs().max().item()
                scale = largest if drawn else expected[finite].abs().max().item()
                self.allowed[name] = factor * error + 4 * eps * scale

    def check(self, fn: Callable[..., Any], grad: set[str]) -> None:
        """That fn meets it, asked for the gradients of these inputs."""
        ours = run_with_grads(fn, self.inputs, grad, self.dtype, self.device, **self.options)
        wanted = {n for n in self.truth if not n.startswith("gradient")} | {f"gradient of {n}" for n in grad}
        assert ours.keys() == wanted
        for name, got in ours.items():
            expected = self.truth[name]
            assert got.shape == expected.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
            assert got.dtype == self.dtypes[name], f"{name}: dtype {got.dtype}, expected {self.dtypes[name]}"
            got = got.cpu()
            if not expected.is_floating_point():
                assert torch.equal(got, expected), f"{name}: {got}, expected {expected}"
                continue
            got, finite = got.double(), expected.isfinite()
            assert _same(got[~finite], expected[~finite]), f"{name}: not the same infinities and NaN"
            if finite.any():
                error = (got - expected)[finite].abs().max().item()
                assert error <= self.allowed[name], f"{name}: error {error:.3g}, allowed {self.allowed[name]:.3g}"


def assert_as_accurate(
    fn: Callable[..., Any],
    reference: Callable[..., Any],
    inputs: dict[str, Tensor],
    *,
    grad: set[str] | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **options: Any,
) -> None:
    """`Expectation.check`; `grad` names the inputs whose gradients are asked for: all floating ones unless given.

    `options` go to the op, but for `layout` and `drawn`, which `run_with_grads` and `Expectation` explain.
    """
    if grad is None:
        grad = {n for n, t in inputs.items() if t.is_floating_point()}
    Expectation(reference, inputs, grad, dtype, device, **options).check(fn, grad)
