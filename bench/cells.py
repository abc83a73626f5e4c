"""What the recurrent cells' benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from seqops.bench.harness import Bench, Inputs, Problem, compiled, from_function
from seqops.bench.roofline import Work

__all__ = ["cell_bench"]


def problem(B: int, H: int, dtype: str = "float32", training: bool = True, quick: bool = False) -> Problem:
    return Problem((("B", B), ("I", H), ("H", H)), dtype, training, quick)


def cell_bench(
    op: str,
    gates: int,
    ours: Callable[..., Any],
    theirs: Callable[..., Any] | None,
    reference: Callable[..., Any],
    states: Sequence[str] = ("h",),
    gains: Sequence[str] = (),
) -> Bench:
    """`theirs` is what torch.nn's cell calls, if it has one; `gains` are vectors of [gates * H]."""

    def inputs(p: Problem) -> Inputs:
        B, I, H = p.size.values()
        generator, dtype, G = torch.Generator().manual_seed(0), getattr(torch, p.dtype), gates * H
        shapes: dict[str, tuple[int, ...]] = {"x": (B, I), **dict.fromkeys(states, (B, H))}
        weights = {"w_ih": (G, I), "w_hh": (G, H), "b_ih": (G,), "b_hh": (G,), **dict.fromkeys(gains, (G,))}
        scaled = {n: torch.randn(s, generator=generator) * H**-0.5 / 2 for n, s in weights.items()}
        drawn = {n: torch.randn(s, generator=generator) for n, s in shapes.items()} | scaled
        return {n: t.to(dtype) for n, t in drawn.items()}

    def work(p: Problem) -> Work:
        B, I, H = p.size.values()
        size, times = getattr(torch, p.dtype).itemsize, 2 if p.training else 1
        elements = B * (I + 2 * len(states) * H) + gates * H * (I + H + 2 + len(gains))
        return Work(times * elements * size, (2 * times - 1) * 2 * B * gates * H * (I + H), exp=gates * B * H)

    return Bench(
        op=op,
        family="recurrent",
        cpu=[problem(32, 256, quick=True), problem(1, 256, training=False, quick=True), problem(32, 1024)],
        gpu=[
            problem(B, H, dtype, training, quick=(B, H) == (64, 1024))
            for B, H, dtype in ((64, 1024, "bfloat16"), (1, 1024, "bfloat16"), (256, 512, "float32"))
            for training in (False, True)
        ],
        inputs=inputs,
        reference=from_function(reference),
        providers={
            "seqops": from_function(ours),
            **({} if theirs is None else {"torch.nn": from_function(theirs)}),
            "eager": from_function(reference),
            "torch.compile": compiled(reference),
        },
        work=work,
    )
