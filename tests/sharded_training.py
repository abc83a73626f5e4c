"""What each process of the sharded training runs: a module of its own, for a spawned process imports it by name."""

from __future__ import annotations

import pathlib

import torch
import torch.distributed as dist

from seqops.embeddings import EncodedCorpus, Trainer, TrainingOptions, Vocabulary

__all__ = ["train"]


def train(rank: int, meeting: str, text: list[list[str]], options: list[TrainingOptions], folder: str) -> None:
    """Trains with half the columns on this process; the second saves the vectors, for each of the options."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    corpus = EncodedCorpus.encode(text, Vocabulary.from_corpus(text, min_count=1))
    for number, o in enumerate(options):
        trainer = Trainer(corpus, o, group=dist.group.WORLD)
        assert trainer.tables["in"].shape == (len(corpus.vocabulary), o.dim // 2)
        vectors = trainer.run(checkpoint=pathlib.Path(folder) / f"{number}.checkpoint").vectors
        if rank == 1:
            torch.save(vectors, pathlib.Path(folder) / f"{number}.pt")
    dist.barrier()
    dist.destroy_process_group()
