"""Gates far from 0 and zoneout near 1: what little a step lets through keeps its digits, in every recurrent op."""

from __future__ import annotations

import pytest
import torch
from cases import CASES
from conftest import Path
from helpers import assert_as_accurate
from torch import Tensor

LABELS = [
    "rnn",
    "gru",
    "gru of Cho",
    "lstm",
    "lstm with projection",
    "layer_norm_gru",
    "layer_norm_gru joint",
    "layer_norm_lstm",
]
# Where the gates' pre-activations lie, of a GRU's r, z, n and an LSTM's i, f, g, o: above, below or about 0. In the
# first the state is kept, and so small that the rounding of what is not let in would show.
GATES = {
    "keeps": {"gru": "0+0", "lstm": "-+0+"},
    "open": {"gru": "+-0", "lstm": "++0+"},
    "shut": {"gru": "--0", "lstm": "--0-"},
}
SIZES = {"T": 2, "B": 3, "I": 2, "H": 5, "P": 4}


def problem(label: str, gates: str) -> dict[str, Tensor]:
    case = CASES[label]
    inputs = case.problem(**{n: s for n, s in SIZES.items() if n in case.largest})
    inputs = {n: t for n, t in inputs.items() if not n.startswith("reset")}
    far = torch.linspace(20, 30, SIZES["H"], dtype=torch.float64)
    sides = torch.tensor([{"+": 1.0, "-": -0.5, "0": 0.0}[g] for g in gates], dtype=torch.float64)
    inputs["b_hh"] = inputs["b_hh"] + (sides[:, None] * far).flatten()
    return inputs


def check(path: Path, label: str, inputs: dict[str, Tensor], dtype: torch.dtype, **options: object) -> None:
    case = CASES[label]
    fixed = {n: o for n, o in case.usual(**SIZES).items() if n != "reset"}
    assert_as_accurate(case.op, case.reference, inputs, dtype=dtype, device=path.device, **fixed | options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("state", GATES)
@pytest.mark.parametrize("label", LABELS[1:])
def test_saturated_gates(path: Path, label: str, state: str, dtype: torch.dtype) -> None:
    inputs = problem(label, GATES[state]["lstm" if "lstm" in label else "gru"])
    if state == "keeps":
        inputs |= {n: inputs[n] * 2**-10 for n in ("h0", "c0") if n in inputs}
    check(path, label, inputs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("label", LABELS)
def test_zoneout_near_1(path: Path, label: str, dtype: torch.dtype) -> None:
    inputs = problem(label, {"rnn": "0"}.get(label, "0000" if "lstm" in label else "000"))
    inputs |= {n: inputs[n] * 2**-10 for n in ("h0", "c0") if n in inputs}
    states = {"zoneout": "h0", "zoneout_c": "c0"}
    options = {n: torch.full((SIZES["T"], *inputs[s].shape), 1 - 2**-8) for n, s in states.items() if s in inputs}
    check(path, label, inputs, dtype, **options)
