"""Every public op with what the tests of all ops need: problems of any size, options, and which sizes may be zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from helpers import LAYOUTS, randn
from hypothesis import strategies as st
from torch import Tensor

from seqops import functional, reference
from seqops.embeddings import HuffmanTree

__all__ = ["CASES", "Case", "ids"]


@dataclass(frozen=True)
class Case:
    """An op, or a variant of one, and problems for it.

    `problem(**sizes)` gives the inputs; `largest` names the sizes and bounds what property tests draw; those in `zero`
    may be 0. Of the inputs, any of the groups in `optional` may be left out. `options(draw, **sizes)` draws keyword
    arguments, `usual(**sizes)` gives some. `flat(fn)` takes and gives no tuples.
    """

    label: str
    name: str
    problem: Callable[..., dict[str, Tensor]]
    largest: dict[str, int]
    options: Callable[..., dict[str, Any]]
    zero: frozenset[str]
    optional: tuple[frozenset[str], ...] = ()
    usual: Callable[..., dict[str, Any]] = lambda **_: {}
    flat: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda fn: fn

    @property
    def layouts(self) -> tuple[str, ...]:
        """Of equal rows of weights the products do not vary: normalised they are rounding errors alone, and the
        gradients of their differences are as well.
        """
        differences = ("layer_norm", "sampled_softmax", "bpr")
        return tuple(o for o in LAYOUTS if o != "expanded" or not self.name.startswith(differences))

    @property
    def op(self) -> Callable[..., Any]:
        return self.flat(getattr(functional, self.name))

    @property
    def reference(self) -> Callable[..., Any]:
        return self.flat(getattr(reference, self.name))


def weights(I: int, H: int, gates: int, P: int | None = None) -> dict[str, Tensor]:
    scale = max(1, H) ** -0.5
    return {
        "w_ih": randn(gates * H, I, seed=3, scale=scale),
        "w_hh": randn(gates * H, H if P is None else P, seed=4, scale=scale),
        "b_ih": randn(gates * H, seed=5, scale=scale),
        "b_hh": randn(gates * H, seed=6, scale=scale),
    }


def rnn_cell(B: int, I: int, H: int) -> dict[str, Tensor]:
    return {"x": randn(B, I, seed=1), "h": randn(B, H, seed=2), **weights(I, H, 1)}


def gru_cell(B: int, I: int, H: int) -> dict[str, Tensor]:
    return {"x": randn(B, I, seed=1), "h": randn(B, H, seed=2), **weights(I, H, 3)}


def lstm_cell(B: int, I: int, H: int) -> dict[str, Tensor]:
    return {"x": randn(B, I, seed=1), "h": randn(B, H, seed=2), "c": randn(B, H, seed=7), **weights(I, H, 4)}


def rnn(T: int, B: int, I: int, H: int) -> dict[str, Tensor]:
    return {"x": randn(T, B, I, seed=1), "h0": randn(B, H, seed=2), **weights(I, H, 1)}


def gru(T: int, B: int, I: int, H: int) -> dict[str, Tensor]:
    return {"x": randn(T, B, I, seed=1), "h0": randn(B, H, seed=2), **weights(I, H, 3)}


def lstm(T: int, B: int, I: int, H: int, P: int | None = None) -> dict[str, Tensor]:
    inputs = {"x": randn(T, B, I, seed=1), "h0": randn(B, H if P is None else P, seed=2), "c0": randn(B, H, seed=7)}
    inputs |= weights(I, H, 4, P)
    return inputs if P is None else inputs | {"w_hr": randn(P, H, seed=8, scale=max(1, H) ** -0.5)}


def normed(
    problem: Callable[..., dict[str, Tensor]], *, joint: bool = False, cell: bool = False
) -> Callable[..., dict[str, Tensor]]:
    """With the gains of layer normalisation."""

    def make(H: int, **sizes: int) -> dict[str, Tensor]:
        inputs = problem(H=H, **sizes)
        width = inputs["w_hh"].shape[0]
        norms = {"gamma_ih": width, "gamma_hh": width, "gamma_c": H, "beta_c": H}
        names = [n for n in norms if (n != "gamma_ih" or not joint) and (cell or not n.endswith("_c"))]
        # Gains of which no gradient at small sizes is the little that two rows leave of each other.
        return inputs | {n: 1 + randn(norms[n], seed=70 + i, scale=0.3) for i, n in enumerate(names)}

    return make


def in_heads(problem: Callable[..., dict[str, Tensor]], heads: int) -> Callable[..., dict[str, Tensor]]:
    """The hidden size is `heads` times D, and W_hh holds blocks."""

    def make(D: int, **sizes: int) -> dict[str, Tensor]:
        inputs = problem(H=heads * D, **sizes)
        return inputs | {"w_hh": inputs["w_hh"][:, :D].contiguous()}

    return make


def resettable(problem: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """With the state that resets put in place."""

    def make(**sizes: int) -> dict[str, Tensor]:
        inputs = problem(**sizes)
        states = {"reset_state": "h0"} if "c0" not in inputs else {"reset_h": "h0", "reset_c": "c0"}
        return inputs | {n: randn(*inputs[s].shape, seed=9 + i) for i, (n, s) in enumerate(states.items())}

    return make


def resets(T: int, B: int) -> Tensor:
    """Now and then, and at the very first step of one item."""
    reset = randn(T, B, seed=13) > 0.7
    reset[:1, :1] = True
    return reset


def lengths(draw: Callable[..., Any], B: int, T: int) -> Tensor | None:
    if not draw(st.booleans(), label="with lengths"):
        return None
    return torch.tensor(draw(st.lists(st.integers(0, T), min_size=B, max_size=B), label="lengths"), dtype=torch.int64)


def sequence_options(draw: Callable[..., Any], T: int, B: int, **_: int) -> dict[str, Any]:
    options = {"reverse": draw(st.booleans(), label="reverse"), "lengths": lengths(draw, B, T)}
    chance = draw(st.sampled_from([None, 0.0, 0.2, 1.0]), label="chance of a reset")
    if chance is not None:
        seed = draw(st.integers(0, 9), label="resets' seed")
        options["reset"] = torch.rand(T, B, generator=torch.Generator().manual_seed(seed)) < chance
    return options


def regularized(draw: Callable[..., Any], T: int, B: int, H: int, P: int | None = None, **_: int) -> dict[str, Any]:
    """Recurrent dropout and zoneout, each now and then."""
    wide = H if P is None else P
    options: dict[str, Any] = {}
    if draw(st.booleans(), label="recurrent_mask"):
        options["recurrent_mask"] = 1.5 * (randn(B, wide, seed=14) > 0)
    kind = draw(st.sampled_from([None, "mask", "share", "number"]), label="zoneout")
    if kind is not None:
        share = randn(T, B, wide, seed=15).abs() % 1
        options["zoneout"] = {"mask": share > 0.5, "share": share, "number": 0.25}[kind]
    return options


def rnn_options(draw: Callable[..., Any], **sizes: int) -> dict[str, Any]:
    nonlinearity = draw(st.sampled_from(["tanh", "relu"]), label="nonlinearity")
    options = {"nonlinearity": nonlinearity}
    return options | (sequence_options(draw, **sizes) | regularized(draw, **sizes) if "T" in sizes else {})


def gru_options(draw: Callable[..., Any], **sizes: int) -> dict[str, Any]:
    reset_after = draw(st.booleans(), label="reset_after")
    options = {"reset_after": reset_after}
    return options | (sequence_options(draw, **sizes) | regularized(draw, **sizes) if "T" in sizes else {})


def lstm_options(draw: Callable[..., Any], **sizes: int) -> dict[str, Any]:
    options = {"return_cells": draw(st.booleans(), label="return_cells")} | sequence_options(draw, **sizes)
    options |= regularized(draw, **sizes)
    if draw(st.booleans(), label="zoneout of c"):
        options["zoneout_c"] = randn(sizes["T"], sizes["B"], sizes["H"], seed=16).abs() % 1
    return options


def flat_lstm_cell(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, h, c, **rest: fn(x, (h, c), **rest)


def flat_lstm(fn: Callable[..., Any]) -> Callable[..., Any]:
    def flat(
        x: Any, h0: Any, c0: Any, reset_h: Any = None, reset_c: Any = None, zoneout_c: Any = None, **rest: Any
    ) -> tuple[Tensor, ...]:
        if zoneout_c is not None:
            rest["zoneout"] = (rest.get("zoneout"), zoneout_c)
        y, (h_n, c_n), *cells = fn(x, (h0, c0), reset_state=None if reset_h is None else (reset_h, reset_c), **rest)
        return y, h_n, c_n, *cells

    return flat


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


def beam_options(draw: Callable[..., Any], B: int, beam: int, V: int) -> dict[str, Any]:
    options: dict[str, Any] = {"k": draw(st.integers(1, min(70, beam * V)), label="k")}
    shape = draw(st.sampled_from([None, (V,), (B, V), (B, beam, V)]), label="mask's shape")
    if shape is not None:
        options["mask"] = randn(*shape, seed=draw(st.integers(0, 9), label="mask's seed")) > draw(
            st.sampled_from([-1.0, 1.0])
        )
    if draw(st.booleans(), label="normalized"):
        return options | {"normalized": True}
    return options | {"temperature": draw(st.sampled_from([1.0, 0.5, 3.0]), label="temperature")}


def norm_options(joint: bool, norm_cell: bool | None = None) -> Callable[..., dict[str, Any]]:
    # With the usual 1e-5 the rounding of what hardly varies is made 300 times larger, in the reference too.
    fixed: dict[str, Any] = {"joint": joint, "eps": 1.0} | ({} if norm_cell is None else {"norm_cell": norm_cell})

    def options(draw: Callable[..., Any], **sizes: int) -> dict[str, Any]:
        if "T" not in sizes:
            return fixed
        return sequence_options(draw, **sizes) | regularized(draw, **sizes) | fixed

    return options


def pairs(V: int, D: int, B: int, rows: int, other: str) -> dict[str, Tensor]:
    """Two tables of V and `rows` rows, small so that sigmoid has its slope, and weights of the pairs."""
    return {
        "in_weight": randn(V, D, seed=1, scale=0.5),
        other: randn(rows, D, seed=2),
        "weight": randn(B, seed=3).abs(),
    }


def ids(*shape: int, below: int, seed: int, low: int = 0, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(low, below, shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def negative_sampling_loss(B: int, K: int, V: int, D: int, W: int = 0) -> dict[str, Tensor]:
    return pairs(V, D, B, V, "out_weight")


def hierarchical_softmax_loss(B: int, V: int, D: int, W: int = 0) -> dict[str, Tensor]:
    return pairs(V, D, B, max(0, V - 1), "node_weight")


def center_and_target(B: int, V: int, W: int | None = None, low: int = -1, seed: int = 0, **_: int) -> dict[str, Any]:
    center = ids(B, *(() if W is None else (W,)), below=V, seed=11 + seed, low=low)
    return {"center": center, "target": ids(B, below=V, seed=12 + seed, low=low), "reduction": "none"}


def linear_cross_entropy(N: int, V: int, D: int) -> dict[str, Tensor]:
    weights = {"linear_weight": randn(V, D, seed=2), "linear_bias": randn(V, seed=3)}
    return {"input": randn(N, D, seed=1, scale=max(1, D) ** -0.5), **weights}


def cross_entropy_usual(N: int, V: int, **_: int) -> dict[str, Any]:
    return {"target": ids(N, below=V, seed=11, low=-1), "ignore_index": -1, "reduction": "none"}


def cross_entropy_mean(N: int, V: int, **_: int) -> dict[str, Any]:
    weight = {"weight": randn(V, seed=12).abs(), "label_smoothing": 0.125}
    return {"target": ids(N, below=V, seed=11), "reduction": "mean"} | weight


def cross_entropy_options(draw: Callable[..., Any], N: int, V: int, **_: int) -> dict[str, Any]:
    target = ids(N, below=V, seed=draw(st.integers(0, 9), label="targets' seed"))
    options: dict[str, Any] = {"target": target.to(draw(st.sampled_from([torch.int32, torch.int64])))}
    options["ignore_index"] = draw(st.integers(-1, V), label="ignore_index")
    if draw(st.booleans(), label="weight"):
        options["weight"] = randn(V, seed=12).abs()
    options["label_smoothing"] = draw(st.sampled_from([0.0, 0.125, 1.0]), label="label_smoothing")
    return options | {"reduction": draw(st.sampled_from(["none", "sum", "mean"]), label="reduction")}


def glove_loss(N: int, V: int, D: int) -> dict[str, Tensor]:
    return {
        "weight": randn(V, D, seed=1, scale=0.5),
        "context_weight": randn(V + 1, D, seed=2),
        "bias": randn(V, seed=3),
        "context_bias": randn(V + 1, seed=4),
    }


def glove_usual(N: int, V: int, low: int = -1, seed: int = 0, **_: int) -> dict[str, Any]:
    pairs = {"i": ids(N, below=V, seed=11 + seed, low=low), "j": ids(N, below=V + 1, seed=12 + seed, low=low)}
    return pairs | {"x": randn(N, seed=13 + seed).exp(), "x_max": 2.0, "reduction": "none"}


def glove_options(draw: Callable[..., Any], N: int, V: int, **_: int) -> dict[str, Any]:
    low = draw(st.sampled_from([-1, 0]), label="lowest id")
    options = glove_usual(N, V, low, draw(st.integers(0, 9), label="ids' seed"))
    options["i"] = options["i"].to(draw(st.sampled_from([torch.int32, torch.int64])))
    options["alpha"] = draw(st.sampled_from([0.75, 0.0, 1.0]), label="alpha")
    return options | {"reduction": draw(st.sampled_from(["none", "sum", "mean"]), label="reduction")}


def tree_counts(V: int) -> list[int]:
    return [1 + 5 * v % 7 + 40 * (v == V - 1) for v in range(V)]


def negative_sampling_usual(B: int, K: int, V: int, **sizes: int) -> dict[str, Any]:
    return center_and_target(B, V, **sizes) | {"negatives": ids(B, K, below=V, seed=13)}


def hierarchical_softmax_usual(B: int, V: int, **sizes: int) -> dict[str, Any]:
    return center_and_target(B, V, **sizes) | {"counts": tree_counts(V)}


def pair_options(draw: Callable[..., Any], B: int, V: int, W: int | None = None, **_: int) -> dict[str, Any]:
    seed, dtype = draw(st.integers(0, 9), label="ids' seed"), draw(st.sampled_from([torch.int32, torch.int64]))
    options = center_and_target(B, V, W, low=draw(st.sampled_from([-1, 0]), label="lowest id"), seed=seed)
    options["center"] = options["center"].to(dtype)
    options["padding_idx"] = draw(st.one_of(st.none(), st.integers(0, V - 1)), label="padding_idx")
    options["mode"] = draw(st.sampled_from(["mean", "sum"]), label="mode")
    return options | {"reduction": draw(st.sampled_from(["none", "sum", "mean"]), label="reduction")}


def negative_sampling_options(draw: Callable[..., Any], B: int, K: int, V: int, **sizes: int) -> dict[str, Any]:
    options = pair_options(draw, B=B, V=V, **sizes)
    options["negatives"] = ids(B, K, below=V, seed=draw(st.integers(0, 9), label="negatives' seed"), low=-1)
    options["positive_weight"] = draw(st.sampled_from([1.0, 0.3]), label="positive_weight")
    return options | {"collision": draw(st.sampled_from(["skip", "keep"]), label="collision")}


def sampled_loss(B: int, K: int, V: int, D: int, W: int = 0) -> dict[str, Tensor]:
    return pairs(V, D, B, V, "out_weight") | {"bias": randn(V, seed=4)}


def log_q(V: int) -> Tensor:
    """Of classes that differ; float32 values."""
    return torch.log_softmax(randn(V, seed=14), 0).float().double()


def corrected_usual(V: int, **sizes: int) -> dict[str, Any]:
    return negative_sampling_usual(V=V, **sizes) | {"log_q": log_q(V)}


def sampled_options(draw: Callable[..., Any], B: int, K: int, V: int, **sizes: int) -> dict[str, Any]:
    options = negative_sampling_options(draw, B=B, K=K, V=V, **sizes)
    del options["positive_weight"]
    return options


def corrected_options(draw: Callable[..., Any], V: int, **sizes: int) -> dict[str, Any]:
    return sampled_options(draw, V=V, **sizes) | {"log_q": log_q(V)}


def in_batch_softmax_loss(B: int, D: int) -> dict[str, Tensor]:
    return {"query": randn(B, D, seed=1), "key": randn(B, D, seed=2), "weight": randn(B, seed=3).abs()}


def in_batch_options(draw: Callable[..., Any], B: int, **_: int) -> dict[str, Any]:
    options: dict[str, Any] = {"reduction": draw(st.sampled_from(["none", "sum", "mean"]), label="reduction")}
    if draw(st.booleans(), label="log_q"):
        options["log_q"] = log_q(max(1, B))[:B]
    if draw(st.booleans(), label="ids"):
        options["ids"] = ids(B, below=max(1, B // 2), seed=5)
    return options | {"temperature": draw(st.sampled_from([1.0, 0.5]), label="temperature")}


def hierarchical_softmax_options(draw: Callable[..., Any], V: int, **sizes: int) -> dict[str, Any]:
    return pair_options(draw, V=V, **sizes) | {"counts": tree_counts(V)}


def with_tree(fn: Callable[..., Any]) -> Callable[..., Any]:
    def flat(in_weight: Any, counts: list[int], **rest: Any) -> Any:
        return fn(in_weight, tree=HuffmanTree(counts, device=getattr(in_weight, "device", None)), **rest)

    return flat


def no_options(draw: Callable[..., Any], **_: int) -> dict[str, Any]:
    return {}


BIASES = (frozenset({"b_ih"}), frozenset({"b_hh"}))
STEP, SEQUENCE = {"B": 20, "I": 5, "H": 20}, {"T": 5, "B": 20, "I": 5, "H": 20}
LSTM = {"options": lstm_options, "optional": (*BIASES, frozenset({"reset_h", "reset_c"})), "flat": flat_lstm}


def usual(**fixed: Any) -> Callable[..., dict[str, Any]]:
    return lambda T, B, **_: {"reset": resets(T, B), **fixed}


def regular(heads: int = 1, **fixed: Any) -> dict[str, Any]:
    """The options of a case with recurrent dropout, zoneout and, where there are several, heads."""

    def usual(T: int, B: int, H: int = 0, D: int = 0, **_: int) -> dict[str, Any]:
        wide = H or heads * D
        share = randn(T, B, wide, seed=15).abs() % 1
        options = {"recurrent_mask": 1.5 * (randn(B, wide, seed=14) > 0), "zoneout": share, "heads": heads}
        return options | {"reset": resets(T, B)} | fixed

    def drawn(draw: Callable[..., Any], T: int, B: int, D: int, **_: int) -> dict[str, Any]:
        return sequence_options(draw, T=T, B=B) | regularized(draw, T, B, heads * D) | {"heads": heads} | fixed

    return {"usual": usual, "options": drawn}


CASES = {
    case.label: case
    for case in (
        Case("rnn_cell", "rnn_cell", rnn_cell, STEP, rnn_options, frozenset("BIH"), BIASES),
        Case("gru_cell", "gru_cell", gru_cell, STEP, gru_options, frozenset("BIH"), BIASES),
        Case("lstm_cell", "lstm_cell", lstm_cell, STEP, no_options, frozenset("BIH"), BIASES, flat=flat_lstm_cell),
        *(
            Case(
                label,
                name,
                resettable(problem),
                SEQUENCE,
                options,
                frozenset("TBIH"),
                (*BIASES, frozenset({"reset_state"})),
                usual(**fixed),
            )
            for label, name, problem, options, fixed in (
                ("rnn", "rnn", rnn, rnn_options, {}),
                ("rnn with relu", "rnn", rnn, rnn_options, {"nonlinearity": "relu"}),
                ("gru", "gru", gru, gru_options, {}),
                ("gru of Cho", "gru", gru, gru_options, {"reset_after": False}),
            )
        ),
        Case(
            "lstm", "lstm", resettable(lstm), SEQUENCE, zero=frozenset("TBIH"), usual=usual(return_cells=True), **LSTM
        ),
        Case("lstm as torch has it", "lstm", lstm, SEQUENCE, zero=frozenset("TBIH"), **LSTM | {"optional": BIASES}),
        Case(
            "lstm with projection",
            "lstm",
            resettable(lstm),
            SEQUENCE | {"P": 20},
            zero=frozenset("TBIHP"),
            usual=usual(return_cells=True),
            **LSTM,
        ),
        *(
            Case(
                label,
                name,
                resettable(in_heads(problem, 3)),
                {"T": 5, "B": 20, "I": 5, "D": 7},
                zero=frozenset("TBID"),
                optional=(*BIASES, frozenset({"reset_state", "reset_h", "reset_c"})),
                flat=flat,
                **regular(3, **fixed),
            )
            for label, name, problem, flat, fixed in (
                ("rnn with heads", "rnn", rnn, lambda fn: fn, {}),
                ("gru with heads", "gru", gru, lambda fn: fn, {}),
                ("gru with heads alone", "gru", gru, lambda fn: fn, {"recurrent_mask": None, "zoneout": None}),
                ("gru of Cho with heads", "gru", gru, lambda fn: fn, {"reset_after": False}),
                ("lstm with heads", "lstm", lstm, flat_lstm, {}),
            )
        ),
        *(
            Case(
                f"layer_norm_gru_cell{label}",
                "layer_norm_gru_cell",
                normed(gru_cell, joint=joint),
                STEP,
                norm_options(joint),
                frozenset("BI"),
                (*BIASES, frozenset({"gamma_ih"}), frozenset({"gamma_hh"})),
                lambda joint=joint, **_: {"joint": joint, "eps": 0.01},
            )
            for label, joint in (("", False), (" joint", True))
        ),
        *(
            Case(
                f"layer_norm_gru{label}",
                "layer_norm_gru",
                resettable(normed(gru, joint=joint)),
                SEQUENCE,
                norm_options(joint),
                frozenset("TBI"),
                (*BIASES, frozenset({"gamma_ih"}), frozenset({"gamma_hh"}), frozenset({"reset_state"})),
                usual(joint=joint, eps=0.01),
            )
            for label, joint in (("", False), (" joint", True))
        ),
        *(
            Case(
                f"layer_norm_lstm_cell{label}",
                "layer_norm_lstm_cell",
                normed(lstm_cell, joint=joint, cell=cell),
                STEP,
                norm_options(joint, cell),
                frozenset("BI"),
                (*BIASES, *(frozenset({n}) for n in ("gamma_ih", "gamma_hh", "gamma_c", "beta_c"))),
                lambda joint=joint, cell=cell, **_: {"joint": joint, "norm_cell": cell, "eps": 0.01},
                flat_lstm_cell,
            )
            for label, joint, cell in (("", False, True), (" joint", True, False))
        ),
        *(
            Case(
                f"layer_norm_lstm{label}",
                "layer_norm_lstm",
                resettable(normed(lstm, joint=joint, cell=cell)),
                SEQUENCE,
                norm_options(joint, cell),
                frozenset("TBI"),
                (
                    *BIASES,
                    *(frozenset({n}) for n in ("gamma_ih", "gamma_hh", "gamma_c", "beta_c")),
                    frozenset({"reset_h", "reset_c"}),
                ),
                usual(joint=joint, norm_cell=cell, eps=0.01, return_cells=True),
                flat_lstm,
            )
            for label, joint, cell in (("", False, True), (" joint", True, False))
        ),
        Case(
            "additive_attention",
            "additive_attention",
            additive_attention,
            {"B": 3, "Q": 9, "T": 20, "D": 36, "E": 5},
            attention_options,
            frozenset("BQTDE"),
            usual=lambda **_: {"need_weights": True},
        ),
        Case(
            "beam_topk",
            "beam_topk",
            beam_topk,
            {"B": 3, "beam": 4, "V": 300},
            beam_options,
            frozenset("B"),
            usual=lambda **_: {"k": 1},
        ),
        *(
            Case(
                f"negative_sampling_loss{label}",
                "negative_sampling_loss",
                negative_sampling_loss,
                {"B": 40, "K": 5, "V": 9, "D": 20} | sizes,
                negative_sampling_options,
                frozenset("BKD") | frozenset(sizes),
                (frozenset({"weight"}),),
                negative_sampling_usual,
            )
            for label, sizes in (("", {}), (" of bags", {"W": 4}))
        ),
        *(
            Case(
                f"hierarchical_softmax_loss{label}",
                "hierarchical_softmax_loss",
                hierarchical_softmax_loss,
                {"B": 40, "V": 9, "D": 20} | sizes,
                hierarchical_softmax_options,
                frozenset("BD") | frozenset(sizes),
                (frozenset({"weight"}),),
                hierarchical_softmax_usual,
                with_tree,
            )
            for label, sizes in (("", {}), (" of bags", {"W": 4}))
        ),
        *(
            Case(
                f"{name}{label}",
                name,
                sampled_loss,
                {"B": 40, "K": 5, "V": 9, "D": 20} | sizes,
                options,
                frozenset("BKD") | frozenset(sizes),
                (frozenset({"weight"}), frozenset({"bias"})),
                usual,
            )
            for name, options, usual in (
                ("sampled_softmax_loss", corrected_options, corrected_usual),
                ("nce_loss", corrected_options, corrected_usual),
                ("bpr_loss", sampled_options, negative_sampling_usual),
            )
            for label, sizes in (("", {}), (" of bags", {"W": 4}))
        ),
        Case(
            "in_batch_softmax_loss",
            "in_batch_softmax_loss",
            in_batch_softmax_loss,
            {"B": 12, "D": 20},
            in_batch_options,
            frozenset("BD"),
            (frozenset({"weight"}),),
            lambda **_: {"reduction": "none"},
        ),
        *(
            Case(
                f"linear_cross_entropy{label}",
                "linear_cross_entropy",
                linear_cross_entropy,
                {"N": 40, "V": 9, "D": 20},
                cross_entropy_options,
                frozenset("ND"),
                (frozenset({"linear_bias"}),),
                usual,
            )
            for label, usual in (("", cross_entropy_usual), (" mean", cross_entropy_mean))
        ),
        Case(
            "glove_loss",
            "glove_loss",
            glove_loss,
            {"N": 40, "V": 9, "D": 20},
            glove_options,
            frozenset("ND"),
            usual=glove_usual,
        ),
    )
}
