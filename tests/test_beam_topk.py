"""beam_topk against a stable descending sort in float64, in its indices exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import beam_topk as problem
from conftest import Path
from helpers import assert_as_accurate, randn
from torch import Tensor

from seqops import reference
from seqops.cpu import beam_topk as cpu_beam_topk
from seqops.functional import BeamTopK, beam_topk

INF, NAN = float("inf"), float("nan")

# B, beam, V: a row shorter than a chunk, one chunk and a bit, several programs a row, groups of chunks
SHAPES = [(1, 1, 1), (3, 3, 1), (2, 3, 31), (1, 5, 130), (2, 1, 1000), (1, 3, 5000)]


def steps(B: int, beam: int, V: int, seed: int = 0) -> Tensor:
    """Logits whose normalizer has no rounding that could differ: 0 or below -200, where exp vanishes beside 1.

    The multiset is the same in each row, so that values tie within a row and between rows.
    """
    row = -200.0 - torch.arange(V) // 3
    row[: max(1, V // 4)] = 0.0
    generator = torch.Generator().manual_seed(seed)
    rows = [row[torch.randperm(V, generator=generator)] for _ in range(B * beam)]
    return torch.stack(rows).view(B, beam, V)


def sorted_topk(logits: Tensor, scores: Tensor, k: int) -> BeamTopK:
    return BeamTopK(*reference.beam_topk(logits.cpu(), scores.cpu(), k))


def assert_same(got: BeamTopK, expected: BeamTopK) -> None:
    assert torch.equal(got.parents.cpu(), expected.parents)
    assert torch.equal(got.tokens.cpu(), expected.tokens)
    torch.testing.assert_close(
        got.scores.cpu().double(), expected.scores.double(), rtol=1e-6, atol=1e-6, equal_nan=True
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_beam_topk(path: Path, shape: tuple[int, int, int]) -> None:
    B, beam, V = shape
    inputs = problem(B, beam, V)
    logits, scores = (t.float().to(path.device) for t in inputs.values())
    for k in sorted({1, 2, 7, 64, V + 1, beam * V} & set(range(1, min(beam * V, 500) + 1))):
        expected = sorted_topk(inputs["logits"], inputs["scores"], k)
        # Fair to fp32: float64's neighbours are further apart than its rounding.
        assert k == 1 or (expected.scores.diff() < -2e-6).all()
        got = beam_topk(logits, scores, k)
        assert got.scores.dtype == torch.float32
        assert got.parents.dtype == got.tokens.dtype == torch.int64
        assert_same(got, expected)


@pytest.mark.parametrize("k", [1, 5, 16, 40])
@pytest.mark.parametrize("shape", [(2, 3, 31), (1, 5, 130), (1, 2, 1500), (1, 3, 6000)])
def test_ties_go_to_the_lowest_index(path: Path, shape: tuple[int, int, int], k: int) -> None:
    B, beam, V = shape
    logits, scores = steps(B, beam, V).to(path.device), torch.zeros(B, beam, device=path.device)
    assert_same(beam_topk(logits, scores, k), sorted_topk(logits, scores, k))
    # Ties between a beam ahead with lower logits and one behind: 0 - 5 = -5 + 0 beside the normalizer.
    scores[:, 0] = -5.0
    logits[:, 1:] -= 5.0
    assert_same(beam_topk(logits, scores, k), sorted_topk(logits, scores, k))


def test_equal_logits(path: Path) -> None:
    logits, scores = torch.zeros(2, 4, 300, device=path.device), torch.zeros(2, 4, device=path.device)
    got = beam_topk(logits, scores, 33)
    assert torch.equal(got.tokens.cpu(), torch.arange(33).expand(2, 33))
    assert not got.parents.any()


@pytest.mark.parametrize("V", [4, 140, 1100])
def test_minus_inf(path: Path, V: int) -> None:
    logits = steps(4, 3, V)
    logits[0, :, 2:] = -INF  # fewer candidates than k
    logits[1, 1] = -INF  # an impossible row
    logits[2] = -INF
    scores = torch.zeros(4, 3)
    scores[3, 1:] = -INF  # empty beams, as in the first step of a search
    scores[1, 1] = 7.0
    logits, scores = logits.to(path.device), scores.to(path.device)
    for k in (1, 9, 12):
        got = beam_topk(logits, scores, k)
        assert_same(got, sorted_topk(logits, scores, k))
        assert not got.scores.isnan().any()
    assert (got.scores[2] == -INF).all()
    assert got.tokens[2].tolist() == [i % V for i in range(12)]


@pytest.mark.parametrize("V", [5, 300, 2100])
def test_nan_ranks_first(path: Path, V: int) -> None:
    logits = steps(4, 3, V)
    scores = torch.zeros(4, 3)
    logits[0, 1, V - 2] = NAN  # makes all of its row NaN
    logits[1, 2] = NAN
    logits[1, 0] = -INF
    scores[2, 1] = NAN
    logits[3, 2, 1] = INF  # inf - inf
    logits, scores = logits.to(path.device), scores.to(path.device)
    for k in (1, 3, 11):
        got = beam_topk(logits, scores, k)
        assert_same(got, sorted_topk(logits, scores, k))
        assert got.parents[:, 0].tolist() == [1, 2, 1, 2]
        assert got.scores[:, 0].isnan().all()


def test_minus_zero_equals_zero(path: Path) -> None:
    logits = torch.tensor([[[0.0], [-0.0], [0.0], [-0.0]]], device=path.device)
    scores = torch.tensor([[-0.0, -0.0, 0.0, -0.0]], device=path.device)
    assert beam_topk(logits, scores, 4).parents.tolist() == [[0, 1, 2, 3]]
    logits = torch.tensor([[[-0.0, 0.0, -0.0, 0.0]]], device=path.device)
    assert beam_topk(logits, scores[:, :1], 4).tokens.tolist() == [[0, 1, 2, 3]]


def test_a_large_offset_costs_no_digits(path: Path) -> None:
    inputs = problem(2, 3, 200)
    logits = torch.round(inputs["logits"].float() * 64) / 64
    scores = inputs["scores"].float()
    plain = beam_topk(logits.to(path.device), scores.to(path.device), 6)
    shifted = beam_topk((logits + 4096).to(path.device), scores.to(path.device), 6)
    assert_same(shifted, BeamTopK(*(t.cpu() for t in plain)))


@pytest.mark.parametrize("V", [31, 1000])
def test_strides(path: Path, V: int) -> None:
    inputs = problem(2, 3, V)
    expected = sorted_topk(inputs["logits"], inputs["scores"], 5)
    x = inputs["logits"].float().to(path.device)
    padded = torch.full((2, 3, V + 3), INF, device=path.device)
    padded[..., :V] = x
    scores = inputs["scores"].float().to(path.device)
    spread = torch.full((2, 3, 2), NAN, device=path.device)
    spread[..., 1] = scores
    for logits in (padded[..., :V], x.transpose(0, 1).contiguous().transpose(0, 1), x.mT.contiguous().mT):
        for beams in (scores, scores.t().contiguous().t(), spread[..., 1]):
            assert_same(beam_topk(logits, beams, 5), expected)
    shared = inputs["logits"][:, :1].expand(2, 3, V)
    expected = sorted_topk(shared, inputs["scores"], 5)
    assert_same(beam_topk(x[:, :1].expand(2, 3, V), scores, 5), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(path: Path, dtype: torch.dtype) -> None:
    # Halves have few digits: all ties within a row are exact.
    logits = (randn(2, 3, 333, seed=3) * 4).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scores = -randn(2, 3, seed=4).abs().to(wide)
    got = beam_topk(logits.to(path.device), scores.to(path.device), 9)
    assert got.scores.dtype == wide
    assert_same(got, sorted_topk(logits.double(), scores.double(), 9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 7), (1, 2, 1100)])
def test_gradients(path: Path, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def ours(logits: Tensor, scores: Tensor) -> BeamTopK:
        return beam_topk(logits, scores.to(max(wide, scores.dtype, key=lambda d: d.itemsize)), 6)

    def truth(logits: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        return reference.beam_topk(logits, scores.to(max(wide, scores.dtype, key=lambda d: d.itemsize)), 6)

    assert_as_accurate(ours, truth, problem(*shape, seed=8), dtype=dtype, device=path.device)


def test_gradients_beside_minus_inf(path: Path) -> None:
    inputs = problem(2, 3, 9)
    inputs["logits"][0, 1] = -INF
    inputs["logits"][:, 0, 4] = -INF
    logits, scores = (t.float().to(path.device).requires_grad_() for t in inputs.values())
    best = beam_topk(logits, scores, 27).scores
    weight = randn(2, 27, seed=5).float()
    grads = torch.autograd.grad(best, (logits, scores), weight.to(path.device))
    inputs = {n: t.requires_grad_() for n, t in inputs.items()}
    expected = torch.autograd.grad(reference.beam_topk(**inputs, k=27)[0], list(inputs.values()), weight.double())
    assert not grads[0][0, 1].any()
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got.cpu().double(), want, rtol=1e-5, atol=1e-5)


def test_gradcheck(cpu_path: None) -> None:
    logits, scores = (t.requires_grad_() for t in problem(2, 3, 5).values())
    assert torch.autograd.gradcheck(lambda x, s: beam_topk(x, s, 4).scores, (logits, scores))


def test_gradients_only_where_asked(path: Path) -> None:
    logits, scores = (t.float().to(path.device) for t in problem(2, 3, 8).values())
    out = beam_topk(logits, scores.requires_grad_(), 5)
    assert out.scores.requires_grad
    assert not out.parents.requires_grad
    assert not out.tokens.requires_grad
    (dscores,) = torch.autograd.grad(out.scores.sum(), scores)
    counts = torch.stack([(out.parents == i).sum(1) for i in range(3)], 1)
    assert torch.equal(dscores, counts.float())
    with torch.no_grad():
        assert beam_topk(logits, scores, 5).scores.grad_fn is None


def test_an_item_does_not_depend_on_its_batch(path: Path) -> None:
    logits, scores = (t.float().to(path.device) for t in problem(3, 2, 1300).values())
    together = beam_topk(logits, scores, 7)
    for b in range(3):
        alone = beam_topk(logits[b : b + 1], scores[b : b + 1], 7)
        for got, expected in zip(alone, together, strict=True):
            assert torch.equal(got[0], expected[b])


OPTIONS = ["mask of tokens", "mask of items", "mask of beams", "temperature", "normalized", "normalized, masked"]


def options_for(label: str, B: int, beam: int, V: int, device: str) -> dict[str, Any]:
    shapes = {"mask of tokens": (V,), "mask of items": (B, V), "mask of beams": (B, beam, V)}
    shape = shapes.get(label, (B, beam, V) if "masked" in label else None)
    options: dict[str, Any] = {} if shape is None else {"mask": (randn(*shape, seed=77) > 0).to(device)}
    if label == "temperature":
        options["temperature"] = 0.7
    return options | ({"normalized": True} if "normalized" in label else {})


@pytest.mark.parametrize("label", OPTIONS)
@pytest.mark.parametrize(("shape", "k"), [((2, 3, 31), 7), ((1, 2, 1100), 5), ((2, 2, 700), 80), ((1, 2, 1100), 500)])
def test_options(path: Path, shape: tuple[int, int, int], k: int, label: str) -> None:
    """k above 64 takes the second path of the kernels."""
    inputs = problem(*shape)
    options = options_for(label, *shape, path.device)
    logits, scores = (t.float().to(path.device) for t in inputs.values())
    on_host = {n: o.cpu() if isinstance(o, Tensor) else o for n, o in options.items()}
    expected = BeamTopK(*reference.beam_topk(inputs["logits"], inputs["scores"], k, **on_host))
    got = beam_topk(logits, scores, k, **options)
    assert_same(got, expected)
    assert torch.equal(got.valid.cpu(), expected.valid)
    if k < 10:
        assert_as_accurate(
            lambda logits, scores, **o: beam_topk(logits, scores, k, **o).scores,
            lambda logits, scores, **o: reference.beam_topk(logits, scores, k, **o)[0],
            inputs,
            device=path.device,
            **options,
        )


@pytest.mark.parametrize("V", [9, 1100])
def test_a_masked_token_still_counts_in_the_softmax(path: Path, V: int) -> None:
    logits, scores = (t.float().to(path.device) for t in problem(1, 1, V).values())
    best = beam_topk(logits, scores, 3)
    mask = torch.ones(V, dtype=torch.bool, device=path.device)
    mask[best.tokens[0, 0]] = False
    without = beam_topk(logits, scores, 2, mask=mask)
    assert torch.equal(without.scores, best.scores[:, 1:])
    assert torch.equal(without.tokens, best.tokens[:, 1:])


def test_fewer_candidates_than_k(path: Path) -> None:
    """None is made up, none comes twice: the rest are -inf, in order, and counted."""
    mask = torch.zeros(2, 6, dtype=torch.bool, device=path.device)
    mask[0, 4] = True
    logits, scores = torch.zeros(2, 2, 6, device=path.device), torch.zeros(2, 2, device=path.device)
    scores[:, 1] = -INF
    got = beam_topk(logits, scores, 12, mask=mask)
    assert got.valid.tolist() == [1, 0]
    assert got.tokens[0].tolist() == [4, 0, 1, 2, 3, 5, 0, 1, 2, 3, 4, 5]
    flat = got.parents * 6 + got.tokens
    assert all(len(set(row)) == 12 for row in flat.tolist())


@pytest.mark.parametrize("V", [5, 1100])
def test_nan_in_normalized_logits_is_its_own_affair(path: Path, V: int) -> None:
    logits = problem(1, 2, V)["logits"].float()
    logits[0, 1, V - 2] = NAN
    scores = torch.zeros(1, 2)
    got = beam_topk(logits.to(path.device), scores.to(path.device), 4, normalized=True)
    assert_same(got, BeamTopK(*reference.beam_topk(logits, scores, 4, normalized=True)))
    assert got.scores.isnan().tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("k", [65, 129, 1024])
def test_many_of_few_values(path: Path, k: int) -> None:
    """Ties go to the lowest index in the second path too; k is no power of two, all chunks, or the most it takes."""
    logits, scores = steps(2, 3, 500).to(path.device), torch.zeros(2, 3, device=path.device)
    assert_same(beam_topk(logits, scores, k), sorted_topk(logits, scores, k))


@pytest.mark.parametrize(("V", "rows"), [(20_000, 64), (20_001, 2)])
@pytest.mark.parametrize("normalized", [False, True])
def test_best_columns(cpu_path: None, normalized: bool, V: int, rows: int) -> None:
    # A row is cut into parts where its length can be divided.
    assert cpu_beam_topk._table_rows(V, 2, 8) == rows
    x = problem(3, 2, V)
    logits, scores = x["logits"].float(), x["scores"].float()
    for changed in ("nothing", "ties", "a row of -inf", "NaN"):
        if changed == "ties":
            logits = (logits * 4).round() / 4
        elif changed == "a row of -inf":
            logits[1, 1] = -INF
        elif changed == "NaN":
            logits[2, 0, 7] = NAN
        for given in (logits, logits.transpose(0, 1).contiguous().transpose(0, 1)):
            got = beam_topk(given, scores, 8, normalized=normalized)
            assert_same(got, BeamTopK(*reference.beam_topk(logits, scores, 8, normalized=normalized)))


@pytest.mark.parametrize("block", [50_000, 100_000, 2**20])
def test_chunked_torch_path(cpu_path: None, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    # Only the best chunks are ranked, of which a row's last is a part; in a block a row, an item, and one for all.
    monkeypatch.setattr(cpu_beam_topk, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(cpu_beam_topk, "DIRECT", 0)
    monkeypatch.setattr(cpu_beam_topk, "COLUMNS", 0)
    logits = steps(3, 2, 40_003)
    logits[1, :, 5:] = -INF
    logits[2, 1] = NAN
    scores = torch.zeros(3, 2)
    for k in (1, 9, 30):
        assert_same(beam_topk(logits, scores, k), sorted_topk(logits, scores, k))
    inputs = problem(3, 2, 40_003)
    expected = sorted_topk(inputs["logits"], inputs["scores"], 30)
    assert (expected.scores.diff() < -2e-6).all()
    for dtype in (torch.float32, torch.float64):
        got = beam_topk(inputs["logits"].to(dtype), inputs["scores"].to(dtype), 30)
        assert torch.equal(got.parents, expected.parents)
        assert torch.equal(got.tokens, expected.tokens)
        # How far torch's own log_softmax is off in float32 depends on the CPU.
        assert_as_accurate(
            lambda logits, scores: beam_topk(logits, scores, 30).scores,
            lambda logits, scores: reference.beam_topk(logits, scores, 30)[0],
            inputs,
            grad=set(),
            dtype=dtype,
        )
    half = inputs["logits"].bfloat16()
    expected = sorted_topk(half.double(), inputs["scores"], 30)
    assert_same(beam_topk(half, inputs["scores"].float(), 30), expected)
    for label in OPTIONS:
        options = options_for(label, 3, 2, 40_003, "cpu")
        expected = BeamTopK(*reference.beam_topk(inputs["logits"], inputs["scores"], 30, **options))
        assert_same(beam_topk(inputs["logits"], inputs["scores"], 30, **options), expected)


@pytest.mark.parametrize(
    ("logits", "scores", "k", "message"),
    [
        ((2, 3), (2, 3), 1, r"logits must have shape \[B, beam, V\], got \[2, 3\]"),
        ((2, 3, 4), (2, 4), 1, r"scores must have shape \[2, 3\], got \[2, 4\]"),
        ((2, 3, 4), (2, 3), 0, r"k must lie in 1..12, .* got 0"),
        ((2, 3, 4), (2, 3), 13, r"k must lie in 1..12, .* got 13"),
        ((2, 3, 0), (2, 3), 1, r"k must lie in 1..0, .* got 1"),
        ((2, 0, 4), (2, 0), 1, r"k must lie in 1..0, .* got 1"),
    ],
)
def test_bad_values(logits: tuple[int, ...], scores: tuple[int, ...], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=r"^beam_topk: " + message):
        beam_topk(torch.zeros(logits), torch.zeros(scores), k)


def test_bad_types() -> None:
    logits, scores = torch.zeros(2, 3, 4), torch.zeros(2, 3)
    with pytest.raises(TypeError, match=r"beam_topk: logits must be float16, .* got torch.int64"):
        beam_topk(logits.long(), scores, 1)
    with pytest.raises(TypeError, match=r"beam_topk: scores must be torch.float32 with logits in .*bfloat16, got .*16"):
        beam_topk(logits.bfloat16(), scores.bfloat16(), 1)
    with pytest.raises(TypeError, match=r"beam_topk: scores must be torch.float64 with logits in .*64, got .*32"):
        beam_topk(logits.double(), scores, 1)
    with pytest.raises(TypeError, match="beam_topk: k must be an int, got float"):
        beam_topk(logits, scores, 2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="beam_topk: scores must be a Tensor, got float"):
        beam_topk(logits, 0.0, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beam_topk: scores must be on the device of logits, cpu, got meta"):
        beam_topk(logits, scores.to("meta"), 1)
    with pytest.raises(ValueError, match="beam_topk: temperature must be above 0 and finite, got 0"):
        beam_topk(logits, scores, 1, temperature=0)
    with pytest.raises(ValueError, match=r"beam_topk: normalized logits have no temperature, got 0.5"):
        beam_topk(logits, scores, 1, temperature=0.5, normalized=True)
    with pytest.raises(TypeError, match=r"beam_topk: mask must be bool, got torch.float32"):
        beam_topk(logits, scores, 1, mask=torch.ones(4))
    with pytest.raises(TypeError, match="beam_topk: mask must be a Tensor, got list"):
        beam_topk(logits, scores, 1, mask=[True] * 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"beam_topk: mask must have shape \[4\], \[2, 4\] or .*, got \[3, 4\]"):
        beam_topk(logits, scores, 1, mask=torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="beam_topk: mask must be on the device of logits, cpu, got meta"):
        beam_topk(logits, scores, 1, mask=torch.ones(4, dtype=torch.bool, device="meta"))
