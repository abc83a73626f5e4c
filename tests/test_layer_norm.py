"""layer_norm_gru and layer_norm_lstm, their cells and modules, against float64, haste's and Dreamer's forms."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import CASES, resets
from conftest import Path
from helpers import assert_as_accurate, randn
from torch import Tensor

from seqops import functional, nn

NAMES = [n for n in CASES if n.startswith("layer_norm") and "cell" not in n]
# T, B, I, H; of a single input the products' norm does not depend on its size, and its gradient is rounding alone
SHAPES = [(1, 1, 2, 3), (4, 3, 2, 5), (3, 18, 7, 37), (2, 65, 2, 3)]
every_case = pytest.mark.parametrize("name", NAMES)


def problem(name: str, T: int, B: int, I: int, H: int) -> dict[str, Tensor]:
    return CASES[name].problem(T=T, B=B, I=I, H=H)


@every_case
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_sequence(path: Path, name: str, shape: tuple[int, ...], reverse: bool) -> None:
    case = CASES[name]
    T, B, I, H = shape
    options = case.usual(T=T, B=B, I=I, H=H) | {"reverse": reverse}
    assert_as_accurate(case.op, case.reference, problem(name, *shape), device=path.device, **options)


@every_case
def test_the_usual_eps_lengths_and_regularization(path: Path, name: str) -> None:
    case, (T, B, I, H) = CASES[name], (5, 5, 3, 12)
    options = case.usual(T=T, B=B, I=I, H=H) | {"lengths": torch.tensor([3, 0, 5, 1, 5]), "heads": 3}
    options |= {"recurrent_mask": 1.5 * (randn(B, H, seed=1) > 0), "zoneout": randn(T, B, H, seed=2).abs() % 1}
    if "lstm" in name:
        options["zoneout_c"] = randn(T, B, H, seed=3).abs() % 1
    del options["eps"]
    inputs = problem(name, T, B, I, H)
    inputs["w_hh"] = inputs["w_hh"][:, :4].contiguous()
    assert_as_accurate(case.op, case.reference, inputs, device=path.device, **options)


@every_case
def test_moments_far_from_zero(path: Path, name: str) -> None:
    """Of products whose mean is many times their deviation: a mean of squares less the mean's square would show.

    They are sums of whole numbers, exact whatever their order.
    """
    case, (T, B, I, H) = CASES[name], (1, 3, 2, 19)
    inputs = {n: t for n, t in problem(name, T, B, I, H).items() if "reset" not in n}
    for n, scale, mean in (("x", 2, 0), ("w_ih", 4, 0), ("b_ih", 4, 0), ("h0", 2, 20), ("w_hh", 8, 30)):
        inputs[n] = (inputs[n] * scale).round() + mean
    options = {"grad": {"gamma_hh", "b_hh"}, "device": path.device} | case.usual(T=T, B=B, I=I, H=H)
    assert_as_accurate(case.op, case.reference, inputs, **options | {"reset": None})


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves(path: Path, name: str, dtype: torch.dtype) -> None:
    case, sizes = CASES[name], {"T": 6, "B": 5, "I": 4, "H": 19}
    options = {"dtype": dtype, "device": path.device} | case.usual(**sizes)
    assert_as_accurate(case.op, case.reference, case.problem(**sizes), **options)


@every_case
def test_gradcheck(cpu_path: None, name: str) -> None:
    case, sizes = CASES[name], {"T": 3, "B": 2, "I": 2, "H": 3}
    inputs = {n: t.requires_grad_() for n, t in case.problem(**sizes).items()}
    options = case.usual(**sizes) | {"eps": 1e-3}

    def run(*tensors: Tensor) -> Any:
        return case.op(**dict(zip(inputs, tensors, strict=True)), **options)

    assert torch.autograd.gradcheck(run, tuple(inputs.values()))


@every_case
def test_padding_never_reaches_gradients(path: Path, name: str) -> None:
    case, (T, B, I, H) = CASES[name], (4, 3, 2, 5)
    lengths = torch.tensor([2, 4, 0])
    inputs = {n: t.float().to(path.device).requires_grad_() for n, t in problem(name, T, B, I, H).items()}
    with torch.no_grad():
        inputs["x"][2:, 0] = torch.nan
        inputs["x"][:, 2] = torch.inf
    options = {n: o.to(path.device) if isinstance(o, Tensor) else o for n, o in case.usual(T=T, B=B).items()}
    outputs = case.op(**inputs, **options, lengths=lengths.to(path.device))
    assert all(o.isfinite().all() for o in outputs)
    sum((o**2).sum() for o in outputs).backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in inputs.values())
    assert (inputs["x"].grad[2:, 0] == 0).all()


@every_case
def test_rows_are_independent(cpu_path: None, name: str) -> None:
    case, (T, B, I, H) = CASES[name], (4, 6, 2, 5)
    inputs = {n: t.float() for n, t in problem(name, T, B, I, H).items()}
    options = case.usual(T=T, B=B)
    alone = {n: t[:, 2:3] if n == "x" else t[2:3] if t.shape[0] == B and t.dim() == 2 else t for n, t in inputs.items()}
    y = case.op(**inputs, **options)[0]
    options["reset"] = options["reset"][:, 2:3]
    torch.testing.assert_close(case.op(**alone, **options)[0], y[:, 2:3])


def haste_gru(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b: Tensor, b_r: Tensor, gammas: Any) -> Tensor:
    """haste's LayerNormGRU, from its definition: gates in the order z, r, n, and biases after the norms."""

    def norm(a: Tensor, gamma: Tensor) -> Tensor:
        a = a - a.mean(-1, keepdim=True)
        return gamma * a / (a.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    wx = norm(x @ w_ih.t(), gammas[0]) + b
    ys = []
    for t in range(x.shape[0]):
        wx_z, wx_r, wx_n = wx[t].chunk(3, -1)
        v_z, v_r, v_n = (norm(h @ w_hh.t(), gammas[1]) + b_r).chunk(3, -1)
        z, r = torch.sigmoid(wx_z + v_z), torch.sigmoid(wx_r + v_r)
        h = z * h + (1 - z) * torch.tanh(wx_n + r * v_n)
        ys.append(h)
    return torch.stack(ys)


def test_is_hastes_gru(cpu_path: None) -> None:
    I, H = 3, 5
    p = problem("layer_norm_gru", 4, 2, I, H)

    def in_hastes_order(t: Tensor) -> Tensor:
        r, z, n = t.chunk(3)
        return torch.cat((z, r, n))

    names = ("w_ih", "w_hh", "b_ih", "b_hh", "gamma_ih", "gamma_hh")
    w_ih, w_hh, b_ih, b_hh, *gammas = (in_hastes_order(p[n]) for n in names)
    y, _ = functional.layer_norm_gru(p["x"], p["h0"], *(p[n] for n in names))
    torch.testing.assert_close(y, haste_gru(p["x"], p["h0"], w_ih, w_hh, b_ih, b_hh, gammas))


def dreamer_gru(x: Tensor, h: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, update_bias: float = -1.0) -> Tensor:
    """Dreamer's cell: one product of both, normalised, in the order reset, candidate, update."""
    ys = []
    for x_t in x:
        parts = F.layer_norm(torch.cat((x_t, h), -1) @ weight.t(), gamma.shape, gamma, beta, 1e-3)
        reset, candidate, update = parts.chunk(3, -1)
        update = torch.sigmoid(update + update_bias)
        h = update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * h
        ys.append(h)
    return torch.stack(ys)


def test_is_dreamers_gru(cpu_path: None) -> None:
    I, H = 3, 5
    x, h0 = randn(4, 2, I, seed=1), randn(2, H, seed=2)
    weight, gamma, beta = randn(3 * H, I + H, seed=3), 1 + randn(3 * H, seed=4, scale=0.3), randn(3 * H, seed=5)

    def ours(t: Tensor) -> Tensor:
        reset, candidate, update = t.chunk(3)
        return torch.cat((reset, update, candidate))

    sign = torch.ones(3 * H, dtype=torch.float64)
    sign[H : 2 * H] = -1
    bias = sign * ours(beta)
    bias[H : 2 * H] += 1
    y, _ = functional.layer_norm_gru(
        x, h0, ours(weight)[:, :I], ours(weight)[:, I:], None, bias, None, sign * ours(gamma), joint=True, eps=1e-3
    )
    torch.testing.assert_close(y, dreamer_gru(x, h0, weight, gamma, beta))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gamma_ih": torch.ones(3)}, ValueError, r"gamma_ih must have shape \[(12|16)\], got \[3\]"),
        ({"gamma_hh": torch.ones(12).half()}, TypeError, "gamma_hh must have the dtype of x"),
        ({"gamma_hh": [1.0]}, TypeError, "gamma_hh must be a Tensor, got list"),
        ({"joint": True}, ValueError, "gamma_ih must be None with joint"),
        ({"eps": 0.0}, ValueError, "eps must be above 0, got 0.0"),
        ({"eps": float("nan")}, ValueError, "eps must be above 0, got nan"),
        ({"heads": 3}, ValueError, "heads must divide the hidden size 4, got 3"),
        ({"lengths": [9, 1]}, ValueError, r"lengths must lie in 0\.\.5"),
        ({"x": torch.zeros(2, 3)}, ValueError, r"x must have shape \[T, B, I\]"),
    ],
)
def test_rejects(cell: str, change: dict[str, Any], error: type[Exception], message: str) -> None:
    name = f"layer_norm_{cell}"
    arguments: dict[str, Any] = {n: t.float() for n, t in problem(name, 5, 2, 3, 4).items() if "reset" not in n}
    with pytest.raises(error, match=f"^{name}: {message}"):
        CASES[name].op(**(arguments | change))


def test_lstm_rejects() -> None:
    p = {n: t.float() for n, t in problem("layer_norm_lstm", 5, 2, 3, 4).items()}
    p = {n: t for n, t in p.items() if not n.startswith("reset")}
    with pytest.raises(ValueError, match=r"^layer_norm_lstm: gamma_c and beta_c must be None without norm_cell"):
        CASES["layer_norm_lstm"].op(**p, norm_cell=False)
    with pytest.raises(ValueError, match=r"^layer_norm_lstm: c0 must have shape \[2, 4\], got \[2, 3\]"):
        CASES["layer_norm_lstm"].op(**p | {"c0": torch.zeros(2, 3)})
    with pytest.raises(TypeError, match=r"^layer_norm_lstm: state must be a pair of Tensors, got Tensor"):
        functional.layer_norm_lstm(p["x"], p["h0"], p["w_ih"], p["w_hh"])  # type: ignore[arg-type]


# Modules.

I, H = 3, 6
LAYERS = ["LayerNormGRU", "LayerNormLSTM"]
every_layer = pytest.mark.parametrize("name", LAYERS)
joint_too = pytest.mark.parametrize("joint", [False, True])


def make(name: str, *args: Any, **kwargs: Any) -> torch.nn.Module:
    """With no parameter as it is at the start."""
    torch.manual_seed(0)
    module = getattr(nn, name)(I, H, *args, **kwargs)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return module


def first(output: Any) -> Tensor:
    return first(output[0]) if isinstance(output, tuple) else output


def by_cells(module: torch.nn.Module, x: Tensor, reset: Tensor) -> Tensor:
    """A loop over cells with the module's parameters, layer by layer and direction by direction."""
    for layer in range(module.num_layers):
        outputs = []
        for suffix in ("", "_reverse") if module.bidirectional else ("",):
            which = f"_l{layer}{suffix}"
            options = {"joint": module.joint, "eps": module.eps, "bias": module.bias}
            cell = getattr(nn, type(module).__name__ + "Cell")(x.shape[2], H, **options)
            cell.load_state_dict({k[: -len(which)]: v for k, v in module.state_dict().items() if k.endswith(which)})
            times = list(range(x.shape[0]))
            state, ys = None, [x] * len(times)
            for t in reversed(times) if suffix else times:
                began = (reset[t + 1] if t + 1 < len(times) else torch.zeros_like(reset[0])) if suffix else reset[t]
                if state is not None:
                    state = tuple(s.masked_fill(began[:, None], 0) for s in state)
                    state = state if len(state) == 2 else state[0]
                out = cell(x[t], state)
                state = out if isinstance(out, tuple) else (out,)
                ys[t] = state[0]
            outputs.append(torch.stack(ys))
        x = torch.cat(outputs, -1)
    return x


@every_layer
@joint_too
@pytest.mark.parametrize(("layers", "bidirectional", "bias"), [(1, False, True), (2, True, True), (1, True, False)])
def test_layers_are_loops_over_cells(
    cpu_path: None, name: str, joint: bool, layers: int, bidirectional: bool, bias: bool
) -> None:
    module = make(name, layers, bias, joint=joint, eps=1e-3, bidirectional=bidirectional)
    x, reset = randn(4, 2, I, seed=1).float(), resets(4, 2)
    y = first(module(x, reset=reset))
    torch.testing.assert_close(y, by_cells(module, x, reset))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@every_layer
@joint_too
def test_modules_are_kept_and_copied(cpu_path: None, name: str, joint: bool) -> None:
    module = make(name, 2, joint=joint, bidirectional=True, batch_first=True)
    x = randn(2, 4, I, seed=1).float()
    expected = first(module(x))
    other = getattr(nn, name)(I, H, 2, joint=joint, bidirectional=True, batch_first=True)
    other.load_state_dict(module.state_dict(), strict=True)
    for copied in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(first(copied(x)), expected)
    assert len(module.all_weights) == 4
    assert {id(w) for group in module.all_weights for w in group} == {id(p) for p in module.parameters()}
    assert module.double()(x.double())[0].dtype == torch.float64
    assert ("joint=True" in repr(module)) == joint
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]), batch_first=True)
    padded = first(other(x, lengths=[4, 2]))
    got, _ = torch.nn.utils.rnn.pad_packed_sequence(other(packed)[0], batch_first=True)
    torch.testing.assert_close(got, padded)
    torch.testing.assert_close(first(other(x[0])), expected[0])
    assert all(p.is_meta for p in getattr(nn, name)(I, H, joint=joint, device="meta").parameters())


@every_layer
def test_start(name: str) -> None:
    """Gains are 1; an LSTM's forget gate and a joint GRU's z start open, at a bias of 1; other biases are 0."""
    for joint in (False, True):
        for cls in (getattr(nn, name), getattr(nn, name + "Cell")):
            module = cls(I, H, joint=joint)
            for key, p in module.named_parameters():
                if key.startswith("gamma"):
                    assert (p == 1).all()
                elif key.startswith(("bias", "beta")):
                    expected = torch.zeros_like(p)
                    if key.startswith("bias_hh") and (joint or "LSTM" in name):
                        expected[H : 2 * H] = 1
                    assert torch.equal(p, expected)
                else:
                    assert p.abs().max() <= H**-0.5
                    assert p.std() > 0


@every_layer
def test_bad_modules(name: str) -> None:
    for options, error in (
        ({"eps": 0}, ValueError),
        ({"proj_size": 2}, ValueError),
        ({"reset_after": False}, TypeError),
        ({"num_heads": 4}, ValueError),
    ):
        with pytest.raises(error, match=next(iter(options))):
            getattr(nn, name)(I, H, **options)


@every_layer
def test_regularized_and_in_heads(cpu_path: None, name: str) -> None:
    module = make(name, zoneout=0.3, recurrent_dropout=0.4, num_heads=2)
    x = randn(4, 2, I, seed=1).float()
    runs = [first(module(x, generator=torch.Generator().manual_seed(s))) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    module.eval()
    assert torch.equal(first(module(x)), first(module(x)))


@every_layer
@joint_too
def test_compiles_whole(cpu_path: None, name: str, joint: bool) -> None:
    module = make(name, joint=joint)
    x, lengths = randn(4, 2, I, seed=1).float(), torch.tensor([4, 2])
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    y = first(compiled(x, lengths=lengths))
    torch.testing.assert_close(y, first(module(x, lengths=lengths)))
    y.sum().backward()
    assert module.weight_hh_l0.grad is not None


@every_layer
def test_autocast(cpu_path: None, name: str) -> None:
    module = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        y = first(module(randn(4, 2, I, seed=1).float()))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert module.weight_ih_l0.grad.dtype == torch.float32


def test_an_lstms_cells(cpu_path: None) -> None:
    module = make("LayerNormLSTM")
    x = randn(4, 2, I, seed=1).float()
    y, (h_n, c_n), cells = module(x, return_cells=True)
    assert torch.equal(cells[0, -1], c_n[0])
    assert torch.equal(y[-1], h_n[0])
    _, (_, before) = module(x[:2])
    torch.testing.assert_close(cells[0, 1], before[0])


def test_cells_without_a_batch(path: Path) -> None:
    gru, lstm = nn.LayerNormGRUCell(I, H).to(path.device), nn.LayerNormLSTMCell(I, H).to(path.device)
    x = randn(I, seed=1).float().to(path.device)
    assert gru(x).shape == (H,)
    h, c = lstm(x)
    assert h.shape == c.shape == (H,)
    torch.testing.assert_close(gru(x), gru(x[None])[0])
