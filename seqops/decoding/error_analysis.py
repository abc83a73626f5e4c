"""Whether beam search or the model is at fault for the errors of a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops._checks import check_lengths, check_shape

__all__ = ["ErrorAnalysis", "analyze_errors"]


@dataclass(frozen=True)
class ErrorAnalysis:
    """Per item what is at fault, "none", "beam" or "model", and the model's scores [B] of both sequences."""

    faults: tuple[str, ...]
    reference_scores: Tensor
    hypothesis_scores: Tensor

    @property
    def errors(self) -> int:
        """Items whose hypothesis is not the reference."""
        return len(self.faults) - self.faults.count("none")

    @property
    def beam_share(self) -> float:
        """The share of the errors for which beam search is at fault; 0 without errors."""
        return self.faults.count("beam") / max(1, self.errors)

    @property
    def model_share(self) -> float:
        """The share of the errors for which the model is at fault; 0 without errors."""
        return self.faults.count("model") / max(1, self.errors)

    def __str__(self) -> str:
        text = f"{self.errors} errors in {len(self.faults)} items"
        if not self.errors:
            return text
        return f"{text}: beam search at fault for {self.beam_share:.0%}, the model for {self.model_share:.0%}"


@torch.no_grad()
def analyze_errors(
    score: Callable[[Tensor, Tensor], Tensor], references: tuple[Tensor, Tensor], hypotheses: tuple[Tensor, Tensor]
) -> ErrorAnalysis:
    """Attributes each error to the search or to the model.

    none   the hypothesis is the reference
    beam   score(reference) > score(hypothesis): the model prefers the reference, the search has missed it
    model  else: the model prefers a wrong sequence

    Many faults of the search call for a wider beam, many of the model for a better model.

    Args:
        score: score(sequences [B, L], lengths [B]) -> [B], the model's log-probability of each sequence, normalized for
            length as it was in the search; for instance by `score_sequences`.
        references, hypotheses: each a pair of sequences [B, L], of any L, and lengths [B].

    Returns:
        ErrorAnalysis: the faults, the scores, and the shares of the errors.

    Raises:
        ValueError: a shape or a length does not fit, or a score is NaN.

    Source: Ng, Sequence Models, "Error analysis in beam search".
    """
    pairs = []
    for name, (sequences, lengths) in (("references", references), ("hypotheses", hypotheses)):
        check_shape("analyze_errors", name, sequences, ("B", "L"))
        checked = check_lengths("analyze_errors", lengths, len(sequences), sequences.shape[1], sequences.device)
        if checked is None:
            raise TypeError(f"analyze_errors: the lengths of {name} must be a Tensor, got None")
        values = score(sequences, lengths)
        check_shape("analyze_errors", f"score's result for {name}", values, (len(sequences),))
        if bool(values.isnan().any()):
            raise ValueError(f"analyze_errors: score must give numbers, got NaN for {name}")
        pairs.append((sequences, checked, values))
    (r, r_lengths, r_scores), (h, h_lengths, h_scores) = pairs
    check_shape("analyze_errors", "hypotheses", h, (len(r), "L"))

    shared = min(r.shape[1], h.shape[1])
    beyond = torch.arange(shared, device=r.device) >= r_lengths[:, None]
    equal = ((r[:, :shared] == h[:, :shared]) | beyond).all(1) & (r_lengths == h_lengths)
    missed = r_scores > h_scores
    faults = tuple(
        "none" if same else "beam" if better else "model"
        for same, better in zip(equal.tolist(), missed.tolist(), strict=True)
    )
    return ErrorAnalysis(faults, r_scores, h_scores)
