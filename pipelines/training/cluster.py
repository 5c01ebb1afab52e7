"""The Ray cluster: start or join it, run functions on its hosts, count its CPUs and GPUs."""

import logging
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.runtime import environment
from pipelines.runtime.cores import usable_cores
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.ray_places import session_folder, worker_environment
from pipelines.training.worker_plan import Node

Result = TypeVar("Result")
# A host on a slow disk needs this long to start its first process and import the code.
ANSWER_WITHIN_S = 120.0
LISTENS_WITHIN_S = 20.0
# Files that a remote cluster receives. digest_code reads .dvcignore. Data are sent through the object store.
SHIPPED = ("pipelines", "stn", "own_networks", ".dvcignore")
DRIVER_ONLY = ("pipelines/commands", "pipelines/evaluation", "pipelines/visualization")


def excludes() -> list[str]:
    """Patterns, as in .gitignore, of everything in the current folder except the code that hosts run.

    No data or secrets are sent.
    """
    others = (path.name for path in Path().iterdir() if path.name not in SHIPPED)
    return ["__pycache__", *(f"/{name}" for name in (*others, *DRIVER_ONLY))]


def check_that_it_listens(address: str) -> None:
    """Check that something listens at a cluster's address. Ray itself tries for longer than 100 s, with warnings.

    Raises:
        ExternalError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), LISTENS_WITHIN_S).close()
    except (OSError, OverflowError) as error:  # the latter for a port of many digits
        raise ExternalError(f"RAY_ADDRESS: {address!r}: no Ray cluster answers there ({error})") from None


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS, or start one on this machine if it is not set.

    Raises:
        UserError: workers of the cluster at RAY_ADDRESS could not start the Python of this environment.
        ExternalError: the cluster at RAY_ADDRESS cannot be reached, or the local one does not start.
    """
    address = environment.get("RAY_ADDRESS")
    python = worker_environment(address)
    if address and address != "auto":
        check_that_it_listens(address)
    folder = None if address else session_folder()
    # Workers on other machines have no copy of this code; local ones find it in the current folder.
    runtime_env = {
        "working_dir": ".",
        "excludes": excludes(),
        "worker_process_setup_hook": "pipelines.training.network_interface.use_cluster_interface",
    }
    try:
        ray.init(
            # Without an address, init() attaches to any cluster that left its address in the temporary folder.
            address=address or "local",
            include_dashboard=False,  # ten processes, for a cluster that ends with the stage
            runtime_env=runtime_env if address else python or None,
            _temp_dir=folder,
            num_cpus=None if address else usable_cores().number,
            num_gpus=None if address else usable_gpus(),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise ExternalError(
            f"RAY_ADDRESS: {address!r}: no Ray cluster answers there, or it does not accept the token in "
            f"RAY_AUTH_TOKEN or ~/.ray/auth_token ({error})"
        ) from None
    except Exception as error:
        if type(error) is not Exception:  # Ray raises a plain Exception when one of its own processes does not start
            raise
        raise ExternalError(f"Ray did not start ({error}); finished work is kept; try again") from None
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def usable_gpus() -> int:
    """The number of GPUs that torch can use. Ray also counts GPUs with too old a driver, and those of a CPU build."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def on_driver_node() -> NodeAffinitySchedulingStrategy:
    """Schedule on the driver's node, for processes that must outlive every other host."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def run_on_other_hosts(function: Callable[..., Result], *arguments: str) -> dict[str, Result]:
    """Run a function on each host of the connected cluster except the driver's; returns its results by address.

    Raises:
        ExternalError: a host does not answer.
    """
    driver = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    calls = {
        address: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*arguments)
        for address, node in nodes.items()
        if node != driver
    }
    try:
        return dict(zip(calls, ray.get(list(calls.values()), timeout=ANSWER_WITHIN_S), strict=True))
    except RayError as error:
        lines = str(error).strip().splitlines()
        raise ExternalError(
            f"RAY_ADDRESS: a host of the cluster does not answer ({lines[-1]}); see ray status"
        ) from None


def nodes_alive() -> list[Node]:
    """The nodes of the connected cluster that are alive."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [
        Node(int(node.get("CPU", 0)), int(node.get("GPU", 0)), node.get("memory", math.inf)) for node in resources
    ]  # fmt: skip


class TrialRoom(NamedTuple):
    """The workers for tuning trials that a cluster has room for.

    Args:
        number: how many.
        share: of a GPU for each; 0 without GPUs.
        memory: bytes that Ray reserves for each.
    """

    number: int
    share: float
    memory: int


def room_for_trials(share: float, memory: int) -> TrialRoom:
    """The workers for tuning trials that the connected cluster has room for now.

    There is one for each CPU core or, on a cluster with GPUs, for each share of a GPU, as far as the memory
    suffices. Ray takes a share from a single GPU: the share is enlarged to one that divides a GPU evenly, or the last
    worker would wait forever. For the same reason no worker reserves more memory than a host has.

    Args:
        share: of a GPU for a worker, in (0, 1].
        memory: bytes that a worker needs.
    """
    nodes = nodes_alive()
    gpus = any(node.gpus for node in nodes)
    usable = [node for node in nodes if node.cpus and (node.gpus or not gpus)]
    memory = int(min([memory, max((node.memory for node in usable), default=memory)]))
    fitting = [min(node.cpus, int(min(node.memory, 2**62)) // memory) for node in usable]  # inf: Ray does not say
    if not gpus:
        return TrialRoom(max(1, sum(fitting)), 0.0, memory)
    on_each_gpu = int(1 / share + 1e-9)
    on_nodes = (min(most, node.gpus * on_each_gpu) for most, node in zip(fitting, usable, strict=True))
    return TrialRoom(max(1, sum(on_nodes)), 1 / on_each_gpu, memory)
