"""Sequence models' building blocks as Triton kernels with a CPU path: `seqops.nn`, `seqops.functional`, decoding."""

from . import embeddings, functional, nn
from .convert import convert
from .decoding import (
    BeamSearch,
    BeamSearchOutput,
    ErrorAnalysis,
    analyze_errors,
    beam_search,
    exact_search,
    gnmt_length_penalty,
    sample,
    score_sequences,
    topk_logprobs,
)

__version__ = "0.1.0"
__all__ = [
    "BeamSearch",
    "BeamSearchOutput",
    "ErrorAnalysis",
    "__version__",
    "analyze_errors",
    "beam_search",
    "convert",
    "embeddings",
    "exact_search",
    "functional",
    "gnmt_length_penalty",
    "nn",
    "sample",
    "score_sequences",
    "topk_logprobs",
]
