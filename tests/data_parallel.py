"""What each process of the data-parallel test runs: a module of its own, for a spawned process imports it by name."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from seqops import nn

__all__ = ["Model", "train"]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 5, 2, bidirectional=True)
        self.attention = nn.AdditiveAttention(6, query_dim=10, key_dim=10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gru(x)[0].transpose(0, 1)
        return self.attention(y, y)[0]


def train(rank: int, meeting: str, x: Tensor, path: str) -> None:
    """One backward on this process's half of x [T,B,I]; the first process saves the gradients."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(Model())
    model(x.chunk(2, 1)[rank]).square().sum().backward()
    if rank == 0:
        torch.save([p.grad for p in model.parameters()], path)
    # A process whose peer has gone while its communication threads still run is aborted.
    del model
    dist.barrier()
    dist.destroy_process_group()
