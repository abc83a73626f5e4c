"""The comparison that all ops' tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["assert_as_accurate", "randn", "run_with_grads"]


def randn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """float64 values that float32 holds exactly, so that the truth and what is tested start from the same numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul_(scale).double()


def run_with_grads(
    fn: Callable[..., Any], inputs: dict[str, Tensor], grad: set[str], dtype: torch.dtype, device: str, **options: Any
) -> dict[str, Tensor]:
    """fn(**inputs, **options) in one dtype, and the gradients of a fixed random functional of its floating outputs."""
    cast = {n: t.to(device, dtype) if t.is_floating_point() else t.to(device) for n, t in inputs.items()}
    for name in grad:
        cast[name] = cast[name].detach().requires_grad_()
    options = {n: o.to(device) if isinstance(o, Tensor) else o for n, o in options.items()}
    outputs = fn(**cast, **options)
    outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(o for o in outputs if o is not None)
    result = {f"output {i}": o.detach() for i, o in enumerate(outputs)}
    if grad:
        graded = [o for o in outputs if o.requires_grad]
        weights = [randn(*o.shape, seed=1000 + i).to(o.device, dtype).to(o.dtype) for i, o in enumerate(graded)]
        grads = torch.autograd.grad(graded, [cast[n] for n in sorted(grad)], weights)
        result |= {f"gradient of {n}": g for n, g in zip(sorted(grad), grads, strict=True)}
    return result


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
    """Each output and gradient: the error against the float64 reference is at most twice the same-dtype reference's.

    To that comes four roundings of the largest true value, for where the reference is exact by chance.
    `grad` names the inputs whose gradients are asked for: all floating ones unless given.
    """
    if grad is None:
        grad = {n for n, t in inputs.items() if t.is_floating_point()}
    inputs = {n: t.to(dtype).double() if t.is_floating_point() else t for n, t in inputs.items()}
    truth = run_with_grads(reference, inputs, grad, torch.float64, "cpu", **options)
    same = run_with_grads(reference, inputs, grad, dtype, device, **options)
    ours = run_with_grads(fn, inputs, grad, dtype, device, **options)
    assert ours.keys() == truth.keys()
    for name, expected in truth.items():
        got = ours[name]
        assert got.shape == expected.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
        assert got.dtype == same[name].dtype, f"{name}: dtype {got.dtype}, expected {same[name].dtype}"
        if not expected.numel():
            continue
        error = (got.double().cpu() - expected).abs().max().item()
        allowed = 2 * (same[name].double().cpu() - expected).abs().max().item()
        allowed += 4 * torch.finfo(dtype).eps * expected.abs().max().item()
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"
