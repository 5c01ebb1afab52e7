"""Runs a training with one worker in the driver's own process: no cluster is started."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipelines.outputs.prepared_data import load_training
from pipelines.runtime.errors import ExternalError
from pipelines.settings.params import Params
from pipelines.training.listener import Listener
from pipelines.training.marker import running_marker
from pipelines.training.memory import ran_out_of_memory
from pipelines.training.messages import Message
from pipelines.training.worker import TrainingJob, TrainingWorker
from pipelines.training.worker_plan import WorkerPlan


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """End the block by SystemExit on SIGTERM, so that cleanup runs. Batch systems and containers send SIGTERM."""

    def leave(*_) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class DirectSender:
    """Passes each message to the listener at once."""

    def __init__(self, listener: Listener):
        self.listener = listener

    def send(self, message: Message) -> None:
        """Have the listener handle a message."""
        self.listener.handle(message)

    send_and_wait = send


def train_in_process(params: Params, job: TrainingJob, workers: WorkerPlan, listener: Listener, folder: Path) -> None:
    """Train to the end. ``folder`` is the state folder of the training.

    Raises:
        ExternalError: memory ran out.
        OSError: a checkpoint cannot be written.
    """
    device = torch.device("cuda" if workers.gpu else "cpu")
    status = "KILLED"
    try:
        with running_marker(folder), ended_by_sigterm():
            TrainingWorker(job, load_training(params.train.final_fit), device, DirectSender(listener)).run()
        status = "FINISHED"
    except Exception as error:
        status = "FAILED"
        text = f"{type(error).__name__}: {error}"
        if not ran_out_of_memory(text):
            raise
        raise ExternalError(
            f"training failed: {text.splitlines()[0][:300]}; a lower train.batch_size needs less memory; the last "
            f"checkpoint in {job.storage} is kept and the next start continues from it"
        ) from None
    finally:
        listener.recorder.end(status)
