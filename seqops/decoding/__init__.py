"""Beam search, and whether it or the model is at fault for an error."""

from .beam_search import beam_search, score_sequences
from .beams import BeamSearch
from .error_analysis import ErrorAnalysis, analyze_errors
from .hypotheses import BeamSearchOutput
from .penalties import gnmt_length_penalty

__all__ = [
    "BeamSearch",
    "BeamSearchOutput",
    "ErrorAnalysis",
    "analyze_errors",
    "beam_search",
    "gnmt_length_penalty",
    "score_sequences",
]
