"""No step of a training or a search makes the host wait for a GPU: whoever asks for a value cannot go on before.

Here tensors are on the device "meta", which has no values, and launchers run with nothing launched: what would wait,
such as `.item()`, `nonzero`, `unique` or a mask as an index, raises, and so does a copy from the host.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import cases
import pytest
import torch
from cases import CASES, Case
from conftest import INTERPRET
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from seqops import BeamSearch, functional
from seqops.decoding import sample
from seqops.embeddings import EncodedCorpus, HuffmanTree, NegativeSampler, Trainer, TrainingOptions, Vocabulary
from seqops.ops import _transfer
from seqops.ops.row_update import row_update_

pytestmark = pytest.mark.skipif(not INTERPRET, reason="Triton compiles for the GPU in this process")


TENSOR = torch.tensor


class OnGPU(TorchDispatchMode):
    """Ops take the launchers, or the torch path where there is none; a copy from the host to the device raises."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "seqops":
            with self:
                return func._op_dk(torch._C.DispatchKey.CPU, *args, **kwargs)
        result = func(*args, **kwargs)
        if func._opname in ("_to_copy", "copy_", "copy"):
            tensors = [t for t in (*args, result) if isinstance(t, Tensor)]
            devices = {t.device.type for t in tensors}
            assert len(devices) == 1, f"a copy from {tensors[0].device} to {tensors[-1].device}"
        return result


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", lambda *_, **__: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(cases, "HuffmanTree", lambda counts, device: meta(HuffmanTree(counts)))

    def tensor(data: Any, *, device: Any = "cpu", **options: Any) -> Tensor:
        assert torch.device(device).type == "cpu", "a copy from the host"
        return TENSOR(data, device=device, **options)

    with OnGPU():
        monkeypatch.setattr(torch, "tensor", tensor)
        yield


def meta(value: Any) -> Any:
    if isinstance(value, torch.nn.Module):
        value = copy.deepcopy(value)
        for name, buffer in dict(value.named_buffers()).items():
            setattr(value, name, meta(buffer))
    if not isinstance(value, Tensor):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


def made_on_host(make: Callable[[], Any]) -> Any:
    """What a training or a search is made of may be copied."""
    with _disable_current_modes(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "tensor", TENSOR)
        return make()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_forward_and_backward(case: Case, dtype: torch.dtype) -> None:
    sizes = {name: i + 2 for i, name in enumerate(case.largest)}
    inputs = {
        n: meta(t.to(dtype)).requires_grad_() if t.is_floating_point() else meta(t)
        for n, t in case.problem(**sizes).items()
    }
    options = {
        n: meta(o.to(dtype)) if isinstance(o, Tensor) and o.is_floating_point() else meta(o)
        for n, o in case.usual(**sizes).items()
    }
    if case.name == "beam_topk":
        inputs["scores"] = meta(inputs["scores"].detach().float()).requires_grad_()
    outputs = case.op(**inputs, **options)
    output = outputs if isinstance(outputs, Tensor) else outputs[0]
    torch.autograd.grad(output.float().sum(), [t for t in inputs.values() if t.requires_grad])


V, B, K, D = 50, 6, 3, 8


@pytest.mark.parametrize("bags", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        functional.negative_sampling_loss,
        functional.nce_loss,
        functional.sampled_softmax_loss,
        functional.bpr_loss,
    ],
)
def test_losses_that_draw(loss: Callable[..., Tensor], bags: bool) -> None:
    tables = [torch.empty(V, D, device="meta", requires_grad=True) for _ in range(2)]
    center = torch.empty(B, 4, dtype=torch.int64, device="meta")[slice(None) if bags else (slice(None), 0)]
    value = loss(
        *tables, center, center.view(B, -1)[:, 0], sampler(), num_negatives=K, padding_idx=0, weight=tables[0][:B, 0]
    )
    torch.autograd.grad(value, tables)


def sampler() -> NegativeSampler:
    """Of whose tables only the shapes are here."""
    on_host = NegativeSampler([1.0])
    for name in ("threshold", "alias"):
        setattr(on_host, name, torch.empty(V, dtype=torch.int32, device="meta"))
    return on_host


def test_row_update() -> None:
    ids = torch.empty(B, dtype=torch.int64, device="meta")
    table, grad = torch.empty(V, D, device="meta"), torch.empty(B, D, device="meta")
    row_update_(table, ids, grad, lr=0.1, state=torch.empty(V, device="meta"))


def test_sparse_gradients_ask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows there are; no more is asked for."""
    answers = iter([V - 1])
    monkeypatch.setattr(Tensor, "__int__", lambda _: next(answers))
    rows, source = torch.empty(B, 1 + K, dtype=torch.int32, device="meta"), torch.empty(B, D, device="meta")
    ids, values = torch.ops.seqops.row_scatter_sparse(source, None, source[:, : 1 + K], rows, V, torch.float32)
    assert (ids.shape, values.shape) == ((V,), (V, D))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_seed_of_a_draw(device: str) -> None:
    """The same numbers, with no copy from the host."""
    seeds = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "seqops":
                seeds.append(args[2])
            return func(*args, **(kwargs or {}))

    draws = sampler() if device == "meta" else NegativeSampler([1.0] * V)
    with Seen():
        draws.draw(B, 2**63 + 5, 7)
    assert seeds[0].device.type == device
    if device == "cpu":
        assert seeds[0].tolist() == [5 - 2**63, 7]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"early_stopping": True, "length_penalty": 0.6, "min_length": 2, "no_repeat_ngram_size": 2},
        {"groups": 2, "diversity": 0.5, "repetition_penalty": 1.2, "banned_tokens": [5], "forced_tokens": {1: 4}},
        {"beam_size": [4, 2], "coverage_penalty": 0.2},
    ],
    ids=["plain", "stops early", "groups", "widths"],
)
def test_steps_of_a_beam_search(options: dict[str, Any]) -> None:
    given = {"batch_size": 2, "beam_size": 4, "bos": 0, "eos": [1, 2], "max_length": 5} | options
    search = made_on_host(lambda: BeamSearch(**given, device="meta"))
    for _ in range(search.max_length):
        attention = torch.empty(2, 4, 3, device="meta") if "coverage_penalty" in given else None
        search.advance(torch.empty(2, 4, V, device="meta"), attention)


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.9}, {"top_k": 5, "top_p": 0.9, "temperature": 0.7}])
def test_sample(options: dict[str, Any]) -> None:
    sample(torch.empty(B, V, device="meta"), **options)


@pytest.mark.parametrize("loss", ["negative", "hierarchical", "softmax"])
@pytest.mark.parametrize("model", ["sg", "cbow"])
def test_steps_of_the_trainer(model: str, loss: str) -> None:
    sentences = [[f"w{i}" for i in range(20)]] * 5
    corpus = EncodedCorpus.encode(sentences, Vocabulary.from_corpus(sentences, min_count=1))
    options = TrainingOptions(model=model, loss=loss, dim=D, window=2, tile=4, shared_negatives=4)
    trainer = made_on_host(lambda: Trainer(corpus, options, device="meta"))
    C, T = 3, trainer._tile_words
    rows, near = (torch.empty(s, dtype=torch.int64, device="meta") for s in ((C, T + 4), (C, T, 5)))
    negatives = trainer._negatives(7, 0, C) if loss == "negative" else None
    trainer._step(rows, near.bool(), negatives, 0.1, True, 9 if loss == "hierarchical" else None)


def test_lengths_of_the_host_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not copied at all where a graph is captured, but by torch, which refuses."""
    calls = []

    class Host:
        device = torch.device("cpu")

        def pin_memory(self) -> Host:
            calls.append("pin")
            return self

        def to(self, device: torch.device, non_blocking: bool = False) -> Host:
            calls.append(f"{device} {non_blocking}")
            return self

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capturing, expected in ((False, ["pin", "cuda:1 True"]), (True, ["cuda:1 False"])):
        calls.clear()
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)  # noqa: B023
        _transfer.to_device(Host(), "cuda:1")  # type: ignore[arg-type]
        assert calls == expected
