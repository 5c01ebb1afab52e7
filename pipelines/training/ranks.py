"""Exchange between the ranks of a distributed training. With one rank, nothing is exchanged."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stn.classifiers import Network


def distribute(network: Network, device: torch.device) -> DistributedDataParallel:
    """Wrap the network of each rank, so that gradients are averaged over the ranks.

    On GPUs, batch normalization uses the statistics of the global batch; on CPUs, torch has no such layer. The buffers
    are left to :func:`average_buffers`: ``broadcast_buffers`` would copy those of rank 0 to all ranks in every step.
    """
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # replaces the layers inside the network
    on_gpu = device.type == "cuda"
    return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=on_gpu)


def average_buffers(network: nn.Module, world_size: int) -> None:
    """Average floating-point buffers over the ranks: the running statistics of batch normalization.

    On CPUs each rank normalizes its share of a batch by the statistics of that share alone.
    """
    if world_size > 1:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                all_reduce(buffer).div_(world_size)


def gather_rows(theta: torch.Tensor, images: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """Collect θ of the chosen images on every rank.

    Args:
        theta: θ (n, P) of this rank's share of the images, as :meth:`stn.batches.Batches.ordered` divides them.
        images: indices (E,) of the chosen images, on the CPU.

    Returns:
        θ (E, P), on the CPU.
    """
    mine = images % world_size == rank
    rows = torch.zeros(len(images), theta.shape[1], device=theta.device)
    rows[mine] = theta[images[mine] // world_size]
    return all_reduce(rows).cpu()


def all_reduce(values: torch.Tensor) -> torch.Tensor:
    """Sum ``values`` over all ranks, in place; returns ``values``."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def broadcast(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def leave_group() -> None:
    """Exchange nothing from now on: this rank trains alone. Called by all ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()
