"""Beam search, and whether it or the model is at fault for an error."""

from .beam_search import BeamSearchOutput, beam_search, score_sequences
from .error_analysis import ErrorAnalysis, analyze_errors

__all__ = ["BeamSearchOutput", "ErrorAnalysis", "analyze_errors", "beam_search", "score_sequences"]
