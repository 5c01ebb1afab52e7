"""How many workers a training gets on given nodes, and with how many CPU threads each.

Ray waits forever, without an error, for more workers than the cluster has room for.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from pipelines.runtime.cores import usable_cores
from pipelines.runtime.errors import UserError
from pipelines.settings.params import TrainParams
from pipelines.settings.workers import WorkerRange

# With several GPUs and one seed, auto gives each GPU a share of a batch of at least this size. Not measured.
SMALLEST_SHARE = 32


class Node(NamedTuple):
    """CPUs, GPUs and bytes of memory that a node lends to Ray."""

    cpus: int
    gpus: int
    memory: float = math.inf


def this_machine() -> Node:
    """The cores that this process may use, and the GPUs that torch can use."""
    return Node(usable_cores().number, torch.cuda.device_count())


class WorkerPlan(NamedTuple):
    """The workers of a training.

    Args:
        number: workers that the cluster has room for now.
        threads: CPU threads of each worker.
        gpu: whether each worker takes one GPU.
        least, most: the limits of ``number``. Training is elastic if they differ.
        per_seed: whether each worker trains seeds of its own; otherwise all workers share each batch.
        idle_gpus: GPUs that ``auto`` does not use.
    """

    number: int
    threads: int
    gpu: bool
    least: int
    most: int
    per_seed: bool = False
    idle_gpus: int = 0

    @property
    def sharing(self) -> int:
        """The number of workers that share a batch now."""
        return 1 if self.per_seed else self.number

    @property
    def most_sharing(self) -> int:
        """The largest number of workers that may share a batch."""
        return 1 if self.per_seed else self.most

    def __str__(self) -> str:
        kind = "one GPU and " if self.gpu else ""
        elastic = f" ({self.least} to {self.most})" if self.least < self.most else ""
        text = f"{self.number} worker{'s' * (self.number > 1)}{elastic}, {kind}{self.threads} CPU thread(s) each"
        if self.per_seed:
            text += ", each trains seeds of its own"
        if self.idle_gpus:
            text += f"; {self.idle_gpus} GPU(s) stay idle unless train.workers is a number"
        return text

    def room(self, nodes: Sequence[Node]) -> int:
        """The number of workers, up to ``most``, that fit on ``nodes`` when nothing else runs there."""
        fitting = 0
        for node in nodes:
            on_node = node.cpus // self.threads
            fitting += min(on_node, node.gpus) if self.gpu else on_node
        return min(fitting, self.most)


def plan_workers(train: TrainParams, nodes: Sequence[Node]) -> WorkerPlan:
    """Resolve ``train.workers`` and ``train.threads`` for the nodes of a cluster, or for one machine.

    ``auto`` gives each seed a GPU of its own before it shares batches among several.

    Raises:
        UserError: the nodes have too few GPUs or CPUs.
    """
    gpus = sum(node.gpus for node in nodes)
    nodes = [node for node in nodes if (node.gpus if gpus else node.cpus)]
    cpus = sum(node.cpus for node in nodes)
    seeds = len(train.seeds)
    per_seed = train.workers == "per_seed" or (train.workers == "auto" and min(gpus, seeds) > 1)
    if isinstance(train.workers, WorkerRange):
        least, most = train.workers.min, train.workers.max
    elif per_seed:
        least, most = 1, seeds
    elif train.workers == "auto":
        least = most = max(1, min(gpus, train.batch_size // SMALLEST_SHARE))
    else:
        assert isinstance(train.workers, int)
        least = most = train.workers
    if gpus and least > gpus:
        raise UserError(f"train.workers: {least} given; each takes a GPU, and there are {gpus}")
    threads, wanted = train.threads, max(least, min(most, gpus or cpus))
    if threads == "auto" and gpus:
        threads = max(1, min(node.cpus // node.gpus for node in nodes))
    elif threads == "auto":
        smallest = min((node.cpus for node in nodes), default=0)
        threads = max(1, smallest // math.ceil(wanted / max(1, len(nodes))))
    plan = WorkerPlan(wanted, threads, gpus > 0, least, most, per_seed)
    if (room := plan.room(nodes)) < least:
        given = train.workers if isinstance(train.workers, str) else least
        raise UserError(
            f"train.workers: {given} given, of {threads} thread(s) each; {cpus} CPU(s) on {len(nodes)} machine(s) have "
            f"room for {room}"
        )
    number = min(wanted, room)
    if per_seed:
        plan = plan._replace(least=number, most=number)
    return plan._replace(number=number, idle_gpus=max(0, gpus - number) if train.workers == "auto" else 0)
