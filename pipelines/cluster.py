"""Ray: start or join a cluster, and check that it has what is asked for before asking.

Ray waits for ever, without an error, for more workers than it has CPUs or GPUs.
"""

import logging
import math
import os
from contextlib import contextmanager
from typing import NamedTuple

# Read when Ray is imported. The controller looks at its workers every 2 s by default, and an epoch of a small network
# takes less; watching for preemption and exporting metrics cost seconds at every start.
QUIET_AND_QUICK = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # 15 by default: beside any other program training would stand still
}
for name, value in QUIET_AND_QUICK.items():
    os.environ.setdefault(name, value)

import ray
from ray.exceptions import RayError as RayError  # for those who must not import Ray before this module does

from pipelines.errors import UserError, WorldError
from pipelines.params import TrainParams

# What a remote cluster needs of this folder: the code. Data goes through the object store.
WORKING_DIR_EXCLUDES = [
    ".git", ".dvc", ".venv", "data", "models", "state", "reports", "metrics", "plots", "**/__pycache__",
]  # fmt: skip


class Workers(NamedTuple):
    """How training is spread: ``number`` workers of ``threads`` CPU threads, each with a GPU or none."""

    number: int
    threads: int
    gpu: bool

    def __str__(self) -> str:
        kind = "one GPU and " if self.gpu else ""
        return f"{self.number} worker{'s' * (self.number > 1)}, {kind}{self.threads} CPU thread(s) each"


@contextmanager
def connected():
    """A Ray cluster for as long as the block runs: RAY_ADDRESS's where set, else one of this machine's own.

    Raises:
        WorldError: the cluster at RAY_ADDRESS cannot be reached.
    """
    address = os.environ.get("RAY_ADDRESS")
    # Workers on other machines have no copy of this code; local ones find it in the current folder.
    runtime_env = {"working_dir": ".", "excludes": WORKING_DIR_EXCLUDES} if address else None
    try:
        ray.init(
            # A bare init() attaches to whatever cluster left its address in the temporary folder.
            address=address or "local",
            dashboard_host="127.0.0.1",
            runtime_env=runtime_env,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise WorldError(f"RAY_ADDRESS: {address!r}: no Ray cluster answers there ({error})") from None
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def room_for_trials(gpus_per_trial: float) -> tuple[int, float]:
    """How many tuning trials run at once on the connected cluster, and what each then takes of a GPU.

    One for each CPU core or, where there are GPUs, for each share of one. Ray takes a share from one GPU alone: the
    share is made one that divides a GPU without a rest, or the last trial would wait for ever.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("GPU") for node in alive):
        return max(1, sum(int(node.get("CPU", 0)) for node in alive)), 0.0
    on_each_gpu = int(1 / gpus_per_trial + 1e-9)
    on_node = [min(int(node.get("CPU", 0)), int(node.get("GPU", 0)) * on_each_gpu) for node in alive]
    return max(1, sum(on_node)), 1 / on_each_gpu


def plan(train: TrainParams) -> Workers:
    """Turn ``train.workers`` and ``train.threads`` into numbers that the connected cluster can give.

    Raises:
        UserError: the cluster has fewer GPUs or CPUs than they ask for.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kind = "GPU" if any(node.get("GPU") for node in alive) else "CPU"
    nodes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in alive if node.get(kind)]
    cpus, gpus = sum(cpu for cpu, _ in nodes), sum(gpu for _, gpu in nodes)
    number = max(1, gpus) if train.workers == "auto" else train.workers
    if gpus and number > gpus:
        raise UserError(f"train.workers: {number} given; each takes a GPU and the cluster has {gpus}")
    threads = train.threads
    if threads == "auto" and gpus:
        threads = max(1, min(cpu // gpu for cpu, gpu in nodes))
    elif threads == "auto":
        threads = max(1, min(cpu for cpu, _ in nodes) // math.ceil(number / len(nodes)))
    fitting = sum(min(cpu // threads, gpu) if gpus else cpu // threads for cpu, gpu in nodes)
    if fitting < number:
        raise UserError(
            f"train.workers: {number} given, of {threads} thread(s) each; the cluster's {cpus} CPU(s) on {len(nodes)} "
            f"node(s) have room for {fitting}"
        )
    return Workers(number, threads, gpu=gpus > 0)
