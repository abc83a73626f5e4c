"""transformers' beam search against ours in its place, hypothesis by hypothesis, on small models of random weights."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from seqops.decoding.beams import BeamSearch
from seqops.integrations.transformers import beam_search

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("cpu_path")

V, EOS, PAD = 23, 1, 2


@functools.cache
def made(kind: str) -> Any:
    torch.manual_seed(0)
    common = {"vocab_size": V, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": 0}
    if kind in ("gpt2", "no cache"):
        config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **common)
        model = transformers.GPT2LMHeadModel(config)
    elif kind == "llama":
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
        config = transformers.LlamaConfig(num_attention_heads=2, num_key_value_heads=1, **sizes, **common)
        model = transformers.LlamaForCausalLM(config)
    elif kind == "t5":
        config = transformers.T5Config(
            d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0, **common
        )
        model = transformers.T5ForConditionalGeneration(config)
    else:
        sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 24))}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        config = transformers.BartConfig(
            d_model=16, max_position_embeddings=64, decoder_start_token_id=0, forced_eos_token_id=None,
            forced_bos_token_id=None, **sizes, **heads, **common,
        )  # fmt: skip
        model = transformers.BartForConditionalGeneration(config)
    for name, weight in model.named_parameters():
        if "norm" not in name and "ln_" not in name:
            # Far from uniform: hypotheses differ in what they are worth.
            torch.nn.init.normal_(weight, std=0.6 if kind != "t5" else 0.35)
    model.generation_config.use_cache = kind != "no cache"
    return model.eval()


def inputs(kind: str, B: int = 3, P: int = 4) -> dict[str, Tensor]:
    """Of different lengths: padded on the left for a decoder alone, on the right for an encoder."""
    ids = torch.randint(3, V, (B, P), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(P) < torch.tensor([P, P - 1, 2])[:B, None]
    mask = mask if kind in ("t5", "bart") else mask.flip(1)
    return {"input_ids": torch.where(mask, ids, PAD), "attention_mask": mask.long()}


def both(kind: str, **options: Any) -> tuple[Any, Any]:
    options = {
        "max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_scores": True
    } | options  # fmt: skip
    model, given = made(kind), inputs(kind)
    theirs = model.generate(**given, **options)
    return theirs, model.generate(**given, custom_generate=beam_search, **options)


def assert_same(theirs: Any, ours: Any) -> None:
    assert type(ours) is type(theirs)
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, rtol=1e-5, atol=1e-5)
    assert ours.beam_indices.dtype == theirs.beam_indices.dtype
    assert torch.equal(ours.beam_indices, theirs.beam_indices)


KINDS = ["gpt2", "llama", "no cache", "t5", "bart"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_stopping(kind: str, beam: int, early_stopping: bool | str) -> None:
    if beam == 1:
        # There transformers takes another way, which gives no scores of sequences.
        theirs, ours = both(kind, num_beams=1, return_dict_in_generate=False)
        assert torch.equal(ours, theirs)
        return
    for length_penalty in (0.0, 1.0, 2.0, -1.0):
        assert_same(
            *both(
                kind,
                num_beams=beam,
                num_return_sequences=beam,
                early_stopping=early_stopping,
                length_penalty=length_penalty,
            )
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"eos_token_id": [1, 5, 7, 9]},
        {"eos_token_id": [1, 5], "min_new_tokens": 4},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"bad_words_ids": [[5], [6, 7]], "forced_eos_token_id": 1},
        {"suppress_tokens": [1, 4, 8], "exponential_decay_length_penalty": (2, 1.3)},
        {"renormalize_logits": True, "sequence_bias": [[[3], 1.5]]},
    ],
    ids=["ends", "least", "repetition", "bad words", "suppress", "renormalize"],
)
def test_processors(kind: str, options: dict[str, Any]) -> None:
    assert_same(*both(kind, num_beams=4, num_return_sequences=3, **options))


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_stopping_criteria(kind: str) -> None:
    def even(sequences: Tensor, scores: Any, **_: Any) -> Tensor:
        return (sequences.shape[1] > 3) & (sequences[:, -1] + sequences[:, -2] == 20)

    criteria = transformers.StoppingCriteriaList([even])
    assert_same(*both(kind, num_beams=4, num_return_sequences=4, stopping_criteria=criteria))


@pytest.mark.parametrize("kind", KINDS)
def test_what_steps_give(kind: str) -> None:
    asked = {"output_logits": True, "output_attentions": True, "output_hidden_states": True}
    made(kind).set_attn_implementation("eager")
    theirs, ours = both(kind, num_beams=3, **asked)
    assert_same(theirs, ours)
    assert list(ours) == list(theirs)
    for name in theirs:
        if "cache" not in name:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4)
    model = made(kind)
    transitions = [
        model.compute_transition_scores(out.sequences, out.scores, out.beam_indices) for out in (theirs, ours)
    ]
    torch.testing.assert_close(*transitions, rtol=1e-4, atol=1e-4)


def test_plain_result_is_sequences() -> None:
    theirs, ours = both("bart", num_beams=3, return_dict_in_generate=False, output_scores=False)
    assert torch.equal(ours, theirs)


def test_pad_0_is_no_missing_pad() -> None:
    theirs, ours = both("llama", num_beams=4, num_return_sequences=4, pad_token_id=0, eos_token_id=[1, 5, 7, 9])
    assert (ours.sequences == 0).any()
    beyond = ours.beam_indices < 0
    assert (ours.sequences[:, 4:][beyond] == 0).all()
    assert torch.equal(ours.sequences[:, 4:][~beyond], theirs.sequences[:, 4:][~beyond])


def test_embeddings_in_place_of_a_prompt() -> None:
    model, given = made("llama"), inputs("llama")
    given["inputs_embeds"] = model.get_input_embeddings()(given.pop("input_ids"))
    options = {"num_beams": 3, "max_new_tokens": 6, "do_sample": False}
    theirs = model.generate(**given, **options)
    assert torch.equal(model.generate(**given, **options, custom_generate=beam_search), theirs)


def test_patience_and_groups() -> None:
    options = {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True, "length_penalty": 3.0}
    options["eos_token_id"] = list(range(1, 15))
    model, given = made("gpt2"), inputs("gpt2")
    patient = model.generate(
        **given, **options, max_new_tokens=8, patience=3.0, custom_generate=beam_search, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    hasty = both("gpt2", **options)[1]
    assert (patient.sequences_scores >= hasty.sequences_scores).all()
    assert (patient.sequences_scores > hasty.sequences_scores).any()
    groups = model.generate(
        **given, num_beams=4, num_beam_groups=2, diversity_penalty=50.0, num_return_sequences=4, max_new_tokens=4,
        custom_generate=beam_search,
    )  # fmt: skip
    assert all(len(set(row)) >= 2 for row in groups.view(3, 4, -1)[:, :, 4].tolist())


def test_encoder_side_of_a_cache_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same for all beams of an item: only what the decoder has of itself is moved."""
    moved = []
    layer = transformers.cache_utils.DynamicLayer
    reorder = layer.reorder_cache
    monkeypatch.setattr(layer, "reorder_cache", lambda self, rows: (moved.append(self), reorder(self, rows))[1])
    given = inputs("t5")
    made("t5").generate(**given, num_beams=3, max_new_tokens=4, do_sample=False, custom_generate=beam_search)
    assert len({id(one) for one in moved}) == 2


@pytest.mark.parametrize("options", [{"do_sample": True}, {"low_memory": True}])
def test_what_it_does_not_do(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must not be set, got True"):
        made("gpt2").generate(**inputs("gpt2"), num_beams=2, max_new_tokens=2, custom_generate=beam_search, **options)


def test_running_needs_sequences() -> None:
    search = BeamSearch(batch_size=1, beam_size=2, bos=0, eos=1, max_length=2)
    with pytest.raises(ValueError, match="beam_search: running needs keep_sequences"):
        search.running  # noqa: B018
