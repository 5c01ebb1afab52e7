"""Runs a training on the workers of a Ray cluster with Ray Train."""

import threading
import uuid
from contextlib import suppress
from pathlib import Path

from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import write_text
from pipelines.settings.params import Params
from pipelines.training.checkpoints import probe
from pipelines.training.host_watch import HostWatch
from pipelines.training.listener import Listener
from pipelines.training.mailbox import Mailbox
from pipelines.training.memory import ran_out_of_memory
from pipelines.training.ray_worker import Shared, train_worker
from pipelines.training.shared_data import share_data
from pipelines.training.worker import TrainingJob
from pipelines.training.worker_plan import WorkerPlan

# Minimum time between two increases of the number of workers. Each repeats what was trained since the last checkpoint.
RESIZE_AT_MOST_EVERY_S = 30.0
LISTEN_EVERY_S = 0.3
# After the loss of a GPU worker the others wait for it in NCCL. By default they would wait for half an hour.
NCCL_TIMEOUT_S = 120


def train_on_ray(params: Params, job: TrainingJob, workers: WorkerPlan, listener: Listener, log: Path) -> None:
    """Run the workers to their end, while ``listener`` handles their messages.

    Raises:
        ExternalError: workers or the cluster failed too often. Ray's whole message is in the file ``log``.
    """
    with probe(job.storage) as path:
        shared = Shared(job, share_data(params.train.final_fit), Mailbox(), path)
        _fit(params, shared, workers, listener, log)


def _fit(params: Params, shared: Shared, workers: WorkerPlan, listener: Listener, log: Path) -> None:
    job, mailbox = shared.job, shared.mailbox
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"shared": shared},
        torch_config=_torch_config(workers),
        scaling_config=_scaling_config(workers),
        run_config=RunConfig(
            # With the same name, Ray would mistake an earlier, finished training for this one.
            name=f"ray-{uuid.uuid4().hex[:8]}",
            storage_path=job.storage,
            failure_config=FailureConfig(max_failures=params.train.max_failures),
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
        listener.recorder.end(status)


def _scaling_config(workers: WorkerPlan) -> ScalingConfig:
    elastic = workers.least < workers.most
    return ScalingConfig(
        num_workers=(workers.least, workers.most) if elastic else workers.number,
        elastic_resize_monitor_interval_s=RESIZE_AT_MOST_EVERY_S,
        # GPUs of one host exchange gradients far faster than GPUs of different hosts.
        placement_strategy="PACK" if workers.gpu else "SPREAD",
        use_gpu=workers.gpu,
        resources_per_worker={"CPU": workers.threads} | ({"GPU": 1} if workers.gpu else {}),
    )


def _torch_config(workers: WorkerPlan) -> TorchConfig:
    return TorchConfig(timeout_s=NCCL_TIMEOUT_S) if workers.gpu else TorchConfig()


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
        what = f"Ray lost a process that runs the training: {lines[0]}"
    else:
        what = f"training failed more than train.max_failures={max_failures} times: {lines[-1][:300]}"
    if ran_out_of_memory(text):
        what += "; a lower train.batch_size needs less memory, and so do fewer train.workers on one machine"
    return (
        f"{what} (full message: {log}); the last checkpoint in {storage} is kept and the next start continues from it"
    )
