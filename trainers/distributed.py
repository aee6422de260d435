"""One training in several processes: synchronous SGD over torch.distributed, when launched with several.

Launch with `torchrun --nproc-per-node N`; without it there is one process and everything here is a no-op. Batch norm
uses the statistics of each process' share of the batch, as in the source's multi-GPU training.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """This process' place among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Average gradients over the processes, where there are several and the module has any."""
        learns = any(parameter.requires_grad for parameter in module.parameters())
        return DistributedDataParallel(module) if self.size > 1 and learns else module

    def unwrap(self, module: nn.Module) -> nn.Module:
        """The module that `wrap` was given."""
        return module.module if isinstance(module, DistributedDataParallel) else module

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the main one's buffers: batch norm's running statistics are each one's own till then."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


def join_world() -> World:
    """Join the process group that `torchrun` described in the environment, once."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")  # integers are on CPUs
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()
