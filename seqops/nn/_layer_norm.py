"""What the layer-normalised recurrent layers and cells have beside torch's: gains, and where they start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ._cells import Cell
from ._recurrent import Recurrent
from ._regularization import changed

__all__ = ["NormedCell", "NormedLayer"]

# In the order of the ops' arguments, after the weights and biases; those of a cell's norm last.
GAINS = ("gamma_ih", "gamma_hh", "gamma_c", "beta_c")


class _Normed(torch.nn.Module):
    """Of a layer or a cell, before the class of torch's that it extends."""

    _states: int
    bias: Any
    hidden_size: int

    joint = False
    norm_cell = False
    eps = 1e-5

    def _set_norms(self, module: str, joint: bool, norm_cell: bool, eps: float) -> None:
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps > 0:
            raise ValueError(f"{module}: eps must be a number above 0, got {eps!r}")
        self.joint, self.norm_cell, self.eps = joint, norm_cell, eps

    def _gains(self, weight: Tensor) -> dict[str, Parameter]:
        """Those that there are, empty, beside a weight [G*H, I]."""
        absent = {"gamma_ih"} if self.joint else set()
        absent |= set() if self.norm_cell else {"gamma_c", "beta_c"}
        absent |= set() if self.bias else {"beta_c"}
        size = {"gamma_c": self.hidden_size, "beta_c": self.hidden_size}
        return {n: Parameter(weight.new_empty(size.get(n, weight.shape[0]))) for n in GAINS if n not in absent}

    def _norm_options(self) -> dict[str, Any]:
        """What the op takes; norm_cell is an LSTM's."""
        options = {"joint": self.joint, "eps": self.eps}
        return options if self._states == 1 else {**options, "norm_cell": self.norm_cell}

    def reset_parameters(self) -> None:
        """Weights as torch has them, gains 1 and biases 0; at 1 that of an LSTM's forget gate, or with `joint` of z."""
        H, opens = self.hidden_size, self._states == 2 or self.joint
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith("weight"):
                bound = H**-0.5 if H else 0.0
                torch.nn.init.uniform_(parameter, -bound, bound)
            elif name.startswith("gamma"):
                torch.nn.init.ones_(parameter)
            else:
                torch.nn.init.zeros_(parameter)
                if opens and name.startswith("bias_hh"):
                    with torch.no_grad():
                        parameter[H : 2 * H] = 1

    def extra_repr(self) -> str:
        plain = {"joint": False, "norm_cell": type(self).norm_cell, "eps": 1e-5}
        return super().extra_repr() + changed(self, plain)


class NormedLayer(_Normed, Recurrent):
    """With gains for each layer and direction; `joint` has no bias_ih and no gamma_ih."""

    def _add_norms(self, joint: bool, norm_cell: bool, eps: float) -> None:
        """The constructor's last part."""
        self._set_norms(self._name, joint, norm_cell, eps)
        for group in self._all_weights:
            which = group[0].removeprefix("weight_ih")
            if joint and self.bias:
                delattr(self, "bias_ih" + which)
                group.remove("bias_ih" + which)
            for name, gain in self._gains(getattr(self, group[0])).items():
                setattr(self, name + which, gain)
                group.append(name + which)
        self._flat_weights_names = [name for group in self._all_weights for name in group]
        self._init_flat_weights()
        self.reset_parameters()

    @property
    def _name(self) -> str:
        return f"LayerNorm{self.mode}"

    def _joins(self) -> bool:
        return False

    def _weights(self, which: str) -> list[Any]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", *GAINS[: 2 * self._states])
        return [getattr(self, name + which, None) for name in names]


class NormedCell(_Normed, Cell):
    """With gains; `joint` has no bias_ih and no gamma_ih."""

    def _add_norms(
        self,
        joint: bool,
        norm_cell: bool,
        eps: float,
        num_heads: int,
        zoneout: float | tuple[float, float],
    ) -> None:
        """The constructor's last part."""
        self._set_norms(self._name, joint, norm_cell, eps)
        if joint:
            self.register_parameter("bias_ih", None)
        gains = self._gains(self.weight_ih)
        for name in GAINS[: 2 * self._states]:
            self.register_parameter(name, gains.get(name))
        self._regularize(num_heads, zoneout)
        self.reset_parameters()

    def _weights(self) -> list[Any]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", *GAINS[: 2 * self._states])
        return [getattr(self, name) for name in names]
