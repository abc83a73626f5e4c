"""The GRU over a sequence, and its cell, against torch.nn (cuDNN on a GPU), a Python loop, torch.compile and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqops import functional, reference
from seqops.bench.harness import Bench, Inputs, Prepared, Problem, Unavailable, from_function
from seqops.bench.roofline import Work


def problem(T: int, B: int, H: int, dtype: str = "float32", training: bool = True, quick: bool = False) -> Problem:
    return Problem((("T", T), ("B", B), ("I", H), ("H", H)), dtype, training, quick)


CPU = [
    problem(100, 32, 128, quick=True),
    problem(100, 32, 512),
    problem(50, 8, 1024),
    problem(200, 1, 256, quick=True),
    problem(100, 32, 128, training=False),
    problem(200, 1, 256, training=False, quick=True),
]
GPU = [
    problem(T, B, H, dtype, training, quick=(H, B) == (1024, 64))
    for T, B, H, dtype in (
        *((256, 64, H, "bfloat16") for H in (256, 512, 768, 1024, 2048)),
        *((256, B, 1024, "bfloat16") for B in (1, 16, 128, 256)),
        (1024, 16, 768, "bfloat16"),
        (256, 64, 1024, "float16"),
        (256, 64, 256, "float32"),
        (256, 64, 1024, "float32"),
    )
    for training in (False, True)
]


def inputs(p: Problem) -> Inputs:
    T, B, I, H = p.size.values()
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, p.dtype)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    scale = H**-0.5 / 2
    weights = {"w_ih": draw(3 * H, I, scale=scale), "w_hh": draw(3 * H, H, scale=scale)}
    biases = {"b_ih": draw(3 * H, scale=scale), "b_hh": draw(3 * H, scale=scale)}
    return {"x": draw(T, B, I), "h0": draw(B, H), **weights, **biases}


def torch_nn(p: Problem) -> Callable[[Inputs], Prepared]:
    _, _, I, H = p.size.values()

    def prepare(given: Inputs) -> Prepared:
        module = torch.nn.GRU(I, H, device=p.device, dtype=getattr(torch, p.dtype))
        with torch.no_grad():
            for own, value in zip(module.parameters(), list(given.values())[2:], strict=True):
                own.copy_(value)
        module.flatten_parameters()
        x, h0 = (given[n].detach().clone().requires_grad_(p.training) for n in ("x", "h0"))
        return Prepared(lambda: module(x, h0[None]), [x, h0, *module.parameters()])

    return prepare


def loop(cell: Callable[..., Tensor]) -> Callable[..., Any]:
    def run(x: Tensor, h0: Tensor, *weights: Tensor, **named: Tensor) -> tuple[Tensor, Tensor]:
        h, y = h0, []
        for x_t in x.unbind(0):
            h = cell(x_t, h, *weights, **named)
            y.append(h)
        return torch.stack(y), h

    return run


def compiled_cell(p: Problem) -> Callable[[Inputs], Prepared]:
    """A whole sequence unrolled would compile for minutes: a compiled cell in a loop."""
    if p.device == "cuda" and not p.quick:
        raise Unavailable("only on quick problems: it compiles for long")
    torch._dynamo.reset()
    return from_function(loop(torch.compile(reference.gru_cell, dynamic=False)))(p)


def haste(p: Problem) -> Callable[[Inputs], Prepared]:
    """haste_pytorch.GRU: weights transposed, gates in the order z, r, n."""
    try:
        import haste_pytorch
    except ImportError as error:
        raise Unavailable("haste_pytorch is not installed") from error
    if p.dtype != "float32" or p.device != "cuda":
        raise Unavailable("haste_pytorch has float32 on a GPU")
    _, _, I, H = p.size.values()

    def reordered(weight: Tensor) -> Tensor:
        r, z, n = weight.detach().chunk(3)
        return torch.cat((z, r, n)).t().contiguous() if weight.dim() > 1 else torch.cat((z, r, n))

    def restore(i: int, grad: Tensor) -> Tensor:
        if i < 2:
            return grad
        z, r, n = (grad.t() if grad.dim() > 1 else grad).chunk(3)
        return torch.cat((r, z, n))

    def prepare(given: Inputs) -> Prepared:
        layer = haste_pytorch.GRU(I, H).cuda()
        weights = [layer.kernel, layer.recurrent_kernel, layer.bias, layer.recurrent_bias]
        with torch.no_grad():
            for own, value in zip(weights, list(given.values())[2:], strict=True):
                own.copy_(reordered(value))
        x, h0 = (given[n].detach().clone().requires_grad_(p.training) for n in ("x", "h0"))
        return Prepared(lambda: layer(x, h0[None]), [x, h0, *weights], restore)

    return prepare


def work(p: Problem) -> Work:
    """Each tensor once. The products: x W_ih^T and h W_hh^T; in backward their two gradients each."""
    T, B, I, H = p.size.values()
    size = getattr(torch, p.dtype).itemsize
    elements = T * B * (I + H) + 3 * H * (I + H + 2)
    products = 2 * T * B * 3 * H * (I + H)
    if not p.training:
        return Work(elements * size, products, tanh=T * B * H, exp=2 * T * B * H)
    return Work(2 * elements * size, 3 * products, tanh=T * B * H, exp=2 * T * B * H)


BENCH = Bench(
    op="gru",
    family="recurrent",
    cpu=CPU,
    gpu=GPU,
    inputs=inputs,
    reference=from_function(reference.gru),
    providers={
        "seqops": from_function(functional.gru),
        "torch.nn": torch_nn,
        "eager loop": from_function(loop(reference.gru_cell)),
        "compiled cell": compiled_cell,
        "haste": haste,
    },
    work=work,
)


def test_gru(timed: Callable[[], None]) -> None:
    timed()
