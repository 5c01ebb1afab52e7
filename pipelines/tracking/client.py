"""MLflow's tracking store and registry: connecting to them, and the runs of training.

The driver of a stage is the only writer of a run, however many workers train.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

# MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it would print passwords in the URL
# A server in front of S3 would redirect clients to S3, which they may be unable to reach.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")

import mlflow
from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from sqlalchemy.exc import SQLAlchemyError

from pipelines.runtime import environment
from pipelines.runtime.environment import redact
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.home import state_dir
from pipelines.runtime.locks import hold_lock
from pipelines.tracking.artifact_places import sqlite_address
from pipelines.tracking.outbox import Outbox, Run, deliver_pending
from pipelines.tracking.relocation import follow_the_folder
from pipelines.tracking.schema import prepare_schema
from pipelines.tracking.store_requests import describe_account, describe_store_error, short_timeouts
from pipelines.tracking.store_writer import log_summary_metrics

# Artifacts of a run: the record of its training, and the changes that were not committed then.
RECORD = "lineage/training.json"
DIFF = "lineage/uncommitted.diff"

LONGEST_PATH = 500  # of a database of sqlite, in bytes
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
MEND_FILE = (
    "repair its permissions or content, or restore a backup: make restore FROM=folder; without one, keep the file, "
    "which alone has its runs, under another name: dvc repro -f -s register registers the models trained here"
)

for verbose in ("mlflow.system_metrics", "mlflow.tracking", "mlflow.models", "mlflow.pyfunc", "alembic"):
    logging.getLogger(verbose).setLevel(logging.WARNING)
# MLflow prints a long text for each error, and then raises it.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def connect() -> MlflowClient:
    """Connect to MLFLOW_TRACKING_URI's store, by default the sqlite database in the state folder.

    Updates that earlier commands could not deliver are delivered. A lock is held while the store is opened: a new
    database is ruined if several processes migrate it at once.

    Raises:
        UserError: the server does not know the account, the password is wrong, or MLflow is in a folder with ``%``.
        ExternalError: the store cannot be reached, or is damaged.
    """
    default = sqlite_address(state_dir() / "mlflow.db")
    uri = environment.get("MLFLOW_TRACKING_URI") or default
    mlflow.set_tracking_uri(uri)
    if uri.startswith(DATABASES):
        check_place(mlflow.__file__)
    if uri == default:
        check_length(state_dir() / "mlflow.db")
    with hold_lock("mlflow"):
        try:
            if uri.startswith(DATABASES):
                prepare_schema(uri)
            client = MlflowClient(uri)
            with short_timeouts():
                client.search_experiments(max_results=1)
            if uri == default:
                follow_the_folder(uri)
        except (MlflowException, SQLAlchemyError, CommandError) as error:
            if getattr(error, "error_code", None) == "UNAUTHENTICATED":
                raise UserError(
                    f"{describe_account()}; {redact(uri)} requires a known account and its MLFLOW_TRACKING_PASSWORD"
                ) from None
            store = f"MLFLOW_TRACKING_URI: {redact(uri)}: the tracking store"
            what_to_do = MEND_FILE if uri.startswith("sqlite") else "start it, or name another"
            raise ExternalError(f"{store} does not answer ({describe_store_error(error)}); {what_to_do}") from None
    deliver_pending(client)
    return client


def check_place(package: str) -> None:
    """Refuse a place of the MLflow package from which it cannot create or migrate a database.

    Raises:
        UserError: its path contains ``%``, which Alembic takes for a reference.
    """
    if "%" in package:
        raise UserError(
            f"{Path(package).parent}: MLflow cannot open a database from a folder with % in its path; move the project "
            f"to another folder, and run make setup there"
        )


def check_length(file: Path) -> None:
    """Refuse a database whose path is too long for sqlite, which allows 512 bytes together with its own suffixes.

    Raises:
        UserError: it is too long.
    """
    if (length := len(os.fsencode(file))) > LONGEST_PATH:
        raise UserError(
            f"{file.parent}: sqlite opens no database there: its path has {length} bytes, and {LONGEST_PATH} are "
            f"allowed; move the project to a shorter path, or set MLFLOW_TRACKING_URI"
        )


@contextmanager
def store_errors_explained(what: str) -> Iterator[None]:
    """Turn errors of the tracking store within the block into an :class:`ExternalError`.

    Args:
        what: what is kept despite the error, for the message: "the study is kept".
    """
    try:
        yield
    except MlflowException as error:
        uri = redact(mlflow.get_tracking_uri())
        raise ExternalError(
            f"tracking store {uri}: {describe_store_error(error)}; {what}; the next start continues from here"
        ) from None


def experiment_id(client: MlflowClient, name: str) -> str:
    """Id of the experiment ``name``, which is created if missing.

    For a database, artifacts get an absolute folder: MLflow's default is the current folder, which DVC deletes if it is
    a temporary work tree. A server chooses the place itself.
    """
    with hold_lock("mlflow"):
        if (experiment := client.get_experiment_by_name(name)) is not None:
            return experiment.experiment_id
        served = mlflow.get_tracking_uri().startswith(("http:", "https:", "databricks"))
        return client.create_experiment(name, None if served else state_dir("artifacts", name).as_uri())


class Dataset(NamedTuple):
    """The data that a run was trained on, as MLflow shows it."""

    name: str
    digest: str
    source: str


class TrainingRun(Run):
    """A run that is created or found by its key, and described, at once; other updates go through the outbox.

    Each epoch is logged once, over several starts as well.
    """

    def __init__(self, outbox: Outbox, experiment: str, key: str, name: str):
        super().__init__(outbox, experiment, key)
        self.client, writer = outbox.client, outbox.writer
        found = writer.find_run(experiment, key)
        if not found:
            writer.create_run(experiment, key, name)
            self.client.update_run(writer.run_ids[key], status="SCHEDULED")
        self.run_id = writer.run_ids[key]
        loads = self.client.get_metric_history(self.run_id, "system/cpu_utilization_percentage") if found else []
        self.first_sample = max((metric.step + 1 for metric in loads), default=0)
        self.logged = set(writer.logged_epochs.get(key, ()))
        self.monitor: LoadMonitor | None = None

    def describe_now(self, params: dict[str, Any], tags: dict[str, str], dataset: Dataset, diff: str = "") -> None:
        """Log the run's settings, data and uncommitted changes. Idempotent: a later start logs them again."""
        self.client.log_batch(
            self.run_id,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        source = CodeDatasetSource(tags={"source": dataset.source})
        meta = MetaDataset(source, name=dataset.name, digest=dataset.digest[:36])
        self.client.log_inputs(self.run_id, [DatasetInput(meta._to_mlflow_entity(), [])])
        if diff:
            self.client.log_text(self.run_id, diff, DIFF)

    def log_record(self, record: dict[str, Any]) -> None:
        """Write the record of the run's training, a JSON value, to its artifacts."""
        self.client.log_dict(self.run_id, record, RECORD)

    def start(self) -> None:
        """Set the status RUNNING, and log the machine's load (``system/`` metrics) until :meth:`end`."""
        if self.monitor is None:
            self.status("RUNNING")
            self.monitor = LoadMonitor(self, self.first_sample)
            self.monitor.start()

    def log_epoch(self, entry: dict[str, float]) -> None:
        """Log one epoch's metrics, unless that epoch has been logged before."""
        if int(entry["epoch"]) not in self.logged:
            super().log_epoch(entry)
            self.logged.add(int(entry["epoch"]))

    def end(self, status: str) -> None:
        """Stop logging the machine's load, and set the status: FINISHED, FAILED or KILLED."""
        if self.monitor is not None:
            self.monitor.finish()
            self.first_sample, self.monitor = self.monitor.step, None
        self.status(status)


class LoadMonitor(SystemMetricsMonitor):
    """MLflow's monitor of the machine's load, sending through an outbox.

    MLflow's own thread ends at the first request that fails.
    """

    def __init__(self, run: TrainingRun, step: int):
        super().__init__(run.run_id, samples_before_logging=1)
        self.run, self.step = run, step

    def finish(self) -> None:
        """Stop, and wait for the thread to end."""
        self._shutdown_event.set()
        if self._process is not None:
            self._process.join()

    def monitor(self) -> None:
        """Log a sample every sampling interval; MLflow calls this in a thread."""
        while not self._shutdown_event.wait(self.sampling_interval):
            self.collect_metrics()
            try:
                self.run.log_sample({f"system/{name}": v for name, v in self.aggregate_metrics().items()}, self.step)
            except OSError:  # a full disk; the next epoch reports it
                return
            self.step += 1
            for monitor in self.monitors:
                monitor.clear_metrics()


def log_metrics(client: MlflowClient, run_id: str, metrics: dict[str, float]) -> None:
    """Log metrics that a run has once, without an outbox; they supersede earlier values."""
    log_summary_metrics(client, run_id, metrics, int(time.time() * 1000))


def log_files(client: MlflowClient, run_id: str, files: list[Path], folder: str) -> None:
    """Copy files into a run's artifacts, under ``folder``."""
    for file in files:
        client.log_artifact(run_id, str(file), folder)


def run_exists(client: MlflowClient, run_id: str) -> bool:
    """Whether the connected store has this run; a run of another store, or a deleted one, does not exist."""
    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
