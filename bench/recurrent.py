"""What the recurrent layers' benchmarks share: shapes, inputs, torch.nn's module and a loop over a cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seqops.bench.harness import Inputs, Prepared, Problem, Provider, Unavailable, from_function
from seqops.bench.roofline import Work

__all__ = ["CPU", "CPU_RESETS", "GPU", "GPU_RESETS", "compiled_cell", "inputs", "loop", "problem", "torch_nn", "work"]


def problem(
    T: int, B: int, H: int, dtype: str = "float32", training: bool = True, quick: bool = False, resets: int = 0
) -> Problem:
    """`resets`: in how many of a hundred steps."""
    sizes = (("T", T), ("B", B), ("I", H), ("H", H), *([("resets", resets)] if resets else []))
    return Problem(sizes, dtype, training, quick)


CPU = [
    problem(100, 32, 128, quick=True),
    problem(100, 32, 512),
    problem(50, 8, 1024),
    problem(200, 1, 256, quick=True),
    problem(100, 32, 128, training=False),
    problem(200, 1, 256, training=False),
]
# As in recurrent reinforcement learning, where episodes end inside a sequence.
CPU_RESETS = [problem(T, B, H, resets=3) for T, B, H in ((100, 32, 128), (100, 32, 512), (50, 8, 1024), (200, 1, 256))]
GPU_RESETS = [problem(256, 64, 1024, "bfloat16", training, resets=3) for training in (False, True)]
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


def inputs(p: Problem, gates: int, states: Sequence[str] = ("h0",)) -> Inputs:
    T, B, I, H, *resets = p.size.values()
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, p.dtype)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    scale, G = H**-0.5 / 2, gates * H
    weights = {"w_ih": draw(G, I, scale=scale), "w_hh": draw(G, H, scale=scale)}
    weights |= {"b_ih": draw(G, scale=scale), "b_hh": draw(G, scale=scale)}
    drawn = {"x": draw(T, B, I), **{name: draw(B, H) for name in states}, **weights}
    if resets:
        drawn["reset"] = torch.rand(T, B, generator=generator) < resets[0] / 100
    return drawn


def torch_nn(module: Callable[..., torch.nn.RNNBase], states: int = 1) -> Provider:
    """torch.nn's layer, which is cuDNN's on a GPU and oneDNN's on a CPU where they have one."""

    def provide(p: Problem) -> Callable[[Inputs], Prepared]:
        if "resets" in p.size:
            raise Unavailable("torch.nn has no resets inside a sequence")
        _, _, I, H = p.size.values()

        def prepare(given: Inputs) -> Prepared:
            layer = module(I, H, device=p.device, dtype=getattr(torch, p.dtype))
            values = list(given.values())
            with torch.no_grad():
                for own, value in zip(layer.parameters(), values[1 + states :], strict=True):
                    own.copy_(value)
            layer.flatten_parameters()
            x, *hx = (t.detach().clone().requires_grad_(p.training) for t in values[: 1 + states])
            state = tuple(h[None] for h in hx)

            def call() -> tuple[Tensor, ...]:
                y, last = layer(x, state if states > 1 else state[0])
                return (y, *last) if states > 1 else (y, last)

            return Prepared(call, [x, *hx, *layer.parameters()])

        return prepare

    return provide


def loop(cell: Callable[..., Any], states: int = 1) -> Callable[..., Any]:
    """The cell in a Python loop over time."""

    def run(x: Tensor, *args: Tensor, reset: Tensor | None = None, **named: Tensor) -> tuple[Tensor, ...]:
        given = [*args, *named.values()]
        state, weights = tuple(given[:states]), given[states:]
        y = []
        goes_on = None if reset is None else (~reset)[:, :, None].to(x.dtype).unbind(0)
        for t, x_t in enumerate(x.unbind(0)):
            if goes_on is not None:
                state = tuple(s * goes_on[t] for s in state)
            state = cell(x_t, state, *weights) if states > 1 else (cell(x_t, *state, *weights),)
            y.append(state[0])
        return torch.stack(y), *state

    return run


def compiled_cell(cell: Callable[..., Any], states: int = 1) -> Provider:
    """The cell, compiled, in a loop: a whole sequence unrolled would compile for minutes."""

    def provide(p: Problem) -> Callable[[Inputs], Prepared]:
        if p.device == "cuda" and not p.quick:
            raise Unavailable("only on quick problems: it compiles for long")
        torch._dynamo.reset()
        return from_function(loop(torch.compile(cell, dynamic=False), states))(p)

    return provide


def work(p: Problem, gates: int, tanh: int, exp: int, vectors: int = 2) -> Work:
    """Each tensor once; `vectors`: of weights, [gates * H] each.

    The products: x W_ih^T and h W_hh^T; in backward their two gradients each.
    """
    T, B, I, H, *_ = p.size.values()
    size = getattr(torch, p.dtype).itemsize
    elements = T * B * (I + H) + gates * H * (I + H + vectors)
    products = 2 * T * B * gates * H * (I + H)
    times = 3 if p.training else 1
    units = T * B * H
    return Work((2 if p.training else 1) * elements * size, times * products, tanh=tanh * units, exp=exp * units)
