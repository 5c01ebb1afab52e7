"""Ray: start or join a cluster, and check that it has what is asked for before asking.

Ray waits for ever, without an error, for more workers than it has CPUs or GPUs.
"""

import logging
import math
import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError as RayError  # for those who must not import Ray before this module does
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.runtime import environment
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.settings.params import TrainParams, WorkerRange

ANSWER_WITHIN_S = 120.0  # a host that starts its first process and imports this code on a slow disk
# What a remote cluster gets of this folder: data go through the object store. .dvcignore says what is no code.
SHIPPED = ("pipelines", "stn", ".dvcignore")


class Workers(NamedTuple):
    """How training is spread: ``number`` workers of ``threads`` CPU threads, each with a GPU or none.

    With ``least`` below ``most`` it is elastic: ``number`` is what there is room for now.
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
        """For how many of them, up to ``most``, the connected cluster has room when nothing else runs on it."""
        on_each = (min(cpu // self.threads, gpu) if self.gpu else cpu // self.threads for cpu, gpu in _alive())
        return min(sum(on_each), self.most)


def excludes() -> list[str]:
    """All of the current folder but the code, as patterns of gitignore: neither data nor secrets travel."""
    return ["__pycache__", *(f"/{path.name}" for path in Path().iterdir() if path.name not in SHIPPED)]


@contextmanager
def connected():
    """A Ray cluster for as long as the block runs: RAY_ADDRESS's where set, else one of this machine's own.

    Raises:
        ExternalError: the cluster at RAY_ADDRESS cannot be reached, or one of this machine's own does not start.
    """
    address = environment.value("RAY_ADDRESS")
    # Workers on other machines have no copy of this code; local ones find it in the current folder.
    runtime_env = {
        "working_dir": ".",
        "excludes": excludes(),
        "worker_process_setup_hook": "pipelines.training.network_interface.use_the_clusters",
    }
    try:
        ray.init(
            # A bare init() attaches to whatever cluster left its address in the temporary folder.
            address=address or "local",
            dashboard_host="127.0.0.1",
            runtime_env=runtime_env if address else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise ExternalError(f"RAY_ADDRESS: {address!r}: no Ray cluster answers there ({error})") from None
    except Exception as error:
        if type(error) is not Exception:  # as which Ray raises that one of its own processes did not start
            raise
        raise ExternalError(f"Ray did not start ({error}); what was finished is kept; try again") from None
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def on_driver_node() -> NodeAffinitySchedulingStrategy:
    """Where the driver is: for what must not be lost with another host."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def on_other_hosts(function: Callable, *arguments) -> dict[str, Any]:
    """What a function returns on each host of the connected cluster but the driver's, by its address.

    Raises:
        ExternalError: one of them does not answer.
    """
    on_driver_node = ray.get_runtime_context().get_node_id()
    others = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        host: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*arguments)
        for host, node in others.items()
        if node != on_driver_node
    }
    try:
        return dict(zip(asked, ray.get(list(asked.values()), timeout=ANSWER_WITHIN_S), strict=True))
    except RayError as error:
        lines = str(error).strip().splitlines()
        raise ExternalError(
            f"RAY_ADDRESS: a host of the cluster does not answer ({lines[-1]}); see ray status"
        ) from None


def room_for_trials(gpus_per_trial: float) -> tuple[int, float]:
    """How many tuning trials run at once on the connected cluster, and what each then takes of a GPU.

    One for each CPU core or, where there are GPUs, for each share of one. Ray takes a share from one GPU alone: the
    share is made one that divides a GPU without a rest, or the last trial would wait for ever.
    """
    nodes = _alive()
    if not any(gpu for _, gpu in nodes):
        return max(1, sum(cpu for cpu, _ in nodes)), 0.0
    on_each_gpu = int(1 / gpus_per_trial + 1e-9)
    return max(1, sum(min(cpu, gpu * on_each_gpu) for cpu, gpu in nodes)), 1 / on_each_gpu


class HostWatch:
    """Sees hosts leave the connected cluster and join it, and says what that means for a training."""

    def __init__(self, workers: Workers):
        self.workers = workers
        self.hosts = self._alive()

    def _alive(self) -> set[tuple[str, str]]:
        return {(node["NodeManagerAddress"], node["NodeID"]) for node in ray.nodes() if node["Alive"]}

    def news(self) -> list[str]:
        """A line for each host that has left or joined since the last call."""
        before, self.hosts = self.hosts, self._alive()
        if before == self.hosts:
            return []
        room, least = self.workers.room(), self.workers.least
        if room < least:
            then = f"training waits for a replacement: it needs {least} worker(s), and there is room for {room}"
        else:
            then = f"training goes on: there is room for {room} of at most {self.workers.most} worker(s)"
        lost = [f"host {address} is lost; {then}" for address, _ in sorted(before - self.hosts)]
        return lost + [f"host {address} has joined; {then}" for address, _ in sorted(self.hosts - before)]


def ran_out_of_memory(text: str) -> bool:
    """Whether this is what Python, PyTorch, CUDA or Ray say where memory has run out."""
    return (
        re.search(r"OutOfMemory|MemoryError|bad_alloc|(can't|cannot) allocate memory|low on memory", text) is not None
    )


def plan(train: TrainParams) -> Workers:
    """Turn ``train.workers`` and ``train.threads`` into numbers that the connected cluster can give.

    Raises:
        UserError: the cluster has fewer GPUs or CPUs than they ask for.
    """
    nodes = _alive()
    gpus = sum(gpu for _, gpu in nodes)
    nodes = [(cpu, gpu) for cpu, gpu in nodes if (gpu if gpus else cpu)]
    cpus = sum(cpu for cpu, _ in nodes)
    if isinstance(train.workers, WorkerRange):
        least, most = train.workers.min, train.workers.max
    else:
        least = most = max(1, gpus) if train.workers == "auto" else train.workers
    if gpus and least > gpus:
        raise UserError(f"train.workers: {least} given; each takes a GPU and the cluster has {gpus}")
    threads, wanted = train.threads, max(least, min(most, gpus or cpus))
    if threads == "auto" and gpus:
        threads = max(1, min(cpu // gpu for cpu, gpu in nodes))
    elif threads == "auto":
        threads = max(1, min((cpu for cpu, _ in nodes), default=0) // math.ceil(wanted / max(1, len(nodes))))
    workers = Workers(wanted, threads, gpus > 0, least, most)
    if (room := workers.room()) < least:
        raise UserError(
            f"train.workers: {least} given, of {threads} thread(s) each; the cluster's {cpus} CPU(s) on {len(nodes)} "
            f"node(s) have room for {room}"
        )
    return workers._replace(number=min(wanted, room))


def _alive() -> list[tuple[int, int]]:
    """CPUs and GPUs of each node that is alive."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
