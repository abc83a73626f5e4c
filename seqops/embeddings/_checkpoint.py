"""Checkpoints of trainings: what they hold, and the checks before one is taken up."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import torch
from torch import Tensor

from ._files import StrPath, replaced
from .corpus import EncodedCorpus

__all__ = ["corpus_identity", "read_checkpoint", "write_checkpoint"]


def corpus_identity(corpus: EncodedCorpus) -> str:
    """A training goes on only where it began."""
    vocabulary = corpus.vocabulary
    digest = hashlib.sha256("\n".join(vocabulary.words).encode("utf-8", "surrogatepass"))
    digest.update(vocabulary.counts.tobytes())
    digest.update(str(len(corpus)).encode())
    return digest.hexdigest()


def write_checkpoint(
    path: StrPath,
    options: dict[str, Any],
    identity: str,
    position: tuple[int, ...],
    tables: dict[str, Tensor],
    states: dict[str, Tensor],
) -> None:
    """Whole or not at all."""
    state = {
        "options": options,
        "corpus": identity,
        "position": list(position),
        "tables": {n: t.cpu() for n, t in tables.items()},
        "states": {n: t.cpu() for n, t in states.items()},
    }
    with replaced(path) as file:
        torch.save(state, file)


def read_checkpoint(
    path: StrPath, ours: dict[str, Any], identity: str
) -> tuple[tuple[int, ...], dict[str, Tensor], dict[str, Tensor]]:
    """Position, tables and states.

    Raises:
        ValueError: the file is broken, or of another corpus or other options. OSError: it cannot be read.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
        options, corpus, position = state["options"], state["corpus"], tuple(state["position"])
        tables, states = state["tables"], state["states"]
        other = [k for k in ours if options.get(k) != ours[k]]
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{name}: no checkpoint of a training, or a broken one ({type(error).__name__})") from None
    if other:
        what = ", ".join(f"{k} {options.get(k)}, not {ours[k]}" for k in other)
        raise ValueError(f"{name}: the checkpoint is of other options: {what}")
    if corpus != identity:
        raise ValueError(f"{name}: the checkpoint is of another corpus")
    return position, tables, states
