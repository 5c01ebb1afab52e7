"""How many workers a training gets on the connected cluster, and how lost or new hosts change that.

Ray waits forever, without an error, for more workers than the cluster has room for.
"""

import math
from typing import NamedTuple

import ray

from pipelines.runtime.errors import UserError
from pipelines.settings.params import TrainParams, WorkerRange
from pipelines.training.cluster import nodes_alive


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

    def room(self) -> int:
        """The number of workers, up to ``most``, that fit on the connected cluster when nothing else runs there."""
        fitting = 0
        for node in nodes_alive():
            on_node = node.cpus // self.threads
            fitting += min(on_node, node.gpus) if self.gpu else on_node
        return min(fitting, self.most)


def plan_workers(train: TrainParams) -> WorkerPlan:
    """Resolve ``train.workers`` and ``train.threads`` for the connected cluster.

    Raises:
        UserError: the cluster has too few GPUs or CPUs.
    """
    nodes = nodes_alive()
    gpus = sum(node.gpus for node in nodes)
    nodes = [node for node in nodes if (node.gpus if gpus else node.cpus)]
    cpus = sum(node.cpus for node in nodes)
    if isinstance(train.workers, WorkerRange):
        least, most = train.workers.min, train.workers.max
    else:
        least = most = max(1, gpus) if train.workers == "auto" else train.workers
    if gpus and least > gpus:
        raise UserError(f"train.workers: {least} given; each takes a GPU and the cluster has {gpus}")
    threads, wanted = train.threads, max(least, min(most, gpus or cpus))
    if threads == "auto" and gpus:
        threads = max(1, min(node.cpus // node.gpus for node in nodes))
    elif threads == "auto":
        smallest = min((node.cpus for node in nodes), default=0)
        threads = max(1, smallest // math.ceil(wanted / max(1, len(nodes))))
    plan = WorkerPlan(wanted, threads, gpus > 0, least, most)
    if (room := plan.room()) < least:
        raise UserError(
            f"train.workers: {least} given, of {threads} thread(s) each; the cluster's {cpus} CPU(s) on {len(nodes)} "
            f"node(s) have room for {room}"
        )
    return plan._replace(number=min(wanted, room))


class HostWatch:
    """Watches which hosts leave and join the connected cluster."""

    def __init__(self, plan: WorkerPlan):
        self.plan = plan
        self.hosts = _hosts_alive()

    def changes(self) -> list[str]:
        """One line for each host that has left or joined since the last call, with the consequence for training."""
        before, self.hosts = self.hosts, _hosts_alive()
        if before == self.hosts:
            return []
        room, least = self.plan.room(), self.plan.least
        if room < least:
            consequence = f"training waits for a replacement: it needs {least} worker(s), and there is room for {room}"
        else:
            consequence = f"training goes on: there is room for {room} of at most {self.plan.most} worker(s)"
        lost = [f"host {address} is lost; {consequence}" for address, _ in sorted(before - self.hosts)]
        joined = [f"host {address} has joined; {consequence}" for address, _ in sorted(self.hosts - before)]
        return lost + joined


def _hosts_alive() -> set[tuple[str, str]]:
    """Address and node id of each host: a host that returns has a new id."""
    return {(node["NodeManagerAddress"], node["NodeID"]) for node in ray.nodes() if node["Alive"]}
