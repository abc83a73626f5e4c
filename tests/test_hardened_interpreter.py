"""Each fault that the hardened interpreter is there for, in a kernel that has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import INTERPRET

if not INTERPRET:
    pytest.skip("Triton compiles for the GPU in this process", allow_module_level=True)
triton = pytest.importorskip("triton")
import hardened_interpreter  # noqa: E402
import triton.language as tl  # noqa: E402


@triton.jit
def copy_kernel(x_ptr, y_ptr, N, SHIFT: tl.constexpr, MASKED: tl.constexpr, OTHER: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i + SHIFT, mask=i < N, other=0) if OTHER else tl.load(x_ptr + i + SHIFT, mask=i < N)
    tl.store(y_ptr + i, x, mask=i < (N if MASKED else N + BLOCK))


@triton.jit
def shared_address_kernel(x_ptr, y_ptr, STORE: tl.constexpr, LOAD: tl.constexpr, ATOMIC: tl.constexpr):
    pid = tl.program_id(0)
    if LOAD:
        tl.store(y_ptr + pid, tl.load(x_ptr + (pid + 1) % tl.num_programs(0)))
    if STORE:
        tl.store(x_ptr + (pid if LOAD else 0), 1.0)
    if ATOMIC:
        tl.atomic_add(x_ptr, 1.0)


@triton.jit
def order_kernel(order_ptr, counter_ptr):
    pid = tl.program_id(0)
    tl.store(order_ptr + pid, tl.atomic_add(counter_ptr, 1))


@triton.jit
def product_kernel(x_ptr, y_ptr, FACTOR: tl.constexpr):
    tl.store(y_ptr, (tl.load(x_ptr) * FACTOR).to(tl.int64))


@triton.jit
def poison_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < 1))


@triton.jit
def dot_kernel(a_ptr, b_ptr, c_ptr, M: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    m, k = tl.arange(0, M), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * M + m[None, :])
    tl.store(c_ptr + m[:, None] * M + m[None, :], tl.dot(a, b, input_precision=PRECISION))


@triton.jit
def bf16_kernel(x_ptr, y_ptr, sum_ptr, fp32_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, x * x - x)
    tl.store(y_ptr + N + i, (tl.load(fp32_ptr + i)).to(tl.bfloat16))
    tl.store(y_ptr + 2 * N + i, (i * 3).to(tl.bfloat16))
    tl.store(sum_ptr, tl.sum(x, 0).to(tl.float32))


@triton.jit
def max_kernel(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.maximum(x, 0.5))
    tl.store(y_ptr + N + i, tl.minimum(x, 0.5))


@triton.jit
def condition_kernel(y_ptr, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, 1.0, mask=(i < 2) & (n > 0))


@triton.jit
def again_kernel(x_ptr, y_ptr, FIRST: tl.constexpr, THEN: tl.constexpr, BARRIER: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    number = 1.0
    if FIRST == "one":
        number = tl.load(x_ptr)
    elif FIRST == "many":
        number = tl.load(x_ptr + i)
    else:
        tl.store(x_ptr + i, 2.0)
    if BARRIER:
        tl.debug_barrier()
    if THEN == "load":
        tl.store(y_ptr + i, tl.load(x_ptr + N - 1 - i))
    elif THEN == "store one":
        tl.store(x_ptr, number)
    else:
        tl.store(x_ptr + i, number)


def raises(message: str, launch: Callable[[], Any]) -> None:
    with pytest.raises(Exception, match=message):
        launch()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"SHIFT": 3, "MASKED": True}, "load out of bounds at"),
        ({"SHIFT": -1, "MASKED": True}, "load out of bounds at 1 of"),
        ({"SHIFT": 0, "MASKED": False}, "store out of bounds"),
    ],
)
def test_out_of_bounds(options: dict[str, Any], message: str) -> None:
    # Neighbours that the allocator may have put beside them are no part of the launch.
    x, y = torch.zeros(10), torch.zeros(10)
    raises(message, lambda: copy_kernel[(2,)](x, y, 10, OTHER=True, BLOCK=8, **options))
    copy_kernel[(2,)](x, y, 10, SHIFT=0, MASKED=True, OTHER=True, BLOCK=8)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"STORE"}, "race: store by program .*, store by another"),
        ({"STORE", "LOAD"}, "race: .*(load by another|store by another)"),
        ({"STORE", "ATOMIC"}, "race"),
        ({"LOAD", "ATOMIC"}, "race"),
    ],
)
def test_races(what: set[str], message: str) -> None:
    flags = {name: name in what for name in ("STORE", "LOAD", "ATOMIC")}
    raises(message, lambda: shared_address_kernel[(4,)](torch.zeros(4), torch.zeros(4), **flags))


@pytest.mark.parametrize(
    ("first", "then"), [("store", "load"), ("store", "store one"), ("store", "store"), ("one", "store one")]
)
def test_races_of_a_program_with_itself(first: str, then: str) -> None:
    def launch(barrier: bool) -> None:
        again_kernel[(1,)](torch.zeros(8), torch.zeros(8), first, then, barrier, N=8)

    raises("race in program", lambda: launch(barrier=False))
    launch(barrier=True)


def test_no_race_of_a_program_with_itself() -> None:
    """Each thread reads what it writes."""
    again_kernel[(1,)](torch.zeros(8), torch.zeros(8), "many", "store", False, N=8)


@pytest.mark.parametrize("what", ["LOAD", "ATOMIC"])
def test_no_race(what: str) -> None:
    flags = {name: name == what for name in ("STORE", "LOAD", "ATOMIC")}
    shared_address_kernel[(4,)](torch.zeros(4), torch.zeros(4), **flags)


def test_programs_run_in_a_shuffled_order_each_once() -> None:
    order = torch.full((16,), -1, dtype=torch.int32)
    order_kernel[(16,)](order, torch.zeros(1, dtype=torch.int32))
    assert order.tolist() != list(range(16))
    assert sorted(order.tolist()) == list(range(16))


def test_int32_overflow() -> None:
    y = torch.zeros(1, dtype=torch.int64)
    raises("overflow", lambda: product_kernel[(1,)](torch.tensor([2**20], dtype=torch.int32), y, FACTOR=2**12))
    product_kernel[(1,)](torch.tensor([2**20]), y, FACTOR=2**12)
    assert y.item() == 2**32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32])
def test_masked_lanes_are_poisoned(dtype: torch.dtype) -> None:
    x, y = torch.ones(4, dtype=dtype), torch.zeros(4, dtype=dtype)
    poison_kernel[(1,)](x, y, BLOCK=4)
    assert y[0] == 1
    assert y[1:].isnan().all() if dtype.is_floating_point else (y[1:] == torch.iinfo(dtype).max).all()


def test_grid_limits() -> None:
    x = torch.zeros(1)
    raises("grid .* exceeds", lambda: copy_kernel[(1, 65536)](x, x, 0, SHIFT=0, MASKED=True, OTHER=True, BLOCK=1))


def test_smallest_dot() -> None:
    a, b, c = torch.randn(16, 8), torch.randn(8, 16), torch.zeros(16, 16)
    raises("K must be at least 16, got 8", lambda: dot_kernel[(1,)](a, b, c, M=16, K=8, PRECISION="ieee"))


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, "ieee"), (torch.float32, "tf32"), (torch.bfloat16, "ieee")]
)
def test_dot_computes_as_a_gpu(dtype: torch.dtype, precision: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(16, 16, generator=generator).to(dtype) for _ in "ab")
    c = torch.zeros(16, 16)
    dot_kernel[(1,)](a, b, c, M=16, K=16, PRECISION=precision)
    exact = (a.double() @ b.double()).float()
    error = (c - exact).abs().max().item()
    if precision == "tf32":
        # Ten bits of mantissa: far off fp32, far closer than bf16.
        assert 1e-5 < error < 1e-2
    else:
        assert error < 5e-6


def test_bf16_is_computed_on_values() -> None:
    x = torch.tensor([1.5, -3.0, 0.0078125, 300.0], dtype=torch.bfloat16)
    # Halfway cases, a carry into the exponent, and NaN.
    fp32 = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 2 - 2**-12, float("nan")])
    y, total = torch.zeros(12, dtype=torch.bfloat16), torch.zeros(1)
    bf16_kernel[(1,)](x, y, total, fp32, N=4)
    torch.testing.assert_close(y[:4], x * x - x, rtol=0, atol=0)
    torch.testing.assert_close(y[4:8], fp32.bfloat16(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(y[8:], torch.tensor([0.0, 3.0, 6.0, 9.0]).bfloat16(), rtol=0, atol=0)
    assert total.item() == x.float().sum().bfloat16().item()


def test_maximum_takes_the_number() -> None:
    x, y = torch.tensor([float("nan"), 1.0]), torch.zeros(4)
    max_kernel[(1,)](x, y, N=2)
    assert y.tolist() == [0.5, 1.0, 0.5, 0.5]


def test_a_condition_joins_a_mask() -> None:
    y = torch.zeros(4)
    condition_kernel[(1,)](y, 0, N=4)
    assert y.tolist() == [0, 0, 0, 0]
    condition_kernel[(1,)](y, 1, N=4)
    assert y.tolist() == [1, 1, 0, 0]


def test_an_unknown_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "__version__", "4.0.0")
    with pytest.raises(RuntimeError, match=r"triton must be one of 3.6, 3.7, 3.8, 3.9, got 4.0.0"):
        hardened_interpreter.install()
