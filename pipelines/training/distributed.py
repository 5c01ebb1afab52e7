"""A training on the workers of a Ray cluster."""

import threading
import uuid
from contextlib import suppress
from pathlib import Path

import ray
from ray.exceptions import RayError as RayError

from pipelines.outputs.prepared_data import load_arrays
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import write_text
from pipelines.runtime.progress import progress
from pipelines.settings.params import Params
from pipelines.settings.variants import VariantParams
from pipelines.training.cluster import HostWatch, Workers, on_driver_node, ran_out_of_memory
from pipelines.training.messages import Listener, Mailbox
from pipelines.training.worker import train_worker

RESIZE_AT_MOST_EVERY_S = 30.0  # where a host joins, at the cost of the epoch that is then begun anew


def worker_config(params: Params, variant: VariantParams, meta: dict, storage: str, threads: int, mailbox) -> dict:
    """What :func:`pipelines.training.worker.train_worker` is given; the images are put into Ray's object store once."""
    return {
        "train": params.train.model_dump(),
        "seeds": params.train.seeds,
        "variant": variant.model_dump(),
        "meta": meta,
        "data": ray.put(load_arrays(params.train.final_fit)),
        "storage": storage,
        "threads": threads,
        "mailbox": mailbox,
    }


def train_on_ray(
    name, params: Params, variant, meta, storage: str, workers: Workers, runs: dict, log: Path
) -> "Listener":
    """Run the workers to their end, their messages taken to the terminal and to MLflow."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    mailbox = Mailbox.options(scheduling_strategy=on_driver_node()).remote()  # not to be lost with another host
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=worker_config(params, variant, meta, storage, workers.threads, mailbox),
        scaling_config=ScalingConfig(
            num_workers=workers.number if workers.least == workers.most else (workers.least, workers.most),
            elastic_resize_monitor_interval_s=RESIZE_AT_MOST_EVERY_S, placement_strategy="SPREAD", use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.threads} | ({"GPU": 1} if workers.gpu else {}),
        ),
        run_config=RunConfig(
            # A new name for each start: the worker itself looks for the furthest checkpoint among all of them.
            name=uuid.uuid4().hex[:8], storage_path=storage,
            failure_config=FailureConfig(max_failures=params.train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=params.clean.checkpoints),
        ),
    )  # fmt: skip
    done = threading.Event()
    with progress(name, len(runs) * params.train.epochs) as reporter:
        listener = Listener(mailbox, runs, reporter, params.train.epochs, done, HostWatch(workers))
        listener.start()
        status = "KILLED"
        try:
            trainer.fit()
            status = "FINISHED"
        except (TrainingFailedError, RayError) as error:
            status = "FAILED"
            raise ExternalError(f"{name}: {_why_it_failed(error, params.train.max_failures, storage, log)}") from None
        finally:
            done.set()
            listener.join()
            listener.stop_watching("FAILED" if listener.not_finite else status)
    if listener.not_finite:
        raise ExternalError(
            f"{name}: {listener.not_finite}; the last good checkpoint is kept in {storage}. "
            f"A lower train.lr or localization_lr in variants/{name}.yaml may help"
        )
    return listener


def _why_it_failed(error: Exception, max_failures: int, storage: str, log: Path) -> str:
    """What Ray says of a training that failed, in a line; all of it is left in ``log``."""
    text = str(error)
    with suppress(OSError):  # a full disk may be why it failed
        write_text(log, text)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, RayError):  # a process of Ray's own, which it does not replace
        what = f"Ray lost what runs the training: {lines[0]}"
    else:
        what = f"training failed more than train.max_failures={max_failures} times: {lines[-1][:300]}"
    if ran_out_of_memory(text):
        what += "; a lower train.batch_size needs less memory, and so do fewer train.workers on one machine"
    return f"{what} (all of it: {log}); the last checkpoint in {storage} is kept and the next start goes on from it"
