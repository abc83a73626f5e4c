"""What only a GPU can show: real sizes, offsets past 2^31, long walks, streams, graphs, the memory that is taken.

The small sizes are in the other files, whose `path` fixture has the GPU as one of its paths. Sizes here recur from test
to test, and most are multiples of 16: each hidden size is compiled anew, and so is a batch that 16 does not divide.
A test is a function of a device and sizes: but for those of CUDA's own means it runs on a CPU too, with small ones.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cases
import pytest
import torch
from conftest import exchange_hidden_states
from helpers import assert_as_accurate, randn
from torch import Tensor

from seqops import BeamSearch, functional, nn, reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

BF16, FP32 = torch.bfloat16, torch.float32
# Clock cycles that a stream sleeps, about 0.2 s: the host has queued all of an op long before.
SLEEP = 400_000_000


@pytest.fixture
def device() -> Iterator[str]:
    yield "cuda"
    # The large tests need what others have left in the allocator's cache.
    gc.collect()
    torch.cuda.empty_cache()


def needs_memory(gigabytes: int) -> pytest.MarkDecorator:
    total = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    return pytest.mark.skipif(total < gigabytes * 1e9, reason=f"needs {gigabytes} GB of GPU memory")


def sizes(**values: int) -> pytest.MarkDecorator:
    """Sizes as arguments, so that a test's body can be run with others."""
    return pytest.mark.parametrize(tuple(values), [tuple(values.values())])


def on(device: str, fn: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    """fn, computed on `device` wherever its arguments lie: float64 at real sizes would take a CPU long."""

    def moved(**arguments: Any) -> tuple[Tensor, ...]:
        home = next(a.device for a in arguments.values() if isinstance(a, Tensor))
        outputs = fn(**{n: a.to(device) if isinstance(a, Tensor) else a for n, a in arguments.items()})
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(o.to(home) for o in outputs if o is not None)

    return moved


def check(
    op: Callable[..., Any], truth: Callable[..., Any], inputs: dict[str, Tensor], device: str, **options: Any
) -> None:
    assert_as_accurate(op, on(device, truth), inputs, device=device, **options)


def filled_up(part: Tensor, *shape: int) -> Tensor:
    """A tensor of this shape whose end, in every dimension, is `part`; random values, without a gradient, elsewhere."""
    generator = torch.Generator(part.device).manual_seed(0)
    whole = torch.randn(shape, dtype=part.dtype, device=part.device, generator=generator)
    whole[tuple(slice(-n, None) for n in part.shape)] = part
    return whole


def attention_problem(B: int, Q: int, T: int, D: int, E: int) -> dict[str, Tensor]:
    return cases.additive_attention(B, Q, T, D, E, scale=D**-0.5)


@dataclass(frozen=True)
class Call:
    """An op with inputs of a real size: `shared` are those that all items have in common.

    The items lie in the first dimension of inputs and outputs, in the second of those that `second` names.
    """

    op: Callable[..., Any]
    problem: Callable[[], dict[str, Tensor]]
    dtype: torch.dtype
    shared: frozenset[str] = frozenset()
    second: frozenset[str] = frozenset()

    def inputs(self, device: str) -> dict[str, Tensor]:
        return {n: t.to(device, self.dtype) for n, t in self.problem().items()}

    def items(self, name: str, tensor: Tensor, which: slice) -> Tensor:
        """Some items of an input, an output or a gradient."""
        return tensor[:, which] if name.removeprefix("gradient of ") in self.second else tensor[which]


WEIGHTS = frozenset({"w_ih", "w_hh", "b_ih", "b_hh"})
CALLS = {
    "gru": Call(functional.gru, lambda: cases.gru(128, 64, 128, 1024), BF16, WEIGHTS, frozenset({"x", "output 0"})),
    # A library's product a step.
    "gru of large steps": Call(
        functional.gru, lambda: cases.gru(8, 1024, 64, 1024), BF16, WEIGHTS, frozenset({"x", "output 0"})
    ),
    "gru_cell": Call(functional.gru_cell, lambda: cases.gru_cell(64, 128, 1024), BF16, WEIGHTS),
    "layer_norm_lstm": Call(
        lambda h0, c0, **rest: functional.layer_norm_lstm(state=(h0, c0), **rest)[0],
        lambda: cases.normed(cases.lstm, cell=True)(T=32, B=64, I=128, H=512),
        BF16,
        WEIGHTS | {"gamma_ih", "gamma_hh", "gamma_c", "beta_c"},
        frozenset({"x", "output 0"}),
    ),
    "additive_attention": Call(
        functools.partial(functional.additive_attention, need_weights=True),
        lambda: attention_problem(8, 64, 512, 512, 512),
        BF16,
        frozenset({"v"}),
    ),
    "linear_cross_entropy": Call(
        lambda **inputs: functional.linear_cross_entropy(**inputs, target=inputs["input"].argmax(1), reduction="none"),
        lambda: cases.linear_cross_entropy(256, 8000, 512),
        BF16,
        frozenset({"linear_weight", "linear_bias"}),
    ),
    "beam_topk": Call(functools.partial(functional.beam_topk, k=10), lambda: cases.beam_topk(64, 5, 50257), FP32),
}
every_call = pytest.mark.parametrize("name", CALLS)


def results(op: Callable[..., Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs and gradients of half the sum of their squares, with no work that is not the GPU's."""
    leaves = {n: t.detach().requires_grad_() for n, t in inputs.items()}
    outputs = op(**leaves)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    graded = [o for o in outputs if o.requires_grad]
    gradients = torch.autograd.grad(graded, list(leaves.values()), [o.detach() for o in graded])
    named = {f"output {i}": o.detach() for i, o in enumerate(outputs)}
    return named | {f"gradient of {n}": g for n, g in zip(leaves, gradients, strict=True)}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To the bit."""
    assert got.keys() == expected.keys()
    for name, t in got.items():
        assert not t.isnan().any(), name
        assert torch.equal(t, expected[name]), name


# Real sizes.


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize(
    ("H", "dtype", "T", "B"),
    [
        (256, BF16, 192, 64),
        (512, BF16, 64, 64),
        (1024, BF16, 128, 64),
        (1024, BF16, 128, 1),
        (2048, BF16, 64, 32),
        (256, FP32, 192, 64),
        (512, FP32, 64, 32),
        (1024, FP32, 64, 32),
        (2048, FP32, 48, 64),
        (256, FP32, 16, 16),
        (512, FP32, 16, 16),
        (1024, FP32, 16, 16),
        (2048, FP32, 16, 16),
        (4096, BF16, 16, 4),
    ],
)
@sizes(I=128)
def test_gru_at_real_sizes(device: str, H: int, dtype: torch.dtype, T: int, B: int, I: int) -> None:
    grad = {"x", "h0"}
    if dtype == BF16 or T * B <= 256:
        # A weight's gradient is one library product over all T*B rows. A product that sums thousands of them in order
        # is less exact in fp32 than the reference, which sums step by step.
        grad |= WEIGHTS
    check(functional.gru, reference.gru, cases.gru(T, B, I, H), device, dtype=dtype, grad=grad)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("reverse", [False, True])
@sizes(T=64, B=64, I=128, H=512)
def test_gru_lengths_at_a_real_size(device: str, reverse: bool, T: int, B: int, I: int, H: int) -> None:
    lengths = torch.arange(B) * (T + 1) // B
    inputs = cases.gru(T, B, I, H)
    check(functional.gru, reference.gru, inputs, device, dtype=BF16, lengths=lengths, reverse=reverse)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("label", ["rnn", "gru", "lstm", "rnn with heads", "gru with heads", "lstm with heads"])
@sizes(T=6, B=1024, I=64, H=2048, D=384)
def test_large_steps_at_a_real_size(
    device: str, label: str, reverse: bool, T: int, B: int, I: int, H: int, D: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With resets and lengths; with heads with a recurrent mask and zoneout too. No step is walked in another form."""
    launcher = pytest.importorskip("seqops.kernels.recurrent")
    monkeypatch.setattr(launcher, "walk", None)
    case = cases.CASES[label]
    given = {n: v for n, v in {"T": T, "B": B, "I": I, "H": H, "D": D}.items() if n in case.largest}
    options = case.usual(**given) | {"lengths": torch.arange(B) * (T + 1) // B, "reverse": reverse}
    check(case.op, case.reference, case.problem(**given), device, dtype=BF16, **options)


@pytest.mark.usefixtures("poisoned_empty")
@sizes(B=64, I=128, H=1024)
def test_gru_cell_at_a_real_size(device: str, B: int, I: int, H: int) -> None:
    check(functional.gru_cell, reference.gru_cell, cases.gru_cell(B, I, H), device, dtype=BF16)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize(
    ("label", "H"),
    [
        ("layer_norm_gru", 512),
        ("layer_norm_gru joint", 4096),
        ("layer_norm_lstm", 2048),
        ("layer_norm_lstm joint", 512),
    ],
)
@sizes(T=16, B=32, I=128)
def test_layer_norm_at_real_sizes(device: str, label: str, H: int, T: int, B: int, I: int) -> None:
    """With resets; to the most units that a program holds."""
    case = cases.CASES[label]
    inputs, options = case.problem(T=T, B=B, I=I, H=H), case.usual(T=T, B=B, I=I, H=H)
    check(case.op, case.reference, inputs, device, grad={"x", "h0", "gamma_hh", "b_hh"}, **options)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize(("dtype", "with_lengths"), [(BF16, False), (FP32, True)])
@sizes(B=8, Q=64, T=512, D=512)
def test_additive_attention_at_a_real_size(
    device: str, dtype: torch.dtype, with_lengths: bool, B: int, Q: int, T: int, D: int
) -> None:
    lengths = torch.arange(1, B + 1) * T // B if with_lengths else None
    options = {"lengths": lengths, "need_weights": True}
    inputs = attention_problem(B, Q, T, D, D)
    check(functional.additive_attention, reference.additive_attention, inputs, device, dtype=dtype, **options)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [BF16, FP32])
@sizes(N=512, V=32003, D=256)
def test_linear_cross_entropy_at_a_real_size(device: str, dtype: torch.dtype, N: int, V: int, D: int) -> None:
    """A vocabulary that no block divides; rows that are ignored."""
    options = {"target": cases.ids(N, below=V, seed=1, low=-1), "ignore_index": -1, "reduction": "sum"}
    inputs = cases.linear_cross_entropy(N, V, D)
    check(functional.linear_cross_entropy, reference.linear_cross_entropy, inputs, device, dtype=dtype, **options)


@sizes(N=16384, V=128256, D=512)
def test_linear_cross_entropy_takes_the_memory_of_a_chunk(device: str, N: int, V: int, D: int) -> None:
    """Beside the gradients and what they are made of, twice the chunk at most; all logits would be 4.2 GB."""
    x, w = torch.randn(N, D, device=device, dtype=BF16), torch.randn(V, D, device=device, dtype=BF16)
    target = torch.randint(V, (N,), device=device)
    x.requires_grad_(), w.requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    functional.linear_cross_entropy(x, w, target).backward()
    taken = torch.cuda.max_memory_allocated() - before
    # In fp32 the gradient of the weights, that of one chunk, its scaled copy and its rounded one.
    assert taken < 2 * 2**26 * 2 + 3 * 4 * V * D + 3 * 4 * N * D


def check_beam_topk(op: Callable[..., Any], inputs: dict[str, Tensor], k: int, dtype: torch.dtype, device: str) -> None:
    """`op` is beam_topk of these inputs: its indices exactly, its scores and gradients by the rule."""
    inputs = {n: t.to(dtype).double() for n, t in inputs.items()}
    best, parents, tokens = (t.cpu() for t in on(device, reference.beam_topk)(**inputs, k=k + 1))
    # Fair to fp32: neighbours in the order, the first that is left out among them, are further apart than its
    # rounding, or equal logits of one row.
    gap, same_row = best.diff(), parents.diff() == 0
    assert ((gap < -1e-5) | ((gap == 0) & same_row)).all()

    def of(topk: Callable[..., Any]) -> Callable[..., Any]:
        # The sums are float32 for logits of 16 bits.
        return lambda logits, scores, k: topk(logits, scores.to(torch.promote_types(scores.dtype, FP32)), k)

    with torch.no_grad():
        got = of(op)(inputs["logits"].to(device, dtype), inputs["scores"].to(device, dtype), k)
    assert torch.equal(got[1].cpu(), parents[:, :k])
    assert torch.equal(got[2].cpu(), tokens[:, :k])
    ours, truth = of(op), of(reference.beam_topk)
    check(lambda **a: ours(**a)[0], lambda **a: truth(**a)[0], inputs, device, dtype=dtype, k=k)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize(
    ("B", "beam", "V", "k", "dtype", "seed"),
    [(64, 5, 50257, 10, FP32, 0), (8, 4, 128256, 64, BF16, 0)],
)
def test_beam_topk_at_real_sizes(device: str, B: int, beam: int, V: int, k: int, dtype: torch.dtype, seed: int) -> None:
    check_beam_topk(functional.beam_topk, cases.beam_topk(B, beam, V, seed), k, dtype, device)


# Far into large tensors. The op gets a problem whose end is the given inputs, the reference those alone.


@needs_memory(40)
@pytest.mark.usefixtures("poisoned_empty")
@sizes(B=4224, beam=4, V=128256, k=8)
def test_beam_topk_past_2_31_logits(device: str, B: int, beam: int, V: int, k: int) -> None:
    def last_item(logits: Tensor, scores: Tensor, k: int) -> tuple[Tensor, ...]:
        best = functional.beam_topk(filled_up(logits, B, beam, V), filled_up(scores, B, beam), k)
        return tuple(t[-1:] for t in best)

    check_beam_topk(last_item, cases.beam_topk(1, beam, V), k, BF16, device)


@needs_memory(100)
@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize(
    ("B", "Q", "T", "D"),
    [pytest.param(3, 16384, 45056, 16, id="weights"), pytest.param(129, 2, 16384, 1024, id="keys")],
)
@sizes(E=16)
def test_additive_attention_past_2_31_elements(device: str, B: int, Q: int, T: int, D: int, E: int) -> None:
    some = min(Q, 8)

    def last_queries(query: Tensor, keys: Tensor, values: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        whole = filled_up(query, B, Q, D), filled_up(keys, B, T, D), filled_up(values, B, T, E)
        context, weights = functional.additive_attention(*whole, v, need_weights=True)
        assert weights is not None
        return context[-1:, -some:], weights[-1:, -some:]

    truth = functools.partial(reference.additive_attention, need_weights=True)
    check(last_queries, truth, attention_problem(1, some, T, D, E), device, dtype=BF16)


def check_steps(inputs: dict[str, Tensor], y: Tensor, steps: list[int], dtype: torch.dtype, device: str) -> None:
    """Each of these steps of a GRU is the cell of the output before it: true at any t, however long the walk."""
    cell = {n: t for n, t in inputs.items() if n in WEIGHTS}
    cell |= {"x": inputs["x"][steps].flatten(0, 1), "h": y[[t - 1 for t in steps]].flatten(0, 1).cpu().double()}
    got = y[steps].flatten(0, 1)
    check(lambda **_: got, reference.gru_cell, cell, device, dtype=dtype, grad=set())


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize(
    ("T", "B", "H", "dtype"),
    [
        (65536, 3, 16, FP32),
        # More than 2^31 elements in the output, more than 2^33 in the pre-activations.
        pytest.param(65536, 48, 1024, BF16, marks=needs_memory(100)),
    ],
)
@sizes(I=16, window=256)
def test_gru_far_into_a_long_sequence(
    device: str, T: int, B: int, H: int, dtype: torch.dtype, I: int, window: int
) -> None:
    inputs = cases.gru(T, B, I, H)
    weights = {n: t for n, t in inputs.items() if n != "x"}
    end = inputs["x"][-window:]

    def ours(x: Tensor, **rest: Tensor) -> tuple[Tensor, Tensor]:
        y, h_n = functional.gru(torch.cat((inputs["x"][:-window].to(x), x)), **rest)
        return y[-16:], h_n

    def truth(x: Tensor, **rest: Tensor) -> tuple[Tensor, Tensor]:
        y, h_n = reference.gru(x, **rest)
        return y[-16:], h_n

    # What was before the last steps is forgotten by then, and the gradient does not reach that far back.
    check(ours, truth, {"x": end, **weights}, device, dtype=dtype, grad={"x"} | WEIGHTS)
    with torch.no_grad():
        y, _ = functional.gru(**{n: t.to(device, dtype) for n, t in inputs.items()})
    check_steps(inputs, y, [*range(1, T, T // 64), T - 1], dtype, device)


# Programs that wait for one another.


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize(
    ("label", "dtype"),
    [
        ("rnn", BF16),
        ("rnn with relu", BF16),
        ("gru of Cho", BF16),
        ("gru of Cho", FP32),
        ("lstm", BF16),
        ("lstm", FP32),
        ("lstm with projection", BF16),
        ("lstm with projection", FP32),
        ("gru with heads alone", BF16),
    ],
)
@sizes(T=24, B=48, I=64, H=512, P=256, D=256)
def test_walks_at_a_real_size(
    device: str, label: str, dtype: torch.dtype, T: int, B: int, I: int, H: int, P: int, D: int
) -> None:
    """With resets and lengths; the GRU as torch has it is above."""
    case = cases.CASES[label]
    given = {n: v for n, v in {"T": T, "B": B, "I": I, "H": H, "P": P, "D": D}.items() if n in case.largest}
    options = case.usual(**given) | {"lengths": torch.arange(B) * (T + 1) // B}
    check(case.op, case.reference, case.problem(**given), device, dtype=dtype, **options)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
@sizes(T=24, B=48, I=64, H=512)
def test_both_directions_at_a_real_size(device: str, name: str, T: int, B: int, I: int, H: int) -> None:
    ours, theirs = (getattr(library, name)(I, H, bidirectional=True) for library in (nn, torch.nn))
    problem = {"x": randn(T, B, I, seed=1)}
    for i, (n, p) in enumerate(theirs.named_parameters()):
        problem[n] = randn(*p.shape, seed=2 + i, scale=H**-0.5)

    def of(module: torch.nn.Module) -> Callable[..., Any]:
        return lambda x, **parameters: torch.func.functional_call(module, parameters, (x,))[0]

    check(of(ours), of(theirs), problem, device, dtype=BF16)


@needs_memory(40)
@pytest.mark.parametrize(("H", "dtype", "B"), [(256, BF16, 64), (1024, FP32, 32), (2048, BF16, 16)])
@sizes(T=10_000, I=16, repeats=4)
def test_gru_waits_at_ten_thousand_barriers(
    device: str, H: int, dtype: torch.dtype, B: int, T: int, I: int, repeats: int
) -> None:
    """A step that ran ahead of another program's would show in one of the repeats, or as no step at all."""
    problem = cases.gru(T, B, I, H)
    inputs = {n: t.to(device, dtype) for n, t in problem.items()}
    first = results(functional.gru, inputs)
    for _ in range(repeats - 1):
        assert_same(results(functional.gru, inputs), first)
    check_steps(problem, first["output 0"], list(range(1, T, max(1, T // 64))), dtype, device)


@sizes(T=2, H=32)
def test_a_grid_that_cannot_be_resident_raises(device: str, monkeypatch: pytest.MonkeyPatch, T: int, H: int) -> None:
    """And does not hang; the launcher, left to itself, splits the same batch over launches that fit."""
    launcher = pytest.importorskip("seqops.kernels.recurrent")
    memory, multiprocessors = launcher.resident_limits(torch.device(device))
    if not memory:
        pytest.skip("no persistent kernels on this GPU")
    exchange_hidden_states(monkeypatch)
    monkeypatch.setattr(launcher.config, "FORMS", {4: launcher.config.FormLimits(1 << 62, 1 << 62)})
    # A program has 16 rows: 64 programs at least for each multiprocessor, which holds 32.
    B = 16 * 64 * multiprocessors
    problem = cases.gru(T, B, 16, H)
    inputs = {n: t.to(device, FP32) for n, t in problem.items()}
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "resident_limits", lambda device: (memory, 10**9))
        with pytest.raises(RuntimeError, match="cooperative launch"):
            functional.gru(**inputs)
    torch.cuda.synchronize()
    check(functional.gru, reference.gru, problem, device, grad={"x", "h0"})


# The same, to the bit.


@every_call
def test_repeats_to_the_bit(device: str, name: str) -> None:
    inputs = CALLS[name].inputs(device)
    assert_same(results(CALLS[name].op, inputs), results(CALLS[name].op, inputs))


@every_call
def test_an_item_does_not_depend_on_its_neighbours(device: str, name: str) -> None:
    call = CALLS[name]
    inputs = call.inputs(device)
    changed = {n: t.clone() for n, t in inputs.items()}
    for n, t in changed.items():
        if n not in call.shared:
            call.items(n, t, slice(1, None)).mul_(0.5)
    shared = {f"gradient of {n}" for n in call.shared}
    first, second = (
        {n: call.items(n, t, slice(1)) for n, t in results(call.op, i).items() if n not in shared}
        for i in (inputs, changed)
    )
    assert_same(first, second)


@pytest.mark.parametrize("B", [1, 32])
@sizes(T=128, H=1024)
def test_gru_row_alone(device: str, B: int, T: int, H: int) -> None:
    """The same as in a batch of 64. The input's product, the library's, is exact here: its order does not matter."""
    inputs = {n: t.to(device, BF16) for n, t in cases.gru(T, 64, 3 * H, H).items() if n != "b_ih"}
    inputs["w_ih"] = torch.eye(3 * H, device=device, dtype=BF16)
    y, h_n = functional.gru(**inputs)
    y_alone, h_alone = functional.gru(**inputs | {"x": inputs["x"][:, :B], "h0": inputs["h0"][:B]})
    assert torch.equal(y_alone, y[:, :B])
    assert torch.equal(h_alone, h_n[:B])


@pytest.mark.parametrize(("name", "own"), [("additive_attention", [1]), ("beam_topk", [0, 1, 2])])
def test_item_alone(device: str, name: str, own: list[int]) -> None:
    """The kernels' own outputs; the context of the attention is a library product."""
    call = CALLS[name]
    inputs = call.inputs(device)
    together = call.op(**inputs)
    alone = call.op(**{n: t if n in call.shared else t[:1] for n, t in inputs.items()})
    for i in own:
        assert torch.equal(alone[i], together[i][:1])


# Streams, graphs, devices.


@every_call
def test_side_stream(device: str, name: str) -> None:
    """Inputs arrive late, on a stream of their own; nothing may be launched elsewhere, or read before."""
    op, inputs = CALLS[name].op, CALLS[name].inputs(device)
    late = {n: torch.full_like(t, torch.nan) for n, t in inputs.items()}
    expected = results(op, inputs)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        results(op, inputs)  # takes the memory that the stream will need
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(SLEEP)
        for n, t in late.items():
            t.copy_(inputs[n])
        got = results(op, late)
    assert not stream.query(), "the host has waited for the stream, so that a wrong order would not show"
    stream.synchronize()
    assert_same(got, expected)


@every_call
def test_graph_replays_with_new_contents(device: str, name: str) -> None:
    """A barrier's counter that is not zeroed by the graph itself would be up already when it is replayed."""
    op, inputs = CALLS[name].op, CALLS[name].inputs(device)
    static = {n: t.clone() for n, t in inputs.items()}
    results(op, static)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(op, static)
    for i in (0, 1, 1, 2):
        contents = {n: t.roll(i, 0) for n, t in inputs.items()}
        for n, t in static.items():
            t.copy_(contents[n])
        graph.replay()
        assert_same(captured, results(op, contents))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@every_call
def test_tensors_on_a_device_that_is_not_the_current_one(name: str) -> None:
    op, inputs = CALLS[name].op, CALLS[name].inputs("cuda:0")
    with torch.cuda.device(0):
        expected = results(op, inputs)
        got = results(op, {n: t.to("cuda:1") for n, t in inputs.items()})
        assert torch.cuda.current_device() == 0
    for n, t in got.items():
        assert t.device == torch.device("cuda:1"), n
        torch.testing.assert_close(t.cpu(), expected[n].cpu(), msg=n)


# Memory.


def taken(fn: Callable[[], object]) -> int:
    """Bytes of GPU memory that fn() has taken where it took most, beside what was taken before."""
    fn()  # compiles; gives the libraries their workspace
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fn()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def test_beam_topk_builds_no_log_probabilities(device: str) -> None:
    inputs = {n: t.to(device) for n, t in cases.beam_topk(64, 5, 50257).items()}
    logits, scores = inputs["logits"].to(BF16), inputs["scores"].to(FP32)
    size = logits.nbytes
    with torch.no_grad():
        assert taken(lambda: functional.beam_topk(logits, scores, 10)) < size / 8
    # The gradient of the logits is as large as they are; in fp32 they would be twice that.
    op = functools.partial(functional.beam_topk, k=10)
    assert taken(lambda: results(op, {"logits": logits, "scores": scores})) < 1.25 * size


@sizes(B=8, Q=64, T=512, D=512)
def test_additive_attention_builds_no_hidden_tensor(device: str, B: int, Q: int, T: int, D: int) -> None:
    inputs = {n: t.to(device, BF16) for n, t in attention_problem(B, Q, T, D, D).items()}
    assert taken(lambda: results(functional.additive_attention, inputs)) < B * Q * T * D * BF16.itemsize / 4


def test_beam_step_in_a_graph(device: str) -> None:
    """A captured step, replayed, is the search without a graph; and neither makes the host wait."""
    B, beam, V, L = 4, 5, 1000, 12
    torch.manual_seed(0)
    table = torch.log_softmax(torch.randn(V, V, device=device) * 3, -1)
    options: dict[str, Any] = {"batch_size": B, "beam_size": beam, "bos": 7, "eos": 3, "max_length": L, "n_best": beam}
    options |= {"length_penalty": 0.7, "early_stopping": False, "device": device}

    def first_step(search: BeamSearch) -> BeamSearch:
        search.advance(table[search.tokens])
        return search

    plain = first_step(BeamSearch(**options))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(L - 1):
            plain.advance(table[plain.tokens])
    finally:
        torch.cuda.set_sync_debug_mode("default")

    search = first_step(BeamSearch(**options))
    kept = [t.clone() for t in search.buffers()]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        search.advance(table[search.tokens])  # compiles; undone below
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        search.advance(table[search.tokens])
    for buffer, before in zip(search.buffers(), kept, strict=True):
        buffer.copy_(before)
    for _ in range(L - 1):
        graph.replay()
    for got, expected in zip(search.output()[:6], plain.output()[:6], strict=True):
        assert torch.equal(got, expected)


# Around the ops.


@pytest.mark.parametrize("name", ["gru", "gru_cell", "additive_attention"])
def test_autocast_is_a_cast_by_hand(device: str, name: str) -> None:
    op = CALLS[name].op
    inputs = {n: t.float() for n, t in CALLS[name].inputs(device).items()}

    def autocast(**arguments: Tensor) -> Any:
        with torch.autocast(torch.device(device).type, BF16):
            return op(**arguments)

    got = results(autocast, inputs)
    expected = results(op, {n: t.to(BF16) for n, t in inputs.items()})
    assert all(t.dtype == (FP32 if n.startswith("gradient") else BF16) for n, t in got.items())
    assert_same(got, {n: t.to(got[n].dtype) for n, t in expected.items()})


@sizes(T=64, B=64, I=128, H=256)
def test_compiled_module(device: str, T: int, B: int, I: int, H: int) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    module = nn.GRU(I, H, device=device)
    compiled = torch.compile(module, fullgraph=True)
    x = torch.randn(T, B, I, device=device)
    found = []
    for call in (module, compiled):
        y, h_n = call(x)
        found.append((y, h_n, *torch.autograd.grad(y.square().sum() + h_n.sum(), list(module.parameters()))))
    for eager, got in zip(*found, strict=True):
        assert (got - eager).abs().max() <= 1e-5 * eager.abs().max()
