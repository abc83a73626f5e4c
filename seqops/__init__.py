"""Sequence models' building blocks as Triton kernels with a CPU path: `seqops.nn`, `seqops.functional`, decoding."""

from . import functional, nn

__version__ = "0.1.0"
__all__ = ["__version__", "functional", "nn"]
