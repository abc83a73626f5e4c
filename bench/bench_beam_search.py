"""A whole beam search of a GRU decoder against one in Python as transformers writes it, over the same model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import seqops
from seqops.bench.harness import Bench, Inputs, Problem, from_function
from seqops.bench.roofline import Work

BOS, EOS, LENGTH_PENALTY = 0, 1, 1.0


def problem(B: int, beam: int, V: int, H: int, L: int, dtype: str = "float32", quick: bool = False) -> Problem:
    return Problem((("B", B), ("beam", beam), ("V", V), ("H", H), ("L", L)), dtype, False, quick)


def inputs(p: Problem) -> Inputs:
    B, _, V, H, _ = p.size.values()
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, p.dtype)
    shapes = {"h": (B, H), "embed": (V, H), "w_ih": (3 * H, H), "w_hh": (3 * H, H), "out": (V, H)}
    made = {n: torch.randn(s, generator=generator) / (1 if n in ("h", "embed") else H**0.5) for n, s in shapes.items()}
    made["out"] *= 4  # far from uniform, as a trained model's
    # No sequence ends before the last step: all steps are made.
    made["bias"] = torch.zeros(V).index_fill_(0, torch.tensor([EOS]), -100.0)
    return {n: t.to(dtype) for n, t in made.items()}


def model(
    tokens: Tensor, h: Tensor, embed: Tensor, w_ih: Tensor, w_hh: Tensor, out: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Of rows: tokens [R], h [R,H] -> logits [R,V], h."""
    h = torch.gru_cell(embed[tokens], h, w_ih, w_hh)
    return torch.nn.functional.linear(h, out, bias), h


def ours(h: Tensor, beam: int, L: int, **weights: Tensor) -> Tensor:
    B = len(h)

    def step(tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        logits, after = model(tokens.flatten(), state.flatten(0, 1), **weights)
        return logits.view(B, beam, -1), after.view(B, beam, -1)

    options: dict[str, Any] = {
        "bos": BOS,
        "eos": EOS,
        "max_length": L,
        "length_penalty": LENGTH_PENALTY,
        "n_best": beam,
    }
    return seqops.beam_search(step, h, batch_size=B, beam_size=beam, early_stopping="never", **options).scores


def in_python(h: Tensor, beam: int, L: int, **weights: Tensor) -> Tensor:
    """Log-softmax, sum and top-k over all of [B, beam*V]; whole sequences gathered at each step; a look at each step
    whether all is done. As transformers does it, with its means.
    """
    B, V, k = len(h), len(weights["embed"]), 2 * beam
    h = h.repeat_interleave(beam, 0)
    rows = torch.arange(B, device=h.device)[:, None] * beam
    running = torch.full((B, beam, L + 1), EOS, dtype=torch.int64, device=h.device)
    running[:, :, 0] = BOS
    sequences = running.clone()
    running_scores = torch.zeros(B, beam, dtype=torch.promote_types(h.dtype, torch.float32), device=h.device)
    running_scores[:, 1:] = -1e9
    scores = torch.full_like(running_scores, -1e9)
    finished = torch.zeros(B, beam, dtype=torch.bool, device=h.device)
    improvable = torch.ones(B, 1, dtype=torch.bool, device=h.device)
    top = torch.arange(k, device=h.device) < beam

    def gather(x: Tensor, index: Tensor) -> Tensor:
        return torch.take_along_dim(x, index.view(*index.shape, *[1] * (x.dim() - 2)), 1)

    for t in range(L):
        logits, h = model(running[:, :, t].flatten(), h, **weights)
        log_p = torch.log_softmax(logits.to(running_scores.dtype), -1)
        total = (log_p.view(B, beam, V) + running_scores[:, :, None]).view(B, beam * V)
        best, flat = torch.topk(total, k)
        parents = flat // V
        candidates = gather(running, parents)
        candidates[:, :, t + 1] = flat % V
        ends = (candidates[:, :, t + 1] == EOS) | (t + 1 == L)

        going = best + ends.to(best.dtype) * -1e9
        chosen = torch.topk(going, beam)[1]
        running, running_scores = gather(candidates, chosen), gather(going, chosen)

        ended = ends & top
        value = best / (t + 1) ** LENGTH_PENALTY
        value = value + ~improvable * -1e9 + ~ended * -1e9
        merged = torch.cat((scores, value), 1)
        order = torch.topk(merged, beam)[1]
        sequences = gather(torch.cat((sequences, candidates), 1), order)
        scores = gather(merged, order)
        finished = gather(torch.cat((finished, ended), 1), order)

        h = h.index_select(0, (rows + gather(parents, chosen)).flatten())
        worst = torch.where(finished, scores.amin(1, keepdim=True), -1e9)
        improvable = improvable & (running_scores[:, :1] / L**LENGTH_PENALTY > worst).any(1, keepdim=True)
        if not (improvable.any() & ~ends.all()):
            break
    return scores


def with_sizes(fn: Any) -> Any:
    return lambda p: from_function(fn, beam=p.size["beam"], L=p.size["L"])(p)


def work(p: Problem) -> Work:
    """The model's products and the softmax at each step, and one read of what is given: the cache may keep it."""
    B, beam, V, H, L = p.size.values()
    rows = B * beam
    given = B * H + 2 * V * H + 6 * H * H + V
    return Work(given * getattr(torch, p.dtype).itemsize, L * 2 * rows * (6 * H * H + V * H), exp=L * rows * V)


BENCH = Bench(
    op="beam_search",
    family="decoding",
    cpu=[
        problem(32, 5, 8000, 256, 40),
        problem(1, 5, 8000, 256, 40, quick=True),
        problem(32, 5, 32000, 256, 10),
        problem(8, 4, 250, 64, 20, quick=True),
    ],
    gpu=[problem(32, 5, 8000, 256, 40, "bfloat16"), problem(64, 4, 50257, 512, 40, "bfloat16", quick=True)],
    inputs=inputs,
    reference=with_sizes(in_python),
    providers={"seqops": with_sizes(ours), "in Python": with_sizes(in_python)},
    work=work,
)


def test_beam_search(timed: Any) -> None:
    timed()
