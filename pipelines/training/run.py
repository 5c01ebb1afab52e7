"""Trains one variant with all seeds: its key, its MLflow runs, the training, its result.

One worker on this machine trains in the driver's process. Several workers, or a cluster, train on Ray.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipelines.networks.own_networks import own_code
from pipelines.outputs.prepared_data import DatasetMeta, load_meta
from pipelines.outputs.trained_models import (
    CHANGEABLE_TRAIN,
    CHANGEABLE_VARIANT,
    FinishedSeed,
    Metrics,
    TrainingRecord,
    publish_result,
    trouble_tags,
    write_result,
)
from pipelines.runtime import environment
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import attach_path_to_errors, read_json, write_json
from pipelines.runtime.home import state_dir
from pipelines.runtime.keys import digest_code, key_of
from pipelines.runtime.locks import hold_lock
from pipelines.runtime.progress import Timeline, progress
from pipelines.settings.params import Params, TrainParams
from pipelines.settings.variants import VariantParams
from pipelines.tracking.client import Dataset, TrainingRun, connect, experiment_id, store_errors_explained
from pipelines.tracking.lineage import current_commit, libraries
from pipelines.tracking.outbox import Outbox
from pipelines.training.checkpoints import check_writable, remove, storage_of
from pipelines.training.checks import (
    CODE,
    check_batch_norm,
    check_capture,
    check_shares,
    check_trainable,
    check_weights,
)
from pipelines.training.listener import Listener
from pipelines.training.local import train_in_process
from pipelines.training.marker import take_last_end
from pipelines.training.precision import load_precision, store_precision
from pipelines.training.recipe import recipe_of
from pipelines.training.state import load_states
from pipelines.training.worker import TrainingJob
from pipelines.training.worker_plan import WorkerPlan, plan_workers, this_machine
from stn.theta_trouble import first_epochs

RunJob = Callable[[Params, TrainingJob, WorkerPlan, Listener, Path], None]


def train(name: str, params: Params, variant: VariantParams) -> Metrics:
    """Train a variant with every seed and write its models/, metrics/ and plots/; returns its metrics.

    A finished training is not repeated: its result is copied, unless the environment has FORCE=1.

    Raises:
        UserError: the settings do not fit the data or the cluster.
        ExternalError: training failed. Checkpoints are kept, and the next start continues from them.
    """
    meta = load_meta()
    check_trainable(name, params, variant, meta)
    key = training_key(params.train, variant, meta.digest)
    with hold_lock(f"train-{key}"):
        folder = state_dir("training", f"{name}-{key}")
        result = folder / "result"
        if result.exists() and os.environ.get("FORCE") == "1":
            shutil.rmtree(folder)
            folder.mkdir()
        if result.exists():
            print(f"{name}: this training is finished; its result is copied from {result} (FORCE=1 trains again)")
            with suppress(ExternalError):  # connecting delivers the updates that are still pending
                connect()
        else:
            TrainingDriver(name, params, variant, meta, folder).run()
        return publish_result(result, name)


def training_key(train: TrainParams, variant: VariantParams, data_digest: str) -> str:
    """The key of a training, from everything that its result depends on.

    ``train.max_failures`` is not part of it, so that it can be raised before a training is resumed. The variant's
    origin is not part of it either.
    """
    recipe = train.model_dump(exclude=CHANGEABLE_TRAIN)
    code = digest_code(*CODE, *own_code(variant.classifier))
    return key_of(recipe, variant.model_dump(exclude=CHANGEABLE_VARIANT), data_digest, code)


class TrainingDriver:
    """The driver of one training that is not finished. Its state is in ``folder``, its result in ``folder/result``."""

    def __init__(self, name: str, params: Params, variant: VariantParams, meta: DatasetMeta, folder: Path):
        self.name, self.params, self.variant, self.meta, self.folder = name, params, variant, meta, folder
        self.storage = storage_of(folder.name)
        self.timeline = Timeline()

    def run(self) -> None:
        """Train to the end and write the result. MLflow updates that cannot be delivered by then are kept.

        Raises:
            UserError, ExternalError: as :func:`train`.
        """
        check_weights(self.name, self.variant, self.meta)
        self.timeline.mark("imports")
        client = connect()
        self.timeline.mark("MLflow")
        with Outbox(client, self.folder.name) as outbox:
            self._train(outbox)
        self.timeline.mark("record")
        print(f"{self.name}: {self.timeline}", flush=True)

    def _train(self, outbox: Outbox) -> None:
        if last_end := take_last_end(self.folder):
            print(f"{self.name}: {last_end}", flush=True)
        workers = None if environment.get("RAY_ADDRESS") else plan_workers(self.params.train, [this_machine()])
        if workers is not None and workers.most == 1:
            check_writable(self.storage)
            record, runs = self._open(outbox, workers)
            listener = self._run_workers(workers, runs, train_in_process, self.folder)
        else:
            # Importing Ray Train is slow: it takes as long as the whole start without Ray.
            from pipelines.training.cluster import connected, nodes_alive
            from pipelines.training.distributed import train_on_ray
            from pipelines.training.host_checks import check_reachable, check_same_code

            with connected():
                workers = plan_workers(self.params.train, nodes_alive())
                check_same_code()
                check_reachable(self.storage)
                self.timeline.mark("Ray")
                record, runs = self._open(outbox, workers)
                listener = self._run_workers(workers, runs, train_on_ray, self.folder / "error.log")
            self.timeline.mark("end of Ray")
        states, _ = load_states(self.storage)
        finished = {seed: state.finished for seed, state in states.items() if state.finished is not None}
        assert finished.keys() == runs.keys()
        if (seen := listener.started) is not None:
            record = replace(record, device=seen.device, precision=seen.precision.dtype, workers=seen.workers)
        self._finish(finished, runs, record)

    def _open(self, outbox: Outbox, workers: WorkerPlan) -> tuple[TrainingRecord, dict[int, TrainingRun]]:
        """Open the MLflow runs and describe them by the record of this training."""
        check_shares(self.params, workers, self.meta)
        check_capture(self.params, workers)
        check_batch_norm(self.name, self.params, self.variant, self.meta, workers)
        record = self._make_record(workers)
        with store_errors_explained("no training has begun"):
            runs = open_runs(outbox, self.name, record, self.folder)
        self.timeline.mark("MLflow")
        print(f"{self.name}: {len(runs)} seed(s) × {self.params.train.epochs} epochs on {workers}", flush=True)
        return record, runs

    def _make_record(self, workers: WorkerPlan) -> TrainingRecord:
        commit = current_commit()
        if commit.problem:
            print(f"git: {commit.problem}; the commit of this training is recorded as unknown", flush=True)
        return TrainingRecord(
            variant=self.variant,
            train=self.params.train,
            data=self.meta,
            git_commit=commit.name,
            git_dirty=commit.dirty,
            git_diff=commit.diff,
            libraries=libraries(),
            workers=workers.sharing,
            threads=workers.threads,
            gpu=workers.gpu,
        )

    def _run_workers(self, workers: WorkerPlan, runs: dict[int, TrainingRun], run_job: RunJob, place: Path) -> Listener:
        """Train with ``run_job``: :func:`train_in_process`, or ``train_on_ray``. ``place`` is passed to it last."""
        train = self.params.train
        job = make_job(self.params, self.variant, self.meta, self.storage, workers)
        with progress(self.name, len(runs) * train.epochs) as reporter:
            listener = Listener(runs, reporter, train.epochs)
            try:
                run_job(self.params, job, workers, listener, place)
            except ExternalError as error:
                raise ExternalError(f"{self.name}: {error}") from None
            finally:
                if listener.started is not None:
                    store_precision(train, self.meta.digest, listener.started.precision)
        self.timeline.mark("workers", listener.first_start)
        self.timeline.mark("epochs", listener.last_epoch)
        if listener.not_finite:
            reasons = ", ".join(f"seed {seed}: {reason}" for seed, reason in listener.not_finite.items())
            raise ExternalError(
                f"{self.name}: {reasons}; the last good checkpoints are kept in {self.storage}. A lower train.lr or "
                f"localization_lr in variants/{self.name}.yaml may help"
            )
        return listener

    def _finish(
        self, finished: Mapping[int, FinishedSeed], runs: Mapping[int, TrainingRun], record: TrainingRecord
    ) -> None:
        """Log what is not logged yet, end the runs, write the result and delete the checkpoints."""
        for seed, run in runs.items():
            for metrics in finished[seed].history:
                run.log_epoch(metrics)
            trouble = first_epochs(finished[seed].history, self.params.train.epochs)
            run.describe(tags=record.machine_tags() | trouble_tags(trouble))
            run.end("FINISHED")
        run_ids = {seed: run.run_id for seed, run in runs.items()}
        with attach_path_to_errors(self.folder / "result"):
            write_result(finished, run_ids, record, self.folder / "result")
        remove(self.storage)


def make_job(
    params: Params, variant: VariantParams, meta: DatasetMeta, storage: str, workers: WorkerPlan
) -> TrainingJob:
    """What the workers of a training of ``variant`` receive."""
    return TrainingJob(
        make_network=meta.network_builder(variant, params.train.dropout, load_weights=True),
        recipe=recipe_of(params.train, variant),
        seeds=params.train.seeds,
        meta=meta,
        storage=storage,
        keep=params.clean.checkpoints,
        threads=workers.threads,
        per_seed=workers.per_seed,
        seeds_at_once=params.train.seeds_at_once,
        residency=params.train.residency,
        precision=load_precision(params.train, meta.digest),
    )


def open_runs(outbox: Outbox, name: str, record: TrainingRecord, folder: Path) -> dict[int, TrainingRun]:
    """Find the MLflow run of each seed from an earlier start of this training, or create it, and describe it."""
    attempt = folder / "attempt.json"
    if not attempt.exists():
        write_json(attempt, uuid.uuid4().hex[:8])
    key = f"{folder.name}-{read_json(attempt)}"
    data = record.data
    experiment = experiment_id(outbox.client, f"stn-{data.dataset}")
    dataset = Dataset(data.dataset, data.digest, data.source)
    runs = {}
    for seed in record.train.seeds:
        runs[seed] = TrainingRun(outbox, experiment, f"{key}-{seed}", f"{name}-{seed}")
        runs[seed].describe_now(record.run_params(seed), record.run_tags(name, seed), dataset, record.git_diff)
        runs[seed].log_record(record.to_json())
    write_json(folder / "runs.json", {str(seed): run.run_id for seed, run in runs.items()})
    return runs
