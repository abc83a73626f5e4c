"""Beam search, and whether it or the model is at fault for an error."""

from .beam_search import beam_search, score_sequences
from .beams import BeamSearch
from .error_analysis import ErrorAnalysis, analyze_errors
from .exact_search import ExactSearchOutput, exact_search
from .hypotheses import BeamSearchOutput
from .penalties import gnmt_length_penalty
from .sampling import Sample, TopKLogProbs, sample, topk_logprobs

__all__ = [
    "BeamSearch",
    "BeamSearchOutput",
    "ErrorAnalysis",
    "ExactSearchOutput",
    "Sample",
    "TopKLogProbs",
    "analyze_errors",
    "beam_search",
    "exact_search",
    "gnmt_length_penalty",
    "sample",
    "score_sequences",
    "topk_logprobs",
]
