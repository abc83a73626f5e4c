"""Top-k with log-probabilities, and draws whose frequencies are the probabilities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import randn

from seqops import sample, topk_logprobs

pytestmark = pytest.mark.usefixtures("cpu_path")

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("shape", [(7,), (2, 9), (2, 3, 130)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_topk_logprobs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = (randn(*shape, seed=1) * 3).to(dtype)
    mask = randn(*shape, seed=2) > -0.5
    for masks in (None, mask, mask.flatten()[: shape[-1]]):
        got = topk_logprobs(logits, 4, temperature=0.7, mask=masks)
        log_p = torch.log_softmax(logits.double() / 0.7, -1)
        log_p = log_p if masks is None else log_p.masked_fill(~masks, -INF)
        best, tokens = log_p.sort(dim=-1, descending=True, stable=True)
        assert torch.equal(got.tokens, tokens[..., :4])
        torch.testing.assert_close(got.log_probs.double(), best[..., :4], rtol=1e-5, atol=1e-5)
        assert got.log_probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_topk_logprobs_has_a_gradient() -> None:
    logits = randn(3, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: topk_logprobs(x, 2).log_probs, logits)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"top_p": 0.6}, {"top_k": 4, "top_p": 0.8}, {"temperature": 0.5}]
)
def test_frequencies(options: dict[str, Any]) -> None:
    logits = torch.tensor([0.3, 2.0, -1.0, 1.2, -INF, 0.9, 0.0]).double()
    p = torch.softmax(logits / options.get("temperature", 1.0), 0)
    expected = p.clone()
    order = p.argsort(descending=True)
    if "top_k" in options:
        expected[order[options["top_k"] :]] = 0
        expected /= expected.sum()
    if "top_p" in options:
        before = expected[order].cumsum(0) - expected[order]
        expected[order[before >= options["top_p"]]] = 0
        expected /= expected.sum()
    n = 20_000
    got = sample(logits.expand(n, 7), generator=torch.Generator().manual_seed(0), **options)
    share = torch.bincount(got.tokens, minlength=7) / n
    assert not share[expected == 0].any()
    # Five standard deviations.
    assert ((share - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt()).all()
    torch.testing.assert_close(got.log_probs, p.log()[got.tokens])


def test_the_generator_decides() -> None:
    logits = randn(50, 11, seed=3)
    one, same, other = (sample(logits, generator=torch.Generator().manual_seed(s)).tokens for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.manual_seed(4)
    first = sample(logits).tokens
    torch.manual_seed(4)
    assert torch.equal(sample(logits).tokens, first)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-9}])
def test_the_most_probable_alone_is_greedy(options: dict[str, Any]) -> None:
    logits = randn(4, 5, 33, seed=1).float()
    assert torch.equal(sample(logits, **options).tokens, logits.argmax(-1))


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.5}])
def test_rows_without_a_token(options: dict[str, Any]) -> None:
    got = sample(torch.tensor([[-INF] * 4, [0.0, NAN, 0, 0]]), **options)
    assert got.tokens[0] == 0
    assert got.log_probs[0] == -INF
    assert got.log_probs[1].isnan()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "sample: temperature must be above 0 and finite, got 0"),
        ({"top_k": 0}, ValueError, "sample: top_k must be at least 1, got 0"),
        ({"top_p": 1.5}, ValueError, r"sample: top_p must lie in \(0, 1\], got 1.5"),
        ({"top_p": math.nan}, ValueError, "sample: top_p must lie"),
        ({"logits": torch.zeros(2, 0)}, ValueError, r"sample: logits must have shape \[..., V\]"),
        ({"logits": torch.zeros(2, 3).long()}, TypeError, "sample: logits must be"),
    ],
)
def test_sample_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample(**({"logits": torch.zeros(2, 3)} | options))


def test_topk_logprobs_errors() -> None:
    with pytest.raises(ValueError, match=r"topk_logprobs: k must lie in 1..3, got 4"):
        topk_logprobs(torch.zeros(2, 3), 4)
    with pytest.raises(ValueError, match=r"topk_logprobs: mask must have shape \[3\] or \[2, 3\], got \[2, 1\]"):
        topk_logprobs(torch.zeros(2, 3), 1, mask=torch.ones(2, 1, dtype=torch.bool))
