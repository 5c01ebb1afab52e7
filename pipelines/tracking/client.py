"""MLflow: how the tracking store and the registry are reached, and what is told to them.

The driver of a stage is the only writer of a run, however many workers train.
"""

import logging
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # whole, with a password in it
# Else a server with S3 behind it has its clients fetch files there, which they may well not reach.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")

import mlflow
import sqlalchemy
from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import create_sqlalchemy_engine
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from sqlalchemy.exc import SQLAlchemyError

from pipelines.runtime import environment
from pipelines.runtime.environment import redact
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.home import state_dir
from pipelines.runtime.locks import locked
from pipelines.tracking.outbox import KEY_TAG as KEY_TAG
from pipelines.tracking.outbox import Outbox, Run, account, deliver_pending, log_summary_metrics, short_timeouts
from pipelines.tracking.outbox import describe_store_error as describe_store_error

# Where a run keeps what is more than a tag: the record of its training, and what was not committed then.
RECORD = "lineage/training.json"
DIFF = "lineage/uncommitted.diff"

DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
MEND_FILE = (
    "make it a file that can be opened, or move it away: dvc repro -f -s register then registers what is trained here "
    "in a new one"
)

for chatty in (
    "mlflow.system_metrics",
    "mlflow.tracking",
    "mlflow.models",
    "mlflow.pyfunc",
    "alembic",
):
    logging.getLogger(chatty).setLevel(logging.WARNING)
# Prints a page for each error that it then raises.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def connect() -> MlflowClient:
    """A client of MLFLOW_TRACKING_URI's store where set, else of the sqlite database in the state's home.

    The store is opened once under a lock: a new database that several processes migrate at once is ruined. It is told
    what earlier commands could not tell it.

    Raises:
        UserError: the server knows no such account, or its password is another.
        ExternalError: the store cannot be reached, or is damaged.
    """
    uri = environment.value("MLFLOW_TRACKING_URI") or f"sqlite:///{state_dir() / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    with locked("mlflow"):
        try:
            if uri.startswith(DATABASES):
                sqlalchemy.inspect(create_sqlalchemy_engine(uri)).engine.dispose()
            client = MlflowClient(uri)
            with short_timeouts():
                client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError, CommandError) as error:
            if getattr(error, "error_code", None) == "UNAUTHENTICATED":
                raise UserError(
                    f"{account()}; {redact(uri)} wants one that it knows, with its MLFLOW_TRACKING_PASSWORD"
                ) from None
            store = f"MLFLOW_TRACKING_URI: {redact(uri)}: the tracking store"
            what_to_do = MEND_FILE if uri.startswith("sqlite") else "start it, or name another"
            raise ExternalError(f"{store} does not answer ({describe_store_error(error)}); {what_to_do}") from None
    deliver_pending(client)
    return client


@contextmanager
def store_errors_explained(what: str):
    """Turn a failure of the tracking store within the block into a :class:`ExternalError` that says what is kept."""
    try:
        yield
    except MlflowException as error:
        uri = redact(mlflow.get_tracking_uri())
        raise ExternalError(
            f"tracking store {uri}: {describe_store_error(error)}; {what}; the next start goes on from here"
        ) from None


def experiment_id(client: MlflowClient, name: str) -> str:
    """The experiment ``name``, made if missing.

    With a database its artifacts get an absolute place: MLflow's default is the current folder, which for a
    temporary work tree is soon gone. A server decides itself.
    """
    with locked("mlflow"):
        if (experiment := client.get_experiment_by_name(name)) is not None:
            return experiment.experiment_id
        served = mlflow.get_tracking_uri().startswith(("http:", "https:", "databricks"))
        return client.create_experiment(name, None if served else state_dir("artifacts", name).as_uri())


class TrainingRun(Run):
    """A run that is found by its key, or made, and described at once; the rest is delivered, each epoch once."""

    def __init__(self, delivery: Outbox, experiment: str, key: str, name: str):
        super().__init__(delivery, experiment, key)
        self.client = delivery.client
        found = delivery.find(experiment, key)
        if not found:
            delivery.make(experiment, key, name)
            self.client.update_run(delivery.run_ids[key], status="SCHEDULED")
        self.run_id = delivery.run_ids[key]
        loads = self.client.get_metric_history(self.run_id, "system/cpu_utilization_percentage") if found else []
        self.first_sample = max((metric.step + 1 for metric in loads), default=0)
        self.logged = set(delivery.logged.get(key, ()))
        self.monitor: Load | None = None

    def describe_now(self, params: dict[str, Any], tags: dict[str, str], meta: dict, diff: str = "") -> None:
        """Log what the run is made from; a value that stands already is written again, to the same effect."""
        self.client.log_batch(
            self.run_id,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        source = CodeDatasetSource(tags={"source": meta["source"]})
        dataset = MetaDataset(source, name=meta["dataset"], digest=meta["digest"][:36])
        self.client.log_inputs(self.run_id, [DatasetInput(dataset._to_mlflow_entity(), [])])
        if diff:
            self.client.log_text(self.run_id, diff, DIFF)

    def describe_training(self, name: str, seed: int, record: dict, meta: dict) -> None:
        """Log what a model is made from: ``record`` is that of the stage train, for the variant ``name``."""
        settings = flatten({"train": record["train"], "variant": record["variant"]})
        del settings["train.seeds"]
        tags = {"variant": name, "seed": str(seed), "data_digest": meta["digest"]}
        tags |= {key: str(record[key]) for key in ("git_commit", "git_dirty", "workers", "threads", "gpu")}
        tags |= {f"library.{library}": version for library, version in record["libraries"].items()}
        self.describe_now({**settings, "train.seed": seed}, tags, meta, record["git_diff"])
        self.client.log_dict(self.run_id, record, RECORD)

    def start(self) -> None:
        """Mark the run as running and record the machine's load (``system/`` metrics) until :meth:`end`."""
        if self.monitor is None:
            self.status("RUNNING")
            self.monitor = Load(self, self.first_sample)
            self.monitor.start()

    def log_epoch(self, entry: dict[str, float]) -> None:
        """Log one epoch's metrics, unless its epoch has been logged before."""
        if int(entry["epoch"]) not in self.logged:
            super().log_epoch(entry)
            self.logged.add(int(entry["epoch"]))

    def end(self, status: str) -> None:
        """Stop watching the machine and set the run's status: FINISHED, FAILED or KILLED."""
        if self.monitor is not None:
            self.monitor.finish()
            self.first_sample, self.monitor = self.monitor.step, None
        self.status(status)


class Load(SystemMetricsMonitor):
    """MLflow's monitor of the machine, whose own thread ends at the first request that fails, through a delivery."""

    def __init__(self, run: TrainingRun, step: int):
        super().__init__(run.run_id, samples_before_logging=1)
        self.run, self.step = run, step

    def finish(self) -> None:
        self._shutdown_event.set()
        if self._process is not None:
            self._process.join()

    def monitor(self) -> None:
        while not self._shutdown_event.wait(self.sampling_interval):
            self.collect_metrics()
            try:
                self.run.log_sample({f"system/{name}": v for name, v in self.aggregate_metrics().items()}, self.step)
            except OSError:  # a full disk, of which the next epoch tells
                return
            self.step += 1
            for monitor in self.monitors:
                monitor.clear_metrics()


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted names."""
    leaves = {}
    for name, value in tree.items():
        leaves |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves


def log_metrics(client: MlflowClient, run_id: str, metrics: dict[str, float]) -> None:
    """As :func:`log_figures`, now."""
    log_summary_metrics(client, run_id, metrics, int(time.time() * 1000))


def log_files(client: MlflowClient, run_id: str, files: list[Path], folder: str) -> None:
    """Copy files into a run's artifacts, under ``folder``."""
    for file in files:
        client.log_artifact(run_id, str(file), folder)


def run_exists(client: MlflowClient, run_id: str) -> bool:
    """Whether the store at hand has this run; another store, or a new one, has not."""
    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
