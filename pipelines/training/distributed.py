"""Runs a training on the workers of a Ray cluster with Ray Train."""

import threading
import uuid
from contextlib import suppress
from pathlib import Path

from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import write_text
from pipelines.settings.params import Params
from pipelines.training.cluster import ran_out_of_memory
from pipelines.training.listener import Listener
from pipelines.training.mailbox import Mailbox
from pipelines.training.worker import TrainingJob, train_worker
from pipelines.training.worker_plan import HostWatch, WorkerPlan

# Minimum time between two increases of the number of workers. Each one restarts the epoch in progress.
RESIZE_AT_MOST_EVERY_S = 30.0
LISTEN_EVERY_S = 0.3


def train_on_ray(params: Params, job: TrainingJob, workers: WorkerPlan, listener: Listener, log: Path) -> None:
    """Run the workers to their end, while ``listener`` handles their messages.

    Raises:
        ExternalError: workers or the cluster failed too often. Ray's whole message is in the file ``log``.
    """
    mailbox = Mailbox()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "mailbox": mailbox},
        scaling_config=_scaling_config(workers),
        run_config=RunConfig(
            # A new name for each start: rank 0 itself looks for the latest checkpoint among all starts.
            name=uuid.uuid4().hex[:8],
            storage_path=job.storage,
            failure_config=FailureConfig(max_failures=params.train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=params.clean.checkpoints),
        ),
    )
    done = threading.Event()
    thread = threading.Thread(target=_listen, args=(mailbox, listener, HostWatch(workers), done), daemon=True)
    thread.start()
    status = "KILLED"
    try:
        trainer.fit()
        status = "FINISHED"
    except (TrainingFailedError, RayError) as error:
        status = "FAILED"
        raise ExternalError(_describe_failure(error, params.train.max_failures, job.storage, log)) from None
    finally:
        done.set()
        thread.join()
        listener.recorder.end("FAILED" if listener.not_finite else status)


def _scaling_config(workers: WorkerPlan) -> ScalingConfig:
    elastic = workers.least < workers.most
    return ScalingConfig(
        num_workers=(workers.least, workers.most) if elastic else workers.number,
        elastic_resize_monitor_interval_s=RESIZE_AT_MOST_EVERY_S,
        placement_strategy="SPREAD",
        use_gpu=workers.gpu,
        resources_per_worker={"CPU": workers.threads} | ({"GPU": 1} if workers.gpu else {}),
    )


def _listen(mailbox: Mailbox, listener: Listener, watch: HostWatch, done: threading.Event) -> None:
    """Handle messages and host changes until ``done`` is set, then the last messages."""
    finished = False
    while not finished:
        finished = done.wait(LISTEN_EVERY_S)
        try:
            messages = mailbox.drain()
            for line in watch.changes():
                print(line, flush=True)
        except RayError as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            print(f"messages from the workers are lost: {reason}; their epochs will be logged at the end", flush=True)
            return
        for message in messages:
            listener.handle(message)


def _describe_failure(error: Exception, max_failures: int, storage: str, log: Path) -> str:
    """Describe in one line why a training failed, and write Ray's whole message to ``log``."""
    text = str(error)
    with suppress(OSError):  # a full disk may be the reason for the failure
        write_text(log, text)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, RayError):  # one of Ray's own processes, which Ray does not replace
        what = f"Ray lost what runs the training: {lines[0]}"
    else:
        what = f"training failed more than train.max_failures={max_failures} times: {lines[-1][:300]}"
    if ran_out_of_memory(text):
        what += "; a lower train.batch_size needs less memory, and so do fewer train.workers on one machine"
    return f"{what} (all of it: {log}); the last checkpoint in {storage} is kept and the next start goes on from it"
