"""Beam search for Hugging Face transformers' `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..decoding.beam_search import STEPS_PER_LOOK
from ..decoding.beams import BeamSearch

__all__ = ["beam_search"]

OP = "integrations.transformers.beam_search"


@torch.no_grad()
def beam_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: Iterable[Callable[[Tensor, Tensor], Tensor]],
    stopping_criteria: Iterable[Callable[..., Tensor]],
    generation_config: Any,
    *,
    patience: float = 1.0,
    **model_kwargs: Any,
) -> Any:
    """transformers' beam search by `seqops.BeamSearch`: the same hypotheses and scores, up to rounding.

        model.generate(**inputs, num_beams=4, custom_generate=seqops.integrations.transformers.beam_search)

    All that generate takes for beam search is honoured: several ends, length_penalty, early_stopping (True, False,
    "never"), num_return_sequences, logits processors, stopping criteria, caches, and what output_scores, output_logits,
    output_attentions and output_hidden_states ask for. Beside that `patience`, an argument of generate then, and
    num_beam_groups with diversity_penalty.

    It differs in what lies beyond a sequence's end where pad_token_id is 0: that is 0, not the end token; and where an
    item has fewer hypotheses than num_return_sequences: the others are empty, with a score of -inf. On a GPU the host
    looks every few steps whether all is done: outputs by step then have more steps.

    Args:
        model, input_ids [B*num_beams, P], logits_processor, stopping_criteria, generation_config, model_kwargs: as
            generate passes them.
        patience: hypotheses are enough at patience * num_beams, where early_stopping is True.

    Returns:
        The sequences [B*num_return_sequences, L], or with return_dict_in_generate transformers'
        GenerateBeamDecoderOnlyOutput or GenerateBeamEncoderDecoderOutput.

    Raises:
        ValueError: do_sample, constraints or low_memory are asked for, or the cache cannot be reordered.

    Source: transformers' GenerationMixin; tested with transformers 5.24.
    """
    from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

    config, encoder_decoder = generation_config, model.config.is_encoder_decoder
    for name in ("do_sample", "constraints", "force_words_ids", "low_memory"):
        if getattr(config, name, None):
            raise ValueError(f"{OP}: {name} must not be set, got {getattr(config, name)}")
    (rows, P), beam = input_ids.shape, config.num_beams
    B = rows // beam
    ends, pad = config._eos_token_tensor, config._pad_token_tensor
    processors = list(logits_processor)
    search = BeamSearch(
        batch_size=B,
        beam_size=beam,
        bos=input_ids.unflatten(0, (B, beam))[:, 0],
        eos=None if ends is None else ends.flatten().tolist(),
        max_length=config.max_length - P,
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping,
        patience=patience,
        n_best=config.num_return_sequences,
        groups=getattr(config, "num_beam_groups", None) or 1,
        diversity=getattr(config, "diversity_penalty", None) or 0.0,
        stopping_criteria=[c for c in stopping_criteria if not isinstance(c, (EosTokenCriteria, MaxLengthCriteria))],
        pad=None if pad is None else int(pad),
        keep_sequences=True,
        device=input_ids.device,
    )
    record = Record(config, encoder_decoder)
    look = 1 if search.device.type == "cpu" else STEPS_PER_LOOK
    outputs = model._prefill(input_ids, config, model_kwargs, is_first_iteration=not config.is_assistant)
    while True:
        model_kwargs = model._update_model_kwargs_for_generation(
            outputs, model_kwargs, is_encoder_decoder=encoder_decoder
        )
        logits, normalized = outputs.logits[:, -1].to(search.device), False
        if processors or record.scores is not None:
            normalized, processed = True, torch.log_softmax(logits, -1, dtype=torch.float32)
            for process in processors:
                processed = process(search.running, processed)
            record.step(outputs, logits, processed)
            logits = processed
        else:
            record.step(outputs, logits, None)
        # Held on to, a prompt's logits stay in memory beside the next step's.
        del outputs
        beams = search.advance(logits.unflatten(0, (B, beam)), normalized=normalized)
        if search.steps == search.max_length or (search.steps % look == 0 and search.finished()):
            break
        _reorder_cache(model, model_kwargs, beams)
        inputs = model.prepare_inputs_for_generation(
            search.running, next_sequence_length=1 if model_kwargs["use_cache"] else None, **model_kwargs
        )
        outputs = model(**inputs, return_dict=True)

    found = search.output()
    prompts = search.prompt.repeat_interleave(config.num_return_sequences, 0)
    sequences = torch.cat((prompts, found.sequences.flatten(0, 1)), 1)
    if not config.return_dict_in_generate:
        return sequences
    first_rows = torch.arange(B, device=search.device)[:, None, None] * beam
    beam_indices = torch.where(found.parents < 0, -1, found.parents + first_rows)
    return record.output(
        model_kwargs,
        sequences=sequences,
        sequences_scores=found.scores.flatten() if config.output_scores else None,
        beam_indices=beam_indices.flatten(0, 1).int(),
    )


def _cache_name(model_kwargs: dict[str, Any]) -> str | None:
    from transformers.generation.utils import ALL_CACHE_NAMES

    return next((name for name in ALL_CACHE_NAMES if model_kwargs.get(name) is not None), None)


def _reorder_cache(model: Any, model_kwargs: dict[str, Any], rows: Tensor) -> None:
    name = _cache_name(model_kwargs)
    if name is None:
        return
    cache = model_kwargs[name]
    if hasattr(model, "_reorder_cache"):
        model_kwargs[name] = model._reorder_cache(cache, rows)
        return
    # What the decoder has of the encoder is the same for all beams of an item, which rows never leave.
    cache = getattr(cache, "self_attention_cache", cache)
    if not hasattr(cache, "reorder_cache"):
        raise ValueError(f"{OP}: the cache must be one that can be reordered, got {type(cache).__name__}")
    cache.reorder_cache(rows)


class Record:
    """What each step of the model has given, as far as generate was asked for it; None where it was not."""

    def __init__(self, config: Any, encoder_decoder: bool) -> None:
        self.encoder_decoder = encoder_decoder

        def asked(name: str) -> list[Any] | None:
            return [] if config.return_dict_in_generate and getattr(config, name) else None

        self.scores, self.logits = asked("output_scores"), asked("output_logits")
        self.attentions, self.cross = asked("output_attentions"), asked("output_attentions")
        self.hidden = asked("output_hidden_states")

    def step(self, outputs: Any, logits: Tensor, processed: Tensor | None) -> None:
        own = "decoder_" if self.encoder_decoder else ""
        if self.logits is not None:
            self.logits.append(logits.float().clone())
        if self.scores is not None:
            self.scores.append(processed)
        if self.attentions is not None and self.cross is not None:
            self.attentions.append(outputs[own + "attentions"])
            self.cross.append(outputs.get("cross_attentions"))
        if self.hidden is not None:
            self.hidden.append(outputs[own + "hidden_states"])

    def output(self, model_kwargs: dict[str, Any], **common: Any) -> Any:
        from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput

        attentions, cross, hidden = (
            None if r is None else tuple(r) for r in (self.attentions, self.cross, self.hidden)
        )
        common |= {"scores": None if self.scores is None else tuple(self.scores)}
        common |= {"logits": None if self.logits is None else tuple(self.logits)}
        name = _cache_name(model_kwargs)
        if name is not None:
            # transformers has called it past_key_values, too.
            own = "cache" if "cache" in GenerateBeamDecoderOnlyOutput.__dataclass_fields__ else "past_key_values"
            common[own] = model_kwargs[name]
        if not self.encoder_decoder:
            return GenerateBeamDecoderOnlyOutput(**common, attentions=attentions, hidden_states=hidden)
        encoder = model_kwargs["encoder_outputs"]
        return GenerateBeamEncoderDecoderOutput(
            **common,
            encoder_attentions=None if attentions is None else encoder.get("attentions"),
            encoder_hidden_states=None if hidden is None else encoder.get("hidden_states"),
            decoder_attentions=attentions,
            cross_attentions=cross,
            decoder_hidden_states=hidden,
        )
