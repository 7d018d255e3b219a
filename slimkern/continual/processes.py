"""The processes that train one run together, each with its share of every batch."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from slimkern.continual.config import ConfigError
from slimkern.nn import SwitchableBatchNorm2d


@dataclass(frozen=True)
class Processes:
    """This process among those that train a run; by default it is alone.

    All of them do the same with the same random numbers, and have the same weights at any time. Only in a training step
    each takes its own images; batch norms, gradients and losses are then those of the whole batch. So a run doesn't
    depend on the number of processes, but for rounding and for losses that are means over some of the images only.

    Attributes:
        rank: of this process; process 0 is the one that writes.
        count: how many they are.
        device: where this process trains.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, float]:
        """This process's part of a batch, and its share of the images.

        Raises:
            ConfigError: the batch has fewer images than there are processes.
        """
        if self.count == 1:
            return images, labels, 1.0
        if len(labels) < self.count:
            raise ConfigError(f"a batch of {len(labels)} images can't be shared by {self.count} processes")
        own = slice(self.rank, None, self.count)
        part = images[own].contiguous(memory_format=torch.channels_last)
        return part, labels[own], len(part) / len(images)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over the processes, in one exchange."""
        if self.count > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def broadcast(self, state: Any) -> Any:
        """The state of process 0, tensors and plain values, on the device of this one."""
        if self.count == 1:
            return state
        buffer = io.BytesIO()
        if self.rank == 0:
            torch.save(state, buffer)
        sent = [buffer.getvalue()]
        dist.broadcast_object_list(sent, src=0, device=self.device)
        return torch.load(io.BytesIO(sent[0]), map_location=self.device, weights_only=True) if self.rank else state

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Process 0 goes through this block before the others."""
        if self.rank > 0:
            dist.barrier()
        try:
            yield
        finally:
            if self.rank == 0 and self.count > 1:
                dist.barrier()

    @contextmanager
    def one_batch(self, net: nn.Module) -> Iterator[None]:
        """Within this block, the batch norms of the network take the batches of all processes as one."""
        norms = [module for module in net.modules() if isinstance(module, SwitchableBatchNorm2d)]
        for norm in norms if self.count > 1 else ():
            norm.process_group = dist.group.WORLD
        try:
            yield
        finally:
            for norm in norms:
                norm.process_group = None


ALONE = Processes()
"""The only process of a run."""


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun has started; one that was started otherwise is alone.

    Args:
        device: where to train; `cuda` becomes the GPU of this process's number on its machine.
    """
    if not dist.is_torchelastic_launched():
        yield Processes(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
