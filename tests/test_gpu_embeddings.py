"""Losses over rows of tables, and the training of them, on a GPU: real sizes, graphs, no waiting of the host."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_gpu import assert_same, filled_up, needs_memory, sizes
from torch import Tensor

from seqops import functional
from seqops.embeddings import EncodedCorpus, HuffmanTree, NegativeSampler, Trainer, TrainingOptions, Vocabulary

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.fixture
def device() -> Iterator[str]:
    yield "cuda"
    torch.cuda.empty_cache()


def without_waiting(step: Callable[[], object]) -> None:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def loss_problem(device: str, V: int, D: int, B: int, K: int) -> dict[str, Tensor]:
    """Rows as frequent as words: some stand in the batch a thousand times."""
    generator = torch.Generator().manual_seed(0)
    tables = {n: torch.randn(V, D, generator=generator) * 0.1 for n in ("in_weight", "out_weight")}
    frequency = torch.arange(1, V + 1).double().reciprocal()
    ids = torch.multinomial(frequency, B * (K + 2), replacement=True, generator=generator).view(B, K + 2)
    ids = {"center": ids[:, 0].contiguous(), "target": ids[:, 1].contiguous(), "negatives": ids[:, 2:].contiguous()}
    return {n: t.to(device) for n, t in (tables | ids).items()}


def loss_and_gradients(loss: Callable[..., Tensor], inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    tables = {n: t.detach().requires_grad_() for n, t in inputs.items() if t.is_floating_point()}
    value = loss(**inputs | tables, **options)
    gradients = torch.autograd.grad(value, list(tables.values()))
    return {"output 0": value.detach()} | {f"gradient of {n}": g for n, g in zip(tables, gradients, strict=True)}


def hierarchical(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    tree = huffman_tree(len(out_weight), in_weight.device)
    return functional.hierarchical_softmax_loss(in_weight, out_weight[1:], center, target, tree)


@functools.cache
def huffman_tree(V: int, device: torch.device) -> HuffmanTree:
    return HuffmanTree(torch.arange(1, V + 1).double().reciprocal(), device=device)


def glove(in_weight: Tensor, out_weight: Tensor, center: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    x = 1.0 + center % 50
    return functional.glove_loss(in_weight, out_weight, in_weight[:, 0], out_weight[:, 0], center, target, x)


def nce(out_weight: Tensor, **rest: Tensor) -> Tensor:
    log_q = out_weight.new_full(out_weight.shape[:1], -1.0)
    return functional.nce_loss(out_weight=out_weight, log_q=log_q, **rest)


every_loss = pytest.mark.parametrize(
    "loss", [functional.negative_sampling_loss, nce, functional.bpr_loss, hierarchical, glove], ids=lambda f: f.__name__
)


@every_loss
@pytest.mark.usefixtures("poisoned_empty")
@sizes(V=100_000, D=100, B=8192, K=5)
def test_losses_repeat_to_the_bit(device: str, loss: Callable[..., Tensor], V: int, D: int, B: int, K: int) -> None:
    inputs = loss_problem(device, V, D, B, K)
    first = loss_and_gradients(loss, inputs)
    for _ in range(3):
        assert_same(loss_and_gradients(loss, inputs), first)


@every_loss
@sizes(V=100_000, D=100, B=8192, K=5)
def test_losses_in_a_graph(device: str, loss: Callable[..., Tensor], V: int, D: int, B: int, K: int) -> None:
    """A step makes the host wait nowhere, so it can be captured; replayed, it reads what is there then."""
    inputs = loss_problem(device, V, D, B, K)
    loss_and_gradients(loss, inputs)  # compiles
    without_waiting(lambda: loss_and_gradients(loss, inputs))
    static = {n: t.clone() for n, t in inputs.items()}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loss_and_gradients(loss, static)
    for i in (1, 2):
        contents = {n: t.roll(i, 0) for n, t in inputs.items()}
        for n, t in static.items():
            t.copy_(contents[n])
        graph.replay()
        assert_same(captured, loss_and_gradients(loss, contents))


@sizes(V=100_000, D=100, B=8192, K=5)
def test_each_replay_draws_anew(device: str, V: int, D: int, B: int, K: int) -> None:
    inputs = loss_problem(device, V, D, B, K) | {"negatives": NegativeSampler([1.0] * V, device=device)}
    loss = functools.partial(functional.negative_sampling_loss, **inputs, num_negatives=K)
    with torch.no_grad():
        loss()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = loss()
    drawn = []
    for _ in range(3):
        graph.replay()
        drawn.append(captured.item())
    assert len(set(drawn)) == 3


@sizes(V=100_000, D=300, B=8192, K=5)
def test_sparse_gradients_are_the_dense_ones(device: str, V: int, D: int, B: int, K: int) -> None:
    inputs = loss_problem(device, V, D, B, K)
    dense = loss_and_gradients(functional.negative_sampling_loss, inputs)
    sparse = loss_and_gradients(functional.negative_sampling_loss, inputs, sparse=True)
    assert_same({n: t.to_dense() if t.is_sparse else t for n, t in sparse.items()}, dense)


@needs_memory(40)
@sizes(V=20_000_000, D=128, B=4096, K=5)
def test_losses_of_rows_past_2_31_elements(device: str, V: int, D: int, B: int, K: int) -> None:
    """The tables' last rows give what a table of those alone gives."""
    small = loss_problem(device, 1000, D, B, K)
    large = {
        n: t + (V - 1000) if n not in ("in_weight", "out_weight") else filled_up(t, V, D) for n, t in small.items()
    }
    loss = functools.partial(functional.negative_sampling_loss, sparse=True)
    expected, got = loss_and_gradients(loss, small), loss_and_gradients(loss, large)
    for name, value in expected.items():
        other = got[name]
        if value.is_sparse:
            assert torch.equal(other.indices(), value.indices() + (V - 1000))
            value, other = value.values(), other.values()
        assert torch.equal(other, value), name


@pytest.mark.parametrize("loss", ["negative", "hierarchical", "softmax"])
@pytest.mark.parametrize("model", ["sg", "cbow"])
@sizes(words=200, sentences=50)
def test_trainer_is_that_of_a_cpu(device: str, model: str, loss: str, words: int, sentences: int) -> None:
    """And from one block of the corpus to the next the host does not wait."""
    order = torch.randint(words, (sentences, 40), generator=torch.Generator().manual_seed(0))
    text = [[f"w{i}" for i in row.tolist()] for row in order]
    corpus = EncodedCorpus.encode(text, Vocabulary.from_corpus(text, min_count=1))
    options = TrainingOptions(model=model, loss=loss, dim=20, epochs=1, sample=None, batch_words=256)
    trainer = Trainer(corpus, options, device=device)
    expected = Trainer(corpus, options).run()
    torch.testing.assert_close(trainer.run().vectors, expected.vectors, rtol=1e-3, atol=1e-4)
    C, T = 3, trainer._tile_words
    rows = torch.randint(words, (C, T + 2 * options.window), device=device)
    near = torch.ones(C, T, 2 * options.window + 1, dtype=torch.bool, device=device)
    width = int(trainer._depths.max()) * T if loss == "hierarchical" else None

    def step() -> None:
        negatives = trainer._negatives(7, 0, C) if loss == "negative" else None
        trainer._step(rows, near, negatives, 0.1, True, width)

    without_waiting(step)
