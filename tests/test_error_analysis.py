"""analyze_errors on scores made up for each case, and on a real search."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqops import analyze_errors, beam_search, score_sequences

pytestmark = pytest.mark.usefixtures("cpu_path")


def scorer(reference: list[float], hypothesis: list[float]):
    """Gives the first list, then the second."""
    results = iter((torch.tensor(reference), torch.tensor(hypothesis)))
    return lambda sequences, lengths: next(results)


def test_faults() -> None:
    references = torch.tensor([[1, 2, 0], [1, 2, 3], [1, 2, 3], [1, 2, 3], [4, 4, 4]]), torch.tensor([2, 3, 3, 3, 1])
    # Equal up to padding, one token off, shorter, equal scores, equal tokens but longer.
    hypotheses = torch.tensor([[1, 2, 9, 9], [1, 2, 4, 0], [1, 2, 0, 0], [3, 2, 1, 0], [4, 4, 4, 4]])
    hypotheses = hypotheses, torch.tensor([2, 3, 2, 3, 2])
    score = scorer([-9.0, -1.0, -2.0, -3.0, -4.0], [-9.0, -2.0, -1.0, -3.0, float("-inf")])
    result = analyze_errors(score, references, hypotheses)
    assert result.faults == ("none", "beam", "model", "model", "beam")
    assert result.reference_scores.tolist() == [-9.0, -1.0, -2.0, -3.0, -4.0]
    assert result.hypothesis_scores[:2].tolist() == [-9.0, -2.0]
    assert result.errors == 4
    assert (result.beam_share, result.model_share) == (0.5, 0.5)
    assert str(result) == "4 errors in 5 items: beam search at fault for 50%, the model for 50%"


def test_without_errors() -> None:
    same = torch.tensor([[1, 2]]), torch.tensor([2])
    result = analyze_errors(scorer([-1.0], [-1.0]), same, same)
    assert (result.errors, result.beam_share, result.model_share) == (0, 0.0, 0.0)
    assert str(result) == "0 errors in 1 items"


def test_a_greedy_search_is_at_fault() -> None:
    # Token 1 looks best at first, yet all that follows it is improbable; 0 ends.
    table = torch.tensor([[0.2, 0.2, 0.3, 0.3], [0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01], [0.1, 0.5, 0.4, 0]])

    def step(tokens: Tensor, state: None) -> tuple[Tensor, None]:
        return table.log()[tokens], None

    def score(sequences: Tensor, lengths: Tensor) -> Tensor:
        return score_sequences(step, None, sequences, lengths, bos=3)[0]

    found = beam_search(step, None, batch_size=1, beam_size=1, bos=3, eos=0, max_length=3)
    assert found.sequences[0, 0, 0] == 1
    better = torch.tensor([[2, 0]]), torch.tensor([2])
    worse = torch.tensor([[3, 3, 0]]), torch.tensor([3])
    hypotheses = found.sequences[:, 0], found.lengths[:, 0]
    assert analyze_errors(score, better, hypotheses).faults == ("beam",)
    assert analyze_errors(score, worse, hypotheses).faults == ("model",)
    assert analyze_errors(score, hypotheses, hypotheses).faults == ("none",)


def test_bad_arguments() -> None:
    two, one = (torch.zeros(2, 3), torch.tensor([3, 3])), (torch.zeros(1, 3), torch.tensor([3]))
    with pytest.raises(ValueError, match="analyze_errors: score must give numbers, got NaN for hypotheses"):
        analyze_errors(scorer([0.0, 0.0], [0.0, float("nan")]), two, two)
    with pytest.raises(ValueError, match=r"analyze_errors: hypotheses must have shape \[2, L\], got \[1, 3\]"):
        analyze_errors(scorer([0.0, 0.0], [0.0]), two, one)
    with pytest.raises(ValueError, match=r"analyze_errors: score's result for references must have shape \[2\]"):
        analyze_errors(scorer([0.0], [0.0]), two, two)
    with pytest.raises(ValueError, match=r"analyze_errors: lengths must lie in 0..3, got 3..4"):
        analyze_errors(scorer([0.0, 0.0], [0.0, 0.0]), two, (two[0], torch.tensor([3, 4])))
