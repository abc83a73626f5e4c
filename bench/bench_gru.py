"""The GRU over a sequence against torch.nn (cuDNN on a GPU), a Python loop, torch.compile of it, and haste."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from seqops import functional, reference
from seqops.bench import recurrent
from seqops.bench.harness import Bench, Inputs, Prepared, Problem, Unavailable, from_function


def haste(p: Problem) -> Callable[[Inputs], Prepared]:
    """haste_pytorch.GRU: weights transposed, gates in the order z, r, n."""
    try:
        import haste_pytorch
    except ImportError as error:
        raise Unavailable("haste_pytorch is not installed") from error
    if p.dtype != "float32" or p.device != "cuda":
        raise Unavailable("haste_pytorch has float32 on a GPU")
    if "resets" in p.size:
        raise Unavailable("haste has no resets inside a sequence")
    _, _, I, H = p.size.values()

    def reordered(weight: Tensor) -> Tensor:
        r, z, n = weight.detach().chunk(3)
        return torch.cat((z, r, n)).t().contiguous() if weight.dim() > 1 else torch.cat((z, r, n))

    def restore(i: int, grad: Tensor) -> Tensor:
        if i < 2:
            return grad
        z, r, n = (grad.t() if grad.dim() > 1 else grad).chunk(3)
        return torch.cat((r, z, n))

    def prepare(given: Inputs) -> Prepared:
        layer = haste_pytorch.GRU(I, H).cuda()
        weights = [layer.kernel, layer.recurrent_kernel, layer.bias, layer.recurrent_bias]
        with torch.no_grad():
            for own, value in zip(weights, list(given.values())[2:], strict=True):
                own.copy_(reordered(value))
        x, h0 = (given[n].detach().clone().requires_grad_(p.training) for n in ("x", "h0"))
        return Prepared(lambda: layer(x, h0[None]), [x, h0, *weights], restore)

    return prepare


BENCH = Bench(
    op="gru",
    family="recurrent",
    cpu=[*recurrent.CPU, *recurrent.CPU_RESETS],
    gpu=[*recurrent.GPU, *recurrent.GPU_RESETS],
    inputs=functools.partial(recurrent.inputs, gates=3),
    reference=from_function(reference.gru),
    providers={
        "seqops": from_function(functional.gru),
        "torch.nn": recurrent.torch_nn(torch.nn.GRU),
        "torch.nn cell loop": from_function(recurrent.loop(torch.gru_cell)),
        "eager loop": from_function(recurrent.loop(reference.gru_cell)),
        "compiled cell": recurrent.compiled_cell(reference.gru_cell),
        "haste": haste,
    },
    work=functools.partial(recurrent.work, gates=3, tanh=1, exp=2),
)


def test_gru(timed: Callable[[], None]) -> None:
    timed()
