"""What this machine can do at most: bytes a second of a copy, operations a second of a product, tanh and exp a second.

python bench/roofline.py [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Ceilings", "Work", "measure"]


@dataclass(frozen=True)
class Work:
    """The least that an op must do: each input read and each output written once, 2 operations a multiply-add.

    `tanh` and `exp` count evaluations; a sigmoid is an exp.
    """

    bytes: float
    flops: float = 0
    tanh: float = 0
    exp: float = 0


@dataclass(frozen=True)
class Ceilings:
    """Per second: bytes read and written by a large copy, operations of a large product by dtype, evaluations.

    `launch`: the seconds that the smallest op takes.
    """

    bytes: float
    flops: dict[str, float]
    tanh: float
    exp: float
    launch: float

    def limit(self, work: Work, dtype: str) -> tuple[float, str]:
        """The least seconds that the work can take, and what sets them."""
        times = {
            "memory": work.bytes / self.bytes,
            "product": work.flops / self.flops[dtype],
            "tanh": work.tanh / self.tanh,
            "exp": work.exp / self.exp,
            "launch": self.launch,
        }
        name = max(times, key=lambda n: times[n])
        return times[name], name


def _seconds(call: Callable[[], object], device: str, budget: float = 0.3) -> float:
    """The median of a call's time, on the device."""
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        times = []
        for _ in range(20):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return statistics.median(times)
    times, until = [], time.perf_counter() + budget
    while not times or time.perf_counter() < until:
        start_time = time.perf_counter()
        call()
        times.append(time.perf_counter() - start_time)
    return statistics.median(times)


def measure(device: str) -> Ceilings:
    gpu = device == "cuda"
    elements = 2**28 if gpu else 2**24
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size() / _seconds(lambda: target.copy_(source), device)
    # Of what lies in the cache: here arithmetic is the limit, not memory.
    small = source[: elements // 64 if gpu else 2**16]
    out = torch.empty_like(small)
    tanh = small.numel() / _seconds(lambda: torch.tanh(small, out=out), device)
    exp = small.numel() / _seconds(lambda: torch.exp(small, out=out), device)
    flops = {}
    n = 8192 if gpu else 512
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        a, b = torch.randn(n, n, device=device).to(dtype), torch.randn(n, n, device=device).to(dtype)
        flops[name] = 2 * n**3 / _seconds(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
    one = torch.zeros(1, device=device)
    return Ceilings(copied, flops, tanh, exp, _seconds(lambda: one.add_(1), device, budget=0.05))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    ceilings = measure(parser.parse_args().device)
    print(f"copy    {ceilings.bytes / 1e9:10.1f} GB/s, read and written")
    for name, rate in ceilings.flops.items():
        print(f"product {rate / 1e12:10.2f} TFLOP/s {name}")
    print(f"tanh    {ceilings.tanh / 1e9:10.2f} G/s")
    print(f"exp     {ceilings.exp / 1e9:10.2f} G/s")
    print(f"launch  {ceilings.launch * 1e6:10.2f} us, the smallest op")


if __name__ == "__main__":
    main()
