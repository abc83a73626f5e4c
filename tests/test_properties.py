"""Properties that hold for all arguments, on arguments that hypothesis draws.

The same arguments each time; `pytest tests/test_properties.py --hypothesis-profile=thorough` draws many others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES, Case
from conftest import Path
from helpers import LAYOUTS, assert_as_accurate
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from seqops import functional, reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def nearly_tied(logits: Tensor, scores: Tensor, k: int, **options: Any) -> bool:
    """Whether float32 may rank what float64 does not see as equal in another order."""
    best = reference.beam_topk(logits, scores, logits.shape[1] * logits.shape[2], **options)[0][:, : k + 1]
    gaps = -best.diff()
    return bool(((gaps > 0) & (gaps < 1e-4)).any())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@given(data=st.data())
def test_as_accurate_as_the_reference(path: Path, case: Case, data: st.DataObject) -> None:
    """Any sizes, dtype, strides, options, and with or without the optional inputs; every gradient."""
    draw: Callable[..., object] = data.draw
    sizes = {
        name: data.draw(st.integers(0 if name in case.zero else 1, most), label=name)
        for name, most in case.largest.items()
    }
    options = case.options(draw, **sizes)
    # At relu's kink a half's rounding decides between two gradients; where little varies, normalising magnifies it.
    normed = case.name.startswith("layer_norm")
    dtypes = DTYPES[:2] if options.get("nonlinearity") == "relu" or normed else DTYPES
    dtype = data.draw(st.sampled_from(dtypes), label="dtype")
    layout = data.draw(st.sampled_from([o for o in LAYOUTS if o in case.layouts]), label="layout")
    groups = [g for g in case.optional if data.draw(st.booleans(), label=f"without {sorted(g)}")]
    if options.get("reset") is None:
        groups.append(frozenset({"reset_state", "reset_h", "reset_c"}))
    inputs = {n: t for n, t in case.problem(**sizes).items() if n not in frozenset().union(*groups)}
    if case.name == "beam_topk":
        rounded = {n: t.to(dtype).double() for n, t in inputs.items()}
        assume(layout != "expanded" and not nearly_tied(**rounded, **options))
        wide = torch.promote_types(dtype, torch.float32)
        compared = [
            lambda logits, scores, k, op=op, **o: op(logits, scores.to(torch.promote_types(scores.dtype, wide)), k, **o)
            for op in (case.op, case.reference)
        ]
    else:
        compared = [case.op, case.reference]
    options |= {"layout": layout, "drawn": True}
    assert_as_accurate(*compared, inputs, dtype=dtype, device=path.device, **options)


@given(data=st.data())
def test_beam_topk_puts_the_lowest_index_first(path: Path, data: st.DataObject) -> None:
    """Few different values, whose sums are exact: ties within a row, between rows, and of what is impossible."""
    B, beam, V = (data.draw(st.integers(1, most), label=n) for n, most in (("B", 3), ("beam", 4), ("V", 300)))
    k = data.draw(st.integers(1, min(64, beam * V)), label="k")
    seed = data.draw(st.integers(0, 2**31 - 1), label="seed")
    generator = torch.Generator().manual_seed(seed)
    # At the maximum one logit of 0, beside which exp(-200) vanishes: the normalizer is 0 to the bit.
    logits = -200.0 - torch.randint(3, (B, beam, V), generator=generator)
    top = torch.randint(V, (B, beam, 1), generator=generator)
    logits.scatter_(2, top, 0.0)
    impossible = torch.rand(B, beam, V, generator=generator) < data.draw(st.sampled_from([0.0, 0.5]), label="-inf")
    logits = logits.masked_fill(impossible.scatter(2, top, False), -torch.inf)
    scores = -torch.randint(3, (B, beam), generator=generator).float()
    scores.masked_fill_(torch.rand(B, beam, generator=generator) < 0.2, -torch.inf)
    got = functional.beam_topk(logits.to(path.device), scores.to(path.device), k)
    expected = reference.beam_topk(logits.double(), scores.double(), k)
    for name, a, b in zip(("scores", "parents", "tokens"), got, expected, strict=True):
        assert torch.equal(a.cpu().to(b.dtype), b), name
