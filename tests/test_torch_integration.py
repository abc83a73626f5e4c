"""Every op that is registered, with what torch asks of an op; every module, with what users do to modules."""

from __future__ import annotations

import copy
import itertools
import pathlib
import pickle
from typing import Any

import data_parallel
import pytest
import torch
import torch.multiprocessing as mp
from cases import CASES
from conftest import taken
from helpers import OTHER_DEFAULTS
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import seqops
from seqops import functional, nn
from seqops.embeddings import HuffmanTree

pytestmark = pytest.mark.usefixtures("cpu_path")

T, B, I, H = 4, 3, 2, 5


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def op_arguments(dtype: torch.dtype) -> dict[str, list[tuple[Any, ...]]]:
    """For each op of torch.ops.seqops the arguments of some calls."""
    r = lambda *shape: rand(*shape, dtype=dtype)  # noqa: E731
    wide = torch.promote_types(dtype, torch.float32)
    lengths = torch.tensor([1, 4, 2], dtype=torch.int32)
    reset, state = torch.rand(T, B) < 0.3, (r(B, H), r(B, H))

    def gates(count: int, bias: bool = True, P: int = H) -> tuple[Tensor | None, ...]:
        G = count * H
        return (r(G, I), r(G, P), r(G), r(G)) if bias else (r(G, I), r(G, P), None, None)

    def kept(count: int, H: int) -> tuple[Tensor, Tensor]:
        """The state before each step, or all cells, and the gates."""
        return r(T, B, H), r(T, B, count * H)

    query, keys, v = r(2, 3, 4), r(2, 5, 4), r(4)
    mask, ends = torch.rand(2, 1, 5) < 0.7, torch.tensor([5, 2], dtype=torch.int32)
    logits, scores = r(2, 3, 7), rand(2, 3, dtype=wide)
    _, parents, tokens, normalizer = torch.ops.seqops.beam_topk_fwd(logits, scores, 4, None, 1.0, False)
    allowed = torch.rand(3, 7).expand(2, 3, 7) < 0.8
    ids = torch.tensor([1, 0], dtype=torch.int32)
    alias = (torch.tensor([-1, 7], dtype=torch.int32), ids, torch.tensor([3, 1]))
    center, target = torch.tensor([1, 0, -1]), torch.tensor([0, 1, 1], dtype=torch.int32)
    target_class = torch.tensor([4, -1, 0])
    rows = torch.tensor([[0, 1], [-1, 1], [2, 2]])
    tree = HuffmanTree([1, 2, 3])
    paths = (tree.nodes, tree.signs, tree.offsets, tree.max_depth)
    return {
        "rnn_sequence_fwd": [
            (r(T, B, I), r(B, H), *gates(1), lengths, reset, r(B, H), None, None, 1, True, False, False),
            (r(T, B, I), r(B, H), *gates(1, bias=False), None, None, None, None, None, 1, False, True, True),
            (r(T, B, I), r(B, H), *gates(1, P=1), lengths, None, None, r(B, H), r(T, B, H), H, False, True, True),
            (r(0, B, I), r(B, H), *gates(1), None, None, None, None, None, 1, False, False, True),
        ],
        "rnn_sequence_bwd": [
            (r(T, B, H), r(B, H), r(H, H), r(T, B, H), lengths, reset, None, None, 1, False, True, True),
            (r(T, B, H), r(B, H), r(H, 1), r(T, B, H), None, None, r(B, H), r(T, B, H), H, True, False, False),
        ],
        "gru_sequence_fwd": [
            (r(T, B, I), r(B, H), *gates(3), lengths, reset, r(B, H), None, None, 1, True, True, False),
            (r(T, B, I), r(B, H), *gates(3), None, None, None, r(B, H), None, 1, False, True, True),
            (r(T, B, I), r(B, H), *gates(3, False), None, None, None, None, r(T, B, H), 1, False, False, True),
            (r(T, B, I), r(B, H), *gates(3, P=1), None, None, None, None, None, H, False, True, True),
            (r(0, B, I), r(B, H), *gates(3), None, None, None, None, None, 1, False, True, False),
        ],
        "gru_sequence_bwd": [
            (
                *(r(T, B, H), r(B, H), r(T, B, I), *gates(3), lengths, reset, None, None, 1, False, True),
                *kept(4, H),
                True,
            ),
            (
                *(r(T, B, H), r(B, H), r(T, B, I), *gates(3, False, 1), None, None, r(B, H), r(T, B, H), H),
                *(True, False),
                *kept(3, H),
                False,
            ),
        ],
        "layer_norm_gru_sequence_fwd": [
            (
                *(r(T, B, 3 * H), r(B, H), r(3 * H, H), r(3 * H), r(3 * H), lengths, reset, r(B, H), None, None, 1),
                *(True, False, 1e-2, False),
            ),
            (
                *(r(T, B, 3 * H), r(B, H), r(3 * H, 1), None, None, None, None, None, r(B, H), r(T, B, H), H),
                *(False, True, 1e-2, True),
            ),
        ],
        "layer_norm_gru_sequence_bwd": [
            (
                *(r(T, B, H), r(B, H), r(T, B, 3 * H), r(3 * H, H), r(3 * H), r(3 * H), lengths, reset, None, None, 1),
                *(True, False, 1e-2),
                *kept(3, H),
                True,
            ),
            (
                *(r(T, B, H), r(B, H), r(T, B, 3 * H), r(3 * H, 1), None, None, None, None, r(B, H), r(T, B, H), H),
                *(False, True, 1e-2),
                *kept(3, H),
                False,
            ),
        ],
        "layer_norm_lstm_sequence_fwd": [
            (
                *(r(T, B, 4 * H), *state, r(4 * H, H), r(4 * H), r(4 * H), r(H), r(H), lengths, reset, *state),
                *(None, None, None, 1, True, False, True, 1e-2, True, False),
            ),
            (
                *(r(T, B, 4 * H), *state, r(4 * H, 1), *[None] * 8, r(B, H), r(T, B, H), r(T, B, H), H),
                *(False, True, False, 1e-2, False, True),
            ),
        ],
        "layer_norm_lstm_sequence_bwd": [
            (
                *(r(T, B, H), *state, r(T, B, H), r(T, B, 4 * H), r(4 * H, H), r(4 * H), r(4 * H), r(H), r(H)),
                *(lengths, reset, None, None, None, 1, True, False, True, 1e-2, r(T, B, H)),
                *kept(4, H),
                True,
            ),
            (
                *(r(T, B, H), *state, None, r(T, B, 4 * H), r(4 * H, 1), *[None] * 6, r(B, H), r(T, B, H), r(T, B, H)),
                *(H, False, True, False, 1e-2, r(T, B, H)),
                *kept(4, H),
                False,
            ),
        ],
        "lstm_sequence_fwd": [
            (r(T, B, I), *state, *gates(4), None, lengths, reset, *state, None, None, None, 1, True, True, False),
            (r(T, B, I), *state, *gates(4, bias=False), *[None] * 8, 1, False, False, True),
            (r(T, B, I), r(B, 2), r(B, H), *gates(4, P=2), r(2, H), *[None] * 7, 1, False, False, True),
            (
                *(r(T, B, I), *state, *gates(4, P=1), *[None] * 5, r(B, H), r(T, B, H), r(T, B, H), H),
                *(False, False, True),
            ),
        ],
        "lstm_sequence_bwd": [
            (
                *(r(T, B, H), *state, r(T, B, H), r(T, B, I), *gates(4), None, lengths, reset, None, None, None, 1),
                *(False, r(T, B, H), r(T, B, H)),
                *kept(4, H),
                True,
            ),
            (
                *(r(T, B, 2), r(B, 2), r(B, H), None, r(T, B, I), *gates(4, False, 2), r(2, H), None, None, r(B, 2)),
                *(r(T, B, 2), r(T, B, H), 1, True, r(T, B, 2), r(T, B, H)),
                *kept(4, H),
                False,
            ),
        ],
        "additive_attention_weights": [(query, keys, v, mask, ends), (query, keys, v, None, None)],
        "additive_attention_scores_bwd": [
            (rand(2, 3, 5, dtype=wide), query, keys, v, mask, ends, *needs)
            for needs in ((True, True, True), (False, True, False))
        ],
        "row_update_": [
            (r(5, 3), torch.tensor([4, 0, 4]), r(3, 3), 0.1, rand(5, dtype=wide).abs(), None, 1e-10),
            (r(5, 3), torch.tensor([4, 0, 4]), r(3, 3), 0.1, None, 0.5, 1e-10),
        ],
        "alias_draw": [(*alias, 5)],
        "beam_topk_fwd": [
            (logits, scores, 4, None, 1.0, False),
            (logits, scores, 1, allowed, 0.5, False),
            (logits, scores, 2, allowed, 1.0, True),
        ],
        "negative_sampling_fwd": [
            (r(3, 4), center, r(2, 4), target, rows % 2, None, None, None, 2, 1, -1, 0.5, False),
            (r(3, 4), None, r(2, 4), target, None, *alias, 2, 16, 1, 1.0, False),
        ],
        "hierarchical_softmax_fwd": [
            (r(3, 4), center, r(2, 4), target, *paths, False),
            (r(3, 4), None, r(2, 4), target, *paths, False),
        ],
        "glove_scores": [(r(3, 4), r(2, 4), r(3), r(2), center, torch.where(center < 0, -1, target), False)],
        "row_scores": [(r(3, 4), None, r(3, 4), rows, False), (r(2, 4), target, r(3, 4), rows, False)],
        "row_sums": [(r(3, 4), rows, rand(3, 2, dtype=wide), False)],
        "row_scatter": [
            (rand(3, 4, dtype=wide), None, rand(3, 2, dtype=wide), rows, 5, dtype),
            (r(2, 4), target, rand(3, 2, dtype=wide), rows, 3, dtype),
        ],
        "row_scatter_sparse": [(r(2, 4), target, rand(3, 2, dtype=wide), rows, 3, dtype)],
        "row_sums_scatter": [(r(3, 4), rows, rand(3, 2, dtype=wide), center, 5, dtype)],
        "row_sums_scatter_sparse": [(r(3, 4), rows, rand(3, 2, dtype=wide), center, 5, dtype)],
        "linear_cross_entropy_fwd": [
            (r(3, 4), r(5, 4), r(5), target_class, None, 0.0, True),
            (r(3, 4), r(5, 4), None, target_class, rand(5, dtype=wide), 0.1, False),
        ],
        "linear_cross_entropy_bwd": [
            (None, r(3, 4), r(5, 4), r(5), target_class, None, 0.1, True, True, True),
            (rand(3, dtype=wide), r(3, 4), r(5, 4), None, target_class, rand(5, dtype=wide), 0.0, True, False, False),
        ],
        "beam_topk_bwd": [(rand(2, 4, dtype=wide), logits, normalizer, parents, tokens, 2.0)],
    }


REGISTERED = sorted(
    name.removeprefix("seqops::").partition(".")[0]
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("seqops::")
)


def test_no_op_is_left_out() -> None:
    assert sorted(op_arguments(torch.float32)) == REGISTERED


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("op", REGISTERED)
def test_opcheck(op: str, dtype: torch.dtype) -> None:
    for arguments in op_arguments(dtype)[op]:
        result = torch.library.opcheck(getattr(torch.ops.seqops, op).default, arguments)
        assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("op", [op for op in REGISTERED if "_sequence_" in op])
def test_results_of_a_launcher_are_tensors_of_their_own(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch asks, and as they are said to be: compiled code takes them for aligned."""
    taken("interpreter", monkeypatch)
    for arguments in op_arguments(torch.float32)[op]:
        result = torch.library.opcheck(
            getattr(torch.ops.seqops, op).default, arguments, test_utils=("test_schema", "test_faketensor")
        )
        assert set(result.values()) == {"SUCCESS"}
        places = [r.untyped_storage().data_ptr() for r in getattr(torch.ops.seqops, op)(*arguments) if r.numel()]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("op", REGISTERED)
def test_op_called_by_itself_is_differentiated_or_refuses(op: str) -> None:
    """As in an exported graph: never a result that has silently lost its gradient."""
    arguments = op_arguments(torch.float32)[op][0]
    if not any(isinstance(a, Tensor) and a.is_floating_point() for a in arguments):
        pytest.skip("nothing to derive")
    arguments = tuple(a.requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments)
    if "bwd" in op or "scatter" in op or op.endswith("_"):
        with pytest.raises(RuntimeError, match="cannot be differentiated"):
            getattr(torch.ops.seqops, op)(*arguments)
        return
    result = getattr(torch.ops.seqops, op)(*arguments)
    first = result if isinstance(result, Tensor) else result[0]
    first.sum().backward()
    assert all(a.grad is not None for a in arguments if isinstance(a, Tensor) and a.is_floating_point())


class Model(torch.nn.Module):
    """All the ops behind one another: [T,B,I] -> scores [B,k]."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(I, H, 2, bidirectional=True)
        self.rnn = nn.RNN(2 * H, 2 * H)
        self.lstm = nn.LSTM(2 * H, 2 * H, proj_size=H, bidirectional=True)
        self.normed_gru, self.normed_lstm = nn.LayerNormGRU(2 * H, 2 * H, joint=True), nn.LayerNormLSTM(2 * H, 2 * H)
        self.normed_gru_cell, self.normed_lstm_cell = nn.LayerNormGRUCell(2 * H, 6), nn.LayerNormLSTMCell(6, 6)
        self.attention = nn.AdditiveAttention(6, query_dim=2 * H, key_dim=2 * H)
        self.rnn_cell, self.lstm_cell, self.cell = nn.RNNCell(6, 6), nn.LSTMCell(6, 6), nn.GRUCell(6, 4)
        self.negative_sampling, self.hierarchical_softmax = (
            nn.NegativeSampling(7, 3),
            nn.HierarchicalSoftmax([1] * 7, 3),
        )
        self.glove = nn.GloVe(7, 3)
        self.cross_entropy = nn.LinearCrossEntropyLoss(4, 7)
        torch.nn.init.normal_(self.negative_sampling.out_weight)
        self.register_buffer("ids", torch.arange(7))

    def forward(self, x: Tensor, lengths: Tensor | list[int] | None = None) -> Tensor:
        y, _ = self.gru(x, lengths=lengths)
        y, _ = self.lstm(self.rnn(y, lengths=lengths)[0], lengths=lengths)
        y, _ = self.normed_lstm(self.normed_gru(y, lengths=lengths)[0], lengths=lengths)
        y = y.transpose(0, 1)
        context, _ = self.attention(y, y, lengths=lengths)
        h = self.normed_lstm_cell(self.normed_gru_cell(context.flatten(0, 1)))[0]
        logits = self.cell(self.lstm_cell(self.rnn_cell(h))[0]).view(*context.shape[:2], 4)
        scores = functional.beam_topk(logits, torch.zeros_like(logits[..., 0], dtype=torch.float32), 3).scores
        loss = self.negative_sampling(self.ids, self.ids, self.ids[:, None].flip(0))
        loss = loss + self.cross_entropy(logits, self.ids[:1].expand(logits.shape[:2]))
        loss = loss + self.glove(self.ids, self.ids.flip(0), 1.0 + self.ids)
        return scores + loss + self.hierarchical_softmax(self.ids[:5, None], self.ids[:5])


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def gradients(model: torch.nn.Module, output: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(output.square().sum(), list(model.parameters())))


def test_compiles_to_code(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """fullgraph, with the default compiler, forward and backward; once for all lengths and batches."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    # No size is another's: torch takes those that are equal at first for one.
    for steps, batch in ((11, 5), (6, 3)):
        x, lengths = rand(steps, batch, I), torch.arange(1, batch + 1)
        expected = model(x, lengths)
        torch.testing.assert_close(compiled(x, lengths), expected)
        for a, b in zip(gradients(model, compiled(x, lengths)), gradients(model, expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_exports(model: Model) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (rand(T, B, I),), dynamic_shapes={"x": {1: batch}})
    x = rand(T, 7, I)
    again = exported.module()
    torch.testing.assert_close(again(x), model(x))
    # It can still be trained.
    for got, expected in zip(gradients(again, again(x)), gradients(model, model(x)), strict=True):
        torch.testing.assert_close(got, expected)


def test_checkpoints(model: Model) -> None:
    x = rand(T, B, I).requires_grad_()
    expected = torch.autograd.grad(model(x).sum(), [x, *model.parameters()])
    got = torch.autograd.grad(checkpoint(model, x, use_reentrant=False).sum(), [x, *model.parameters()])
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


def test_copies_and_pickles(model: Model) -> None:
    x = rand(T, B, I)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(clone(x), model(x))


def test_meta_device(model: Model) -> None:
    got = model.to("meta")(rand(T, B, I).to("meta"))
    assert got.shape == (B, 3)
    assert got.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(model: Model, dtype: torch.dtype) -> None:
    x = rand(T, B, I)
    expected = model(x)
    with torch.autocast("cpu", dtype):
        got = model(x)
    torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.05)
    for p, g in zip(model.parameters(), gradients(model, got), strict=True):
        assert g.dtype == p.dtype
        assert g.isfinite().all()


def test_other_defaults_change_nothing(model: Model) -> None:
    x = rand(T, B, I)
    expected = model(x, [1, 4, 2])
    for other in OTHER_DEFAULTS:
        with other():
            assert torch.equal(model(x, [1, 4, 2]), expected)


def test_made_on_the_default_device() -> None:
    with torch.device("meta"):
        model = Model()
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}


def layer(name: str) -> torch.nn.Module:
    if name == "AdditiveAttention":
        return nn.AdditiveAttention(H, query_dim=I, key_dim=I)
    return getattr(nn, name)(I, H)


LAYERS = [f"{name}{cell}" for name in ("RNN", "GRU", "LSTM", "LayerNormGRU", "LayerNormLSTM") for cell in ("", "Cell")]


@pytest.mark.parametrize("name", [*LAYERS, "AdditiveAttention", "LinearCrossEntropyLoss"])
def test_autocast_leaves_float64_as_it_is(name: str) -> None:
    """As torch.nn's."""
    module, x = layer(name).double(), rand(T, B, I, dtype=torch.float64)
    args = {"AdditiveAttention": (x, x), "LinearCrossEntropyLoss": (x, torch.ones(T, B, dtype=torch.int64))}
    given = args.get(name, (x[0] if "Cell" in name else x,))
    results = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append([o for o in tree_leaves(module(*given)) if o is not None])
    for a, b in zip(*results, strict=True):
        assert b.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["rnn_cell", "gru_cell", "lstm_cell"])
def test_autocast_of_a_small_cell(name: str) -> None:
    """What torch's own cell is given has been cast: all that it gives is bfloat16."""
    case = CASES[name]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = case.op(**{n: t.float() for n, t in case.problem(B=2, I=I, H=H).items()})
    assert all(o.dtype == torch.bfloat16 for o in (outputs if isinstance(outputs, tuple) else (outputs,)))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap(model: Model) -> None:
    x = rand(2, T, B, I)
    torch.testing.assert_close(torch.func.vmap(model)(x), torch.stack([model(item) for item in x]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_many_gradients_at_once(model: Model) -> None:
    """As torch.autograd.functional.jacobian asks for them with vectorize=True."""
    wanted = [rand(T, B, I).requires_grad_(), *model.parameters()]
    output = model(wanted[0], torch.tensor([1, 4, 2]))
    directions = rand(2, *output.shape)
    got = torch.autograd.grad(output, wanted, directions, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(output, wanted, d, retain_graph=True) for d in directions]
    for g, expected in zip(got, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(g, torch.stack(expected))


def test_gradients_at_once_of_the_reset_gate_before_the_product() -> None:
    gru, x = nn.GRU(I, H, reset_after=False), rand(T, B, I)
    jacobians = [torch.autograd.functional.jacobian(lambda x: gru(x)[0], x, vectorize=v) for v in (True, False)]
    torch.testing.assert_close(*jacobians)


@pytest.mark.parametrize("trainable", [True, False])
def test_what_cannot_be_derived_is_refused(model: Model, trainable: bool) -> None:
    """Forward mode would be silently 0, and torch.func needs what our Functions do not have."""
    model.requires_grad_(trainable)
    x = rand(T, B, I)
    with pytest.raises(NotImplementedError, match="has no forward-mode derivative"):
        torch.func.jvp(model, (x,), (x,))
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match="has no forward-mode derivative"),
    ):
        model(forward_ad.make_dual(x, x))
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: model(x).sum())(x)


def test_a_direct_call_with_a_tangent_is_refused() -> None:
    logits, scores = rand(2, 3, 7), rand(2, 3)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="has no forward-mode derivative"):
        functional.beam_topk(forward_ad.make_dual(logits, logits), scores, 4)


class Seen(TorchDispatchMode):
    """The names of all ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.add(str(func))
        return func(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_the_op() -> None:
    """Not what a small problem's direct call would be made of."""
    with Seen() as seen:
        functional.beam_topk(rand(2, 3, 7), rand(2, 3), 4)
        functional.additive_attention(rand(2, 3, 4), rand(2, 5, 4), rand(2, 5, 4), rand(4))
    assert {"seqops.beam_topk_fwd.default", "seqops.additive_attention_weights.default"} <= seen.ops


def test_data_parallel_processes(tmp_path: pathlib.Path) -> None:
    """Two processes with half a batch each have the mean of the gradients."""
    x, path = rand(T, 4, I), str(tmp_path / "grads.pt")
    mp.spawn(data_parallel.train, args=(str(tmp_path / "meeting"), x, path), nprocs=2)
    torch.manual_seed(0)
    model = data_parallel.Model()
    for got, expected in zip(torch.load(path), gradients(model, model(x)), strict=True):
        torch.testing.assert_close(2 * got, expected, rtol=1e-4, atol=1e-6)


def test_every_public_module_is_here() -> None:
    used = {type(m) for m in Model().modules()}
    public = {getattr(nn, name) for name in nn.__all__}
    assert public <= used
    assert set(itertools.chain(seqops.nn.__all__)) == {c.__name__ for c in public}
