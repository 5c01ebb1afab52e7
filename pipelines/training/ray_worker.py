"""The training function of Ray Train.

Workers import this module: it does not import MLflow.
"""

from typing import NamedTuple

import ray.train
from ray.train.torch import get_device

from pipelines.runtime.errors import ExternalError
from pipelines.training.checkpoints import VARIABLE
from pipelines.training.host_checks import read_error
from pipelines.training.mailbox import Mailbox
from pipelines.training.shared_data import SharedData
from pipelines.training.worker import TrainingJob, TrainingWorker


class Shared(NamedTuple):
    """What the driver gives to every worker."""

    job: TrainingJob
    data: SharedData
    mailbox: Mailbox
    probe: str  # a file in the checkpoint storage that every host must be able to read


def train_worker(config: dict[str, Shared]) -> None:
    """Ray Train's training function. ``config`` holds a :class:`Shared` under its only key.

    It does not call ``ray.train.report``: rank 0 stores checkpoints itself, and looks for the latest one at a restart.
    """
    shared, context = config["shared"], ray.train.get_context()
    # A host that has joined since the start has not been checked: without the storage it would begin from epoch 0.
    if error := read_error(shared.job.storage, shared.probe):
        raise ExternalError(f"{VARIABLE}: {shared.job.storage} cannot be read on this host ({error})")
    device = get_device()
    TrainingWorker(
        shared.job, shared.data.open(), device, shared.mailbox,
        rank=context.get_world_rank(), world_size=context.get_world_size(),
        sharing=1 if device.type == "cuda" else context.get_local_world_size(),
    ).run()  # fmt: skip
