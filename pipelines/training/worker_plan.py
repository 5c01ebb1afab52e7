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
    """

    number: int
    threads: int
    gpu: bool
    least: int
    most: int

    def __str__(self) -> str:
        kind = "one GPU and " if self.gpu else ""
        elastic = f" ({self.least} to {self.most})" if self.least < self.most else ""
        return f"{self.number} worker{'s' * (self.number > 1)}{elastic}, {kind}{self.threads} CPU thread(s) each"

    def room(self, nodes: Sequence[Node]) -> int:
        """The number of workers, up to ``most``, that fit on ``nodes`` when nothing else runs there."""
        fitting = 0
        for node in nodes:
            on_node = node.cpus // self.threads
            fitting += min(on_node, node.gpus) if self.gpu else on_node
        return min(fitting, self.most)


def plan_workers(train: TrainParams, nodes: Sequence[Node]) -> WorkerPlan:
    """Resolve ``train.workers`` and ``train.threads`` for the nodes of a cluster, or for one machine.

    Raises:
        UserError: the nodes have too few GPUs or CPUs.
    """
    gpus = sum(node.gpus for node in nodes)
    nodes = [node for node in nodes if (node.gpus if gpus else node.cpus)]
    cpus = sum(node.cpus for node in nodes)
    if isinstance(train.workers, WorkerRange):
        least, most = train.workers.min, train.workers.max
    else:
        least = most = max(1, gpus) if train.workers == "auto" else train.workers
    if gpus and least > gpus:
        raise UserError(f"train.workers: {least} given; each takes a GPU, and there are {gpus}")
    threads, wanted = train.threads, max(least, min(most, gpus or cpus))
    if threads == "auto" and gpus:
        threads = max(1, min(node.cpus // node.gpus for node in nodes))
    elif threads == "auto":
        smallest = min((node.cpus for node in nodes), default=0)
        threads = max(1, smallest // math.ceil(wanted / max(1, len(nodes))))
    plan = WorkerPlan(wanted, threads, gpus > 0, least, most)
    if (room := plan.room(nodes)) < least:
        raise UserError(
            f"train.workers: {least} given, of {threads} thread(s) each; {cpus} CPU(s) on {len(nodes)} machine(s) have "
            f"room for {room}"
        )
    return plan._replace(number=min(wanted, room))
