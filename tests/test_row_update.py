"""row_update_: one update a row, by the sum of its gradients, beside a plain loop in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Path
from helpers import randn
from torch import Tensor

from seqops.cpu.rows import row_segments
from seqops.ops.row_update import row_update_


def plain(
    weight: Tensor, ids: Tensor, grad: Tensor, lr: float, state: Tensor | None, clip: float | None
) -> tuple[Tensor, Tensor | None]:
    weight, state = weight.clone(), None if state is None else state.clone()
    for row in set(ids.tolist()):
        total = grad[ids == row].sum(0)
        step = lr
        if state is not None:
            state[row] += total.square().mean()
            step = lr / (float(state[row].sqrt()) + 1e-10)
        elif clip is not None:
            step = lr * min(1.0, clip / max(float(total.norm()), 1e-300))
        weight[row] -= step * total
    return weight, state


@pytest.mark.parametrize("ids", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["sgd", "clipped", "adagrad"])
def test_is_that_of_a_loop(path: Path, kind: str, dtype: torch.dtype, ids: torch.dtype) -> None:
    V, N, D = 9, 40, 13
    places = torch.randint(0, V - 2, (N,), generator=torch.Generator().manual_seed(3))
    places[:12] = 4
    weight, grad = randn(V, D, seed=1).to(dtype), randn(N, D, seed=2).to(dtype)
    grad[places == 1] = 0  # clipping divides by no norm
    state = randn(V, seed=4).abs().to(torch.promote_types(dtype, torch.float32)) if kind == "adagrad" else None
    clip = 1.5 if kind == "clipped" else None
    truth, truth_state = plain(
        weight.double(), places, grad.double(), 0.3, None if state is None else state.double(), clip
    )
    # Every second column and row of other memory: what lies between must stay.
    around = torch.full((V, 2 * D), 7.0, dtype=dtype, device=path.device)
    table = around[:, ::2]
    table.copy_(weight)
    sums = None if state is None else state.to(path.device)
    returned = row_update_(table, places.to(path.device, ids), grad.to(path.device), lr=0.3, state=sums, clip=clip)
    assert returned is table
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(table.cpu().double(), truth, rtol=2 * eps, atol=40 * torch.finfo(torch.float32).eps)
    assert bool((around[:, 1::2] == 7).all())
    assert torch.equal(table[V - 2 :].cpu(), weight[V - 2 :])
    if sums is not None and truth_state is not None:
        torch.testing.assert_close(sums.cpu().double(), truth_state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 900])
@pytest.mark.parametrize("high", [-1, 5, 2**22 - 10, 2**22 - 9, 2**31, 2**40])
def test_rows_in_their_order(high: int, count: int) -> None:
    """Places of a row in the order of the batch; those below 0 nowhere. Row and place fit 32 bits, just or just not."""
    rows = torch.randint(-9, max(high, -1) + 1, (count,), generator=torch.Generator().manual_seed(1))
    rows[: count // 4] = -9
    rows[count // 3 : count // 2] = high
    used, offsets, order = row_segments(rows)
    values, places = torch.sort(rows, stable=True)
    assert torch.equal(order, places[values >= 0].to(order.dtype))
    expected, counts = values[values >= 0].unique_consecutive(return_counts=True)
    assert torch.equal(used, expected)
    assert torch.equal(offsets.diff(), counts)
    assert offsets[0] == 0


def test_repeats_and_takes_nothing(path: Path) -> None:
    ids = torch.tensor([0, 1] * 50, device=path.device)
    grad = randn(100, 5, seed=1).float().to(path.device)
    first, again = (row_update_(torch.zeros(2, 5, device=path.device), ids, grad, lr=0.1) for _ in range(2))
    assert torch.equal(first, again)
    before = first.clone()
    row_update_(first, ids[:0], grad[:0], lr=0.1, state=torch.zeros(2, device=path.device))
    assert torch.equal(first, before)
    wide = torch.zeros(3, 0, device=path.device)
    assert row_update_(wide, ids[:2], grad[:2, :0], lr=0.1).shape == (3, 0)


def test_a_gradient_that_is_not_finite_stays_in_its_row(path: Path) -> None:
    grad = torch.ones(3, 4, device=path.device)
    grad[1, 2] = torch.nan
    table = row_update_(torch.zeros(3, 4, device=path.device), torch.arange(3, device=path.device), grad, lr=0.5)
    assert bool((table[[0, 2]] == -0.5).all())
    assert bool(table[1].isnan().any())


W, I, G = torch.zeros(4, 3), torch.tensor([0, 3]), torch.zeros(2, 3)


@pytest.mark.usefixtures("cpu_path")
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"weight": torch.zeros(4)}, ValueError, "weight must have shape"),
        ({"grad": torch.zeros(3, 3)}, ValueError, "grad must have shape"),
        ({"ids": torch.tensor([0, 4])}, ValueError, r"ids must lie in 0\.\.3, got 0\.\.4"),
        ({"ids": torch.tensor([-1, 0])}, ValueError, r"ids must lie in 0\.\.3, got -1\.\.0"),
        ({"ids": torch.tensor([0.0, 1.0])}, TypeError, "ids must be int32 or int64"),
        ({"grad": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "grad must be float16"),
        ({"state": torch.zeros(3)}, ValueError, "state must have shape"),
        ({"state": torch.zeros(4).half()}, TypeError, "state must be torch.float32"),
        ({"state": torch.zeros(4), "clip": 1.0}, ValueError, "clip is for SGD"),
        ({"clip": 0.0}, ValueError, "clip must be above 0"),
        ({"lr": float("nan")}, ValueError, "lr must be finite"),
        ({"grad": torch.zeros(2, 3, device="meta")}, ValueError, "grad"),
    ],
)
def test_errors(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"weight": W, "ids": I, "grad": G, "lr": 0.1} | wrong
    with pytest.raises(error, match=message):
        row_update_(**arguments)
