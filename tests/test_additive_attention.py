"""additive_attention and nn.AdditiveAttention against the float64 reference."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from typing import Any

import pytest
import torch
from cases import additive_attention as problem
from conftest import Path
from helpers import assert_as_accurate, randn, run_with_grads
from torch import Tensor

from seqops import functional, nn, reference
from seqops.cpu import additive_attention as attention_on_cpu

# B, Q, T, D, E: ones, odd sizes, two queries, several programs in queries, positions and features
SHAPES = [(1, 1, 1, 1, 1), (2, 1, 5, 3, 2), (3, 2, 7, 5, 4), (2, 9, 35, 70, 3)]
OPS = importlib.import_module("seqops.ops.additive_attention")
SMALL = OPS.SMALL
INPUTS = ("query", "keys", "values", "v")
TANH_IS_CHEAP = attention_on_cpu.tanh_is_cheap.__wrapped__


@pytest.fixture(autouse=True)
def never_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The problems here are small; what torch's own ops make of them is a test of its own, and test_every_op's.

    On any processor the same ways are tested.
    """
    monkeypatch.setattr(OPS, "SMALL", 0)
    tanh_costs(monkeypatch, cheap=False)


def tanh_costs(monkeypatch: pytest.MonkeyPatch, cheap: bool) -> None:
    for module in (OPS, attention_on_cpu):
        monkeypatch.setattr(module, "tanh_is_cheap", lambda: cheap)


@pytest.mark.parametrize(
    ("mkl", "torch_uses", "maker", "mkl_uses", "cheap"),
    [
        (True, "AVX512", "GenuineIntel", None, True),
        (True, "AVX512", "GenuineIntel", "AVX512_E4", True),
        (True, "AVX512", "GenuineIntel", "AVX2", False),
        (True, "AVX512", "AuthenticAMD", None, False),
        (True, "AVX2", "GenuineIntel", None, False),
        (False, "AVX512", "GenuineIntel", None, False),
    ],
)
def test_where_tanh_is_cheap(
    monkeypatch: pytest.MonkeyPatch, mkl: bool, torch_uses: str, maker: str, mkl_uses: str | None, cheap: bool
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: torch_uses)
    monkeypatch.setattr(pathlib.Path, "exists", lambda self: True)
    monkeypatch.setattr(pathlib.Path, "read_text", lambda self: f"vendor_id : {maker}")
    monkeypatch.delenv("MKL_ENABLE_INSTRUCTIONS", raising=False)
    if mkl_uses is not None:
        monkeypatch.setenv("MKL_ENABLE_INSTRUCTIONS", mkl_uses)
    assert TANH_IS_CHEAP() == cheap


def some_mask(*shape: int) -> Tensor:
    """Half True, and the first rows all False."""
    mask = randn(*shape, seed=7) > 0
    mask.flatten(0, -2)[:2] = False
    return mask


def check(path: Path, inputs: dict[str, Tensor], **options: Any) -> None:
    options = {"device": path.device, "need_weights": True} | options
    assert_as_accurate(functional.additive_attention, reference.additive_attention, inputs, **options)


def run(path: Path, inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    options = {"need_weights": True} | options
    result = run_with_grads(functional.additive_attention, inputs, set(INPUTS), torch.float32, path.device, **options)
    return {name: t.cpu() for name, t in result.items()}


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(path: Path, shape: tuple[int, ...], need_weights: bool) -> None:
    check(path, problem(*shape), need_weights=need_weights)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(path: Path, dtype: torch.dtype) -> None:
    check(path, problem(2, 5, 19, 33, 6, scale=0.5), dtype=dtype, lengths=torch.tensor([19, 11]))


def test_more_positions_than_a_row_of_the_softmax_holds(path: Path) -> None:
    check(path, problem(2, 2, 300, 3, 2), lengths=torch.tensor([300, 259]))


def test_lengths(path: Path) -> None:
    check(path, problem(4, 5, 35, 6, 3, scale=0.5), lengths=torch.tensor([35, 0, 1, 17]))


@pytest.mark.parametrize("lengths", [None, torch.tensor([20, 13, 0])])
@pytest.mark.parametrize("per_query", [False, True])
def test_mask(path: Path, per_query: bool, lengths: Tensor | None) -> None:
    mask = some_mask(3, 5, 20) if per_query else some_mask(3, 20)
    check(path, problem(3, 5, 20, 7, 4), mask=mask, lengths=lengths)


def test_row_without_positions_is_zero(path: Path) -> None:
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[0, 1] = False
    result = run(path, problem(2, 3, 4, 5, 6), mask=mask)
    for name in ("output 0", "output 1", "gradient of query"):
        assert not result[name][0, 1].any(), name
        assert result[name][0, 0].any(), name


@pytest.mark.parametrize("kind", ["lengths", "mask", "per query"])
def test_nan_where_no_query_looks(path: Path, kind: str) -> None:
    B, Q, T = 3, 3, 9
    allowed = torch.arange(T) < torch.tensor([9, 4, 0])[:, None]
    options = {
        "lengths": {"lengths": allowed.sum(1)},
        "mask": {"mask": allowed},
        "per query": {"mask": allowed[:, None].expand(B, Q, T)},
    }[kind]
    clean = problem(B, Q, T, 5, 4)
    poisoned = {name: t.clone() for name, t in clean.items()}
    for name in ("keys", "values"):
        poisoned[name][~allowed] = torch.nan
    poisoned["query"][2] = torch.nan
    expected, got = run(path, clean, **options), run(path, poisoned, **options)
    for name in expected:
        assert torch.equal(got[name], expected[name]), name


def test_nan_where_one_query_does_not_look(path: Path) -> None:
    """A key that is NaN reaches the queries that look at it, and no other."""
    inputs = problem(1, 2, 4, 3, 2)
    mask = torch.ones(1, 2, 4, dtype=torch.bool)
    mask[0, 1, 2] = False
    expected = run(path, inputs, mask=mask)
    inputs["keys"][0, 2] = torch.nan
    result = run(path, inputs, mask=mask)
    for name in ("output 0", "output 1", "gradient of query"):
        assert result[name][0, 0].isnan().any(), name
        assert torch.equal(result[name][0, 1], expected[name][0, 1]), name


def test_nan_in_gradient_of_row_without_positions(path: Path) -> None:
    """The norm of a zero context has the gradient NaN, for instance."""
    inputs = {n: t.to(path.device, torch.float32).requires_grad_() for n, t in problem(2, 2, 3, 4, 3).items()}
    context, _ = functional.additive_attention(**inputs, lengths=[3, 0])
    grad = torch.ones_like(context)
    grad[1] = torch.nan
    for name, g in zip(inputs, torch.autograd.grad(context, list(inputs.values()), grad), strict=True):
        assert g.isfinite().all(), name
        assert g.any(), name


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_large_scores(path: Path, scale: float) -> None:
    result = run(path, problem(2, 3, 6, 8, 4, scale=scale))
    for name, t in result.items():
        assert t.isfinite().all(), name
    torch.testing.assert_close(result["output 1"].sum(-1), torch.ones(2, 3))
    if scale == 1e3:
        check(path, problem(2, 3, 6, 8, 4, scale=scale))


@pytest.mark.parametrize("scale", [1e-4, 30.0, 1e3])
def test_ends_of_tanh(path: Path, scale: float) -> None:
    """Where tanh is its argument, and where it is 1: no figures are lost, nothing overflows."""
    inputs = problem(2, 3, 6, 8, 4)
    inputs["query"], inputs["keys"] = inputs["query"] * scale, inputs["keys"] * scale
    # Near 0, where the slope is 1, a query's gradient is the sum of its dscore: 0, but for the rounding of each.
    check(path, inputs, grad=set(INPUTS) - ({"query"} if scale < 1 else set()))


def test_gradient_of_one_output_alone(path: Path) -> None:
    inputs = {n: t.to(path.device, torch.float32).requires_grad_() for n, t in problem(2, 3, 5, 4, 3).items()}
    leaves = list(inputs.values())
    results = []
    for fn in (functional.additive_attention, reference.additive_attention):
        context, weights = fn(**inputs, need_weights=True)
        assert weights is not None
        by_context = torch.autograd.grad(context.square().sum(), leaves, retain_graph=True)
        loss = (weights * torch.arange(5, device=path.device)).sum()
        by_weights = torch.autograd.grad(loss, [inputs[n] for n in ("query", "keys", "v")])
        results.append((*by_context, *by_weights))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_length_of_no_item(path: Path) -> None:
    check(path, problem(2, 3, 4, 5, 6), lengths=torch.tensor([0, 0]))


def test_gradcheck(cpu_path: None) -> None:
    inputs = [t.requires_grad_() for t in problem(2, 3, 4, 3, 2).values()]
    mask = some_mask(2, 3, 4)
    for options in ({}, {"mask": mask}, {"lengths": [4, 2]}):
        torch.autograd.gradcheck(
            lambda *a, o=options: functional.additive_attention(*a, need_weights=True, **o), inputs, fast_mode=True
        )


@pytest.mark.parametrize("cheap", [False, True])
@pytest.mark.parametrize("tile", [1, 40, 300, 1000])
def test_blocks_of_the_torch_path(cpu_path: None, monkeypatch: pytest.MonkeyPatch, tile: int, cheap: bool) -> None:
    """Blocks that split positions, queries and items, each with a rest, whatever torch.tanh costs."""
    tanh_costs(monkeypatch, cheap)
    monkeypatch.setattr("seqops.cpu.additive_attention.TILE", tile)
    path = Path("cpu", False)
    inputs = problem(5, 7, 11, 3, 2)
    check(path, inputs)
    check(path, inputs, lengths=torch.tensor([3, 11, 0, 5, 1]))
    check(path, inputs, mask=some_mask(5, 7, 11))


@pytest.mark.parametrize("size", [0.3, 1.0, 30.0, None])
def test_sums_of_exponentials(cpu_path: None, size: float | None) -> None:
    """Each way to tanh is taken where it is exact, with queries and keys that cancel too; None: a few are large."""
    inputs = problem(2, 16, 24, 40, 3, scale=0.15)
    for name in ("query", "keys"):
        inputs[name] *= 0.01 if size is None else size / inputs[name].abs().max()
    if size is None:
        inputs["query"][0, 0] *= 400
    else:
        inputs["query"][0, :4] = size
        inputs["keys"][0, :4] = -size * (1 - 1e-3)
    found = attention_on_cpu._Sums(inputs["query"].float(), inputs["keys"].float(), None, torch.float32)
    assert (found.shift is not None) == (size in (0.3, 1.0))
    check(Path("cpu", False), inputs)
    check(Path("cpu", False), inputs, dtype=torch.float64)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_in_the_torch_path(cpu_path: None, value: float) -> None:
    inputs = problem(2, 3, 4, 5, 2)
    inputs["keys"][0, 1, 2] = value
    check(Path("cpu", False), inputs)


def test_small_problems_are_composed(cpu_path: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch's ops, with the same result where there is no position, and where no query looks at NaN."""
    monkeypatch.setattr(OPS, "SMALL", SMALL)
    path = Path("cpu", False)
    inputs = problem(3, 5, 20, 7, 4)
    with torch.profiler.profile() as profile:
        check(path, inputs)
    assert not [e.name for e in profile.events() if e.name.startswith("seqops::")]
    check(path, inputs, lengths=torch.tensor([20, 13, 0]))
    check(path, inputs, mask=some_mask(3, 5, 20))
    inputs["keys"][1, 13:] = torch.nan
    inputs["values"][1, 13:] = torch.nan
    check(path, inputs, lengths=torch.tensor([20, 13, 0]), mask=some_mask(3, 20))
    # Scores as far apart as those of few features: else one position has all the weight, and chance all the error.
    large = problem(1, 4, 257, 256, 2, scale=1 / 16)
    with torch.profiler.profile() as profile:
        check(path, large)
    assert [e.name for e in profile.events() if e.name.startswith("seqops::")]
    # One query: as small with more positions; where it is not, without gradients and with a cheap tanh.
    alone = problem(1, 1, 257, 1100, 2)
    for small, cheap, grad, composed in (
        (SMALL, False, set(INPUTS), True),
        (SMALL // 16, False, set(), False),
        (SMALL // 16, True, set(INPUTS), False),
        (SMALL // 16, True, set(), True),
    ):
        monkeypatch.setattr(OPS, "SMALL", small)
        tanh_costs(monkeypatch, cheap=cheap)
        with torch.profiler.profile() as profile:
            check(path, alone, grad=grad)
        assert composed == (not [e.name for e in profile.events() if e.name.startswith("seqops::")])


def test_autocast(cpu_path: None) -> None:
    inputs = {n: t.float().requires_grad_() for n, t in problem(2, 3, 5, 4, 3).items()}
    with torch.autocast("cpu", torch.bfloat16):
        context, weights = functional.additive_attention(**inputs, need_weights=True)
        assert weights is not None
        assert context.dtype == weights.dtype == torch.bfloat16
    context.sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in inputs.values())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.zeros(2, 4)}, ValueError, r"query must have shape \[B, Q, D\], got \[2, 4\]"),
        ({"keys": torch.zeros(2, 5, 3)}, ValueError, r"keys must have shape \[2, T, 4\], got \[2, 5, 3\]"),
        ({"keys": torch.zeros(3, 5, 4)}, ValueError, r"keys must have shape \[2, T, 4\], got \[3, 5, 4\]"),
        ({"values": torch.zeros(2, 4, 3)}, ValueError, r"values must have shape \[2, 5, E\], got \[2, 4, 3\]"),
        ({"v": torch.zeros(1, 4)}, ValueError, r"v must have shape \[4\], got \[1, 4\]"),
        ({"v": None}, TypeError, "v must be a Tensor, got NoneType"),
        ({"query": torch.zeros(2, 3, 4).long()}, TypeError, "query must be float16, .* got torch.int64"),
        ({"keys": torch.zeros(2, 5, 4).double()}, TypeError, "keys must have the dtype of query, torch.float32, got"),
        (
            {"values": torch.zeros(2, 5, 3, device="meta")},
            ValueError,
            "values must be on the device of query, cpu, got",
        ),
        ({"lengths": [5]}, ValueError, r"lengths must have shape \[2\], got \[1\]"),
        ({"lengths": [5, 6]}, ValueError, r"lengths must lie in 0\.\.5, got 5\.\.6"),
        ({"lengths": torch.tensor([1.0, 2.0])}, TypeError, "lengths must be int32 or int64, got torch.float32"),
        ({"mask": torch.ones(2, 5)}, TypeError, "mask must be bool, got torch.float32"),
        ({"mask": [[True] * 5] * 2}, TypeError, "mask must be a Tensor, got list"),
        (
            {"mask": torch.ones(2, 4, dtype=torch.bool)},
            ValueError,
            r"mask must have shape \[2, 5\] or \[2, 3, 5\], got \[2, 4\]",
        ),
        (
            {"mask": torch.ones(2, 5, dtype=torch.bool, device="meta")},
            ValueError,
            "mask must be on the device of query, cpu, got meta",
        ),
    ],
)
def test_bad_arguments(cpu_path: None, change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {n: t.float() for n, t in problem(2, 3, 5, 4, 3).items()} | change
    with pytest.raises(error, match=f"^additive_attention: {message}"):
        functional.additive_attention(**arguments)


def composed(
    module: nn.AdditiveAttention, query: Tensor, keys: Tensor, values: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    values = keys if values is None else values
    return reference.additive_attention(
        module.query_proj(query), module.key_proj(keys), values, module.v, **options, need_weights=True
    )


@pytest.mark.parametrize("bias", [False, True])
def test_module(path: Path, bias: bool) -> None:
    torch.manual_seed(0)
    module = nn.AdditiveAttention(6, query_dim=5, key_dim=4, bias=bias, device=path.device)
    assert (module.query_proj.bias is not None) == bias
    assert {n: tuple(p.shape) for n, p in module.named_parameters() if n != "query_proj.bias"} == {
        "v": (6,),
        "query_proj.weight": (6, 5),
        "key_proj.weight": (6, 4),
    }
    query = randn(2, 3, 5, seed=1).to(path.device, torch.float32)
    keys = randn(2, 7, 4, seed=2).to(path.device, torch.float32)
    values = randn(2, 7, 3, seed=3).to(path.device, torch.float32)
    for given in (None, values):
        results = []
        for call in (module, lambda *a, **o: composed(module, *a, **o)):
            context, weights = call(
                query,
                keys,
                given,
                lengths=torch.tensor([7, 3], device=path.device),
                **({"need_weights": True} if call is module else {}),
            )
            grads = torch.autograd.grad(context.square().sum() + weights.square().sum(), list(module.parameters()))
            results.append((context, weights, *grads))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_module_in_a_decoder(cpu_path: None) -> None:
    """One step at a time with the keys projected once is the same as all steps at once."""
    module = nn.AdditiveAttention(6)
    query, keys = randn(2, 3, 6, seed=1).float(), randn(2, 7, 6, seed=2).float()
    projected = module.project_keys(keys)
    steps = [module(query[:, i : i + 1], keys, projected_keys=projected)[0] for i in range(3)]
    context, weights = module(query, keys)
    assert weights is None
    torch.testing.assert_close(torch.cat(steps, 1), context)


def test_module_state_and_start(cpu_path: None) -> None:
    torch.manual_seed(0)
    module, other = (nn.AdditiveAttention(16, query_dim=5, dtype=torch.float64) for _ in range(2))
    query, keys = randn(2, 3, 5, seed=1), randn(2, 7, 16, seed=2)
    assert not torch.equal(module(query, keys)[0], other(query, keys)[0])
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(query, keys)[0], other(query, keys)[0])
    torch.manual_seed(1)
    module.reset_parameters()
    assert not any(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert 0 < module.v.abs().max() <= 0.25
    assert "16, query_dim=5, key_dim=16" in repr(module)


@pytest.mark.parametrize("sizes", [{"embed_dim": 0}, {"embed_dim": 4, "query_dim": -1}, {"embed_dim": 4, "key_dim": 0}])
def test_module_bad_sizes(sizes: dict[str, int]) -> None:
    name = list(sizes)[-1]
    with pytest.raises(ValueError, match=f"AdditiveAttention: {name} must be above 0, got {sizes[name]}"):
        nn.AdditiveAttention(**sizes)
    with pytest.raises(TypeError, match=f"AdditiveAttention: {name} must be an int, got float"):
        nn.AdditiveAttention(**(sizes | {name: 2.0}))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_module_is_the_same(cpu_path: None, dynamic: bool) -> None:
    torch.manual_seed(0)
    module = nn.AdditiveAttention(6, query_dim=5, key_dim=4)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    query, keys = randn(2, 3, 5, seed=1).float(), randn(2, 7, 4, seed=2).float()
    options = {"lengths": torch.tensor([7, 3]), "mask": some_mask(2, 3, 7), "need_weights": True}
    results = []
    for call in (module, compiled):
        context, weights = call(query, keys, **options)
        grads = torch.autograd.grad(context.square().sum() + weights.square().sum(), list(module.parameters()))
        results.append((context, weights, *grads))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(compiled(query, keys)[0], module(query, keys)[0])


def test_softmax_over_several_tiles(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The highest score comes late, and first tiles are masked whole: sums are rescaled, and start from nothing."""
    if not path.kernels:
        pytest.skip("no kernels on this path")
    config = pytest.importorskip("seqops.kernels.config")
    rows = dataclasses.replace(config.ADDITIVE_ATTENTION_SOFTMAX, block_t=4)
    monkeypatch.setattr(config, "ADDITIVE_ATTENTION_SOFTMAX", rows)
    inputs = problem(2, 3, 15, 4, 5)
    inputs["keys"] = inputs["keys"] + torch.linspace(-2, 2, 15, dtype=torch.float64)[:, None]
    inputs["v"] = inputs["v"].abs() * 4
    mask = torch.arange(15).expand(2, 15) >= torch.tensor([[0], [6]])
    check(path, inputs, mask=mask)


@pytest.mark.parametrize("kernel", [1, 5])
def test_location(cpu_path: None, kernel: int) -> None:
    """Against scores written out, over two steps, with all gradients; the first step has looked nowhere."""
    torch.manual_seed(0)
    B, T, lengths = 3, 7, torch.tensor([7, 4, 2])
    module = nn.AdditiveAttention(6, query_dim=5, key_dim=4, location_channels=3, location_kernel=kernel).double()
    assert {n for n, _ in module.named_parameters()} >= {"location_conv.weight", "location_proj.weight"}
    queries, keys = randn(B, 2, 5, seed=1), randn(B, T, 4, seed=2).requires_grad_()
    projected = module.project_keys(keys)

    def ours(query: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        context, weights = module(
            query, keys, projected_keys=projected, lengths=lengths, need_weights=True, previous_weights=previous
        )
        return context, weights

    def written_out(query: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        half = kernel // 2
        before = torch.zeros(B, T).double() if previous is None else previous[:, 0]
        before = torch.nn.functional.pad(before, (half, half))
        windows = torch.stack([before[:, t : t + kernel] for t in range(T)], 1)
        assert module.location_conv is not None
        assert module.location_proj is not None
        features = windows @ module.location_conv.weight[:, 0].T @ module.location_proj.weight.T
        hidden = torch.tanh(query @ module.query_proj.weight.T + module.query_proj.bias + projected + features)
        outside = torch.arange(T) >= lengths[:, None]
        weights = (hidden @ module.v).masked_fill(outside, -torch.inf).softmax(-1)[:, None]
        return weights @ keys, weights

    results = []
    for call in (ours, written_out):
        _, first = call(queries[:, :1], None)
        context, second = call(queries[:, 1:], first)
        loss = context.square().sum() + (second * torch.arange(T)).sum()
        results.append((first, second, context, *torch.autograd.grad(loss, [keys, *module.parameters()])))
        projected = module.project_keys(keys)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    weight = module.location_conv.weight.clone()  # type: ignore[union-attr]
    module.reset_parameters()
    assert not torch.equal(module.location_conv.weight, weight)  # type: ignore[union-attr]


def test_location_errors(cpu_path: None) -> None:
    with pytest.raises(ValueError, match="location_channels and location_kernel must be given both or neither"):
        nn.AdditiveAttention(4, location_channels=3)
    with pytest.raises(ValueError, match="location_kernel must be odd, got 4"):
        nn.AdditiveAttention(4, location_channels=3, location_kernel=4)
    with pytest.raises(TypeError, match="location_channels must be an int, got float"):
        nn.AdditiveAttention(4, location_channels=3.0, location_kernel=3)  # type: ignore[arg-type]
    query, keys, weights = torch.zeros(2, 1, 4), torch.zeros(2, 5, 4), torch.zeros(2, 1, 5)
    with pytest.raises(ValueError, match="previous_weights needs location_channels"):
        nn.AdditiveAttention(4)(query, keys, previous_weights=weights)
    module = nn.AdditiveAttention(4, location_channels=3, location_kernel=3)
    assert "location_channels=3, location_kernel=3" in repr(module)
    with pytest.raises(ValueError, match=r"previous_weights must have shape \[2, 1, 5\], got \[2, 1, 4\]"):
        module(query, keys, previous_weights=weights[..., :4])
    with pytest.raises(ValueError, match=r"query must have shape \[B, 1, query_dim\] .*, got \[2, 3, 4\]"):
        module(query.expand(2, 3, 4), keys, previous_weights=weights)
