"""Sequence models' building blocks as Triton kernels with a CPU path: `seqops.nn`, `seqops.functional`, decoding."""

from . import embeddings, functional, nn
from .convert import convert
from .decoding import BeamSearchOutput, ErrorAnalysis, analyze_errors, beam_search, score_sequences

__version__ = "0.1.0"
__all__ = [
    "BeamSearchOutput",
    "ErrorAnalysis",
    "__version__",
    "analyze_errors",
    "beam_search",
    "convert",
    "embeddings",
    "functional",
    "nn",
    "score_sequences",
]
