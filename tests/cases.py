"""Every public op with what the tests of all ops need: problems of any size, options, and which sizes may be zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from helpers import randn
from hypothesis import strategies as st
from torch import Tensor

from seqops import functional, reference

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """`problem(**sizes)` gives the inputs; `largest` names the sizes and bounds what property tests draw.

    `optional` inputs are left out as one. `options(draw, **sizes)` draws keyword arguments.
    """

    name: str
    problem: Callable[..., dict[str, Tensor]]
    largest: dict[str, int]
    options: Callable[..., dict[str, Any]]
    zero: frozenset[str]
    optional: frozenset[str] = frozenset()
    usual: dict[str, Any] = field(default_factory=dict)

    @property
    def op(self) -> Callable[..., Any]:
        return getattr(functional, self.name)

    @property
    def reference(self) -> Callable[..., Any]:
        return getattr(reference, self.name)


def gru_weights(I: int, H: int, gates: int = 3) -> dict[str, Tensor]:
    scale = max(1, H) ** -0.5
    return {
        "w_ih": randn(gates * H, I, seed=3, scale=scale),
        "w_hh": randn(gates * H, H, seed=4, scale=scale),
        "b_ih": randn(gates * H, seed=5, scale=scale),
        "b_hh": randn(gates * H, seed=6, scale=scale),
    }


def gru_cell(B: int, I: int, H: int) -> dict[str, Tensor]:
    return {"x": randn(B, I, seed=1), "h": randn(B, H, seed=2), **gru_weights(I, H)}


def gru(T: int, B: int, I: int, H: int) -> dict[str, Tensor]:
    return {"x": randn(T, B, I, seed=1), "h0": randn(B, H, seed=2), **gru_weights(I, H)}


def lengths(draw: Callable[..., Any], B: int, T: int) -> Tensor | None:
    if not draw(st.booleans(), label="with lengths"):
        return None
    return torch.tensor(draw(st.lists(st.integers(0, T), min_size=B, max_size=B), label="lengths"), dtype=torch.int64)


def gru_options(draw: Callable[..., Any], T: int, B: int, **_: int) -> dict[str, Any]:
    return {"reverse": draw(st.booleans(), label="reverse"), "lengths": lengths(draw, B, T)}


def additive_attention(B: int, Q: int, T: int, D: int, E: int, scale: float = 1.0) -> dict[str, Tensor]:
    return {
        "query": randn(B, Q, D, seed=1),
        "keys": randn(B, T, D, seed=2),
        "values": randn(B, T, E, seed=3),
        "v": randn(D, seed=4, scale=scale),
    }


def attention_options(draw: Callable[..., Any], B: int, Q: int, T: int, **_: int) -> dict[str, Any]:
    mask = None
    shape = draw(st.sampled_from([None, (B, T), (B, Q, T)]), label="mask's shape")
    if shape is not None:
        mask = randn(*shape, seed=draw(st.integers(0, 9), label="mask's seed")) > draw(
            st.sampled_from([-1.0, 0.0, 1.0])
        )
    return {"need_weights": draw(st.booleans(), label="need_weights"), "mask": mask, "lengths": lengths(draw, B, T)}


def beam_topk(B: int, beam: int, V: int, seed: int = 0) -> dict[str, Tensor]:
    return {"logits": randn(B, beam, V, seed=seed, scale=3.0), "scores": -randn(B, beam, seed=seed + 1).abs()}


def beam_options(draw: Callable[..., Any], beam: int, V: int, **_: int) -> dict[str, Any]:
    return {"k": draw(st.integers(1, min(64, beam * V)), label="k")}


def no_options(draw: Callable[..., Any], **_: int) -> dict[str, Any]:
    return {}


BIASES = frozenset({"b_ih", "b_hh"})
CASES = {
    case.name: case
    for case in (
        Case("gru_cell", gru_cell, {"B": 20, "I": 5, "H": 20}, no_options, frozenset("BIH"), BIASES),
        Case("gru", gru, {"T": 5, "B": 20, "I": 5, "H": 20}, gru_options, frozenset("TBIH"), BIASES),
        Case(
            "additive_attention",
            additive_attention,
            {"B": 3, "Q": 9, "T": 20, "D": 36, "E": 5},
            attention_options,
            frozenset("BQTDE"),
            usual={"need_weights": True},
        ),
        Case("beam_topk", beam_topk, {"B": 3, "beam": 4, "V": 300}, beam_options, frozenset("B"), usual={"k": 1}),
    )
}
