"""MLflow: how the tracking store and the registry are reached, and what is told to them.

The driver of a stage is the only writer of a run, however many workers train.
"""

import hashlib
import logging
import os
import tempfile
import time
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.types import Schema, TensorSpec

from pipelines.errors import WorldError
from pipelines.state import locked, state_dir

KEY_TAG = "training_key"

for chatty in (
    "mlflow.system_metrics",
    "mlflow.store.db.utils",
    "mlflow.tracking",
    "mlflow.models",
    "mlflow.pyfunc",
    "alembic",
):
    logging.getLogger(chatty).setLevel(logging.WARNING)


def connect() -> MlflowClient:
    """A client of MLFLOW_TRACKING_URI's store where set, else of the sqlite database in the state's home.

    The store is opened once under a lock: a new database that several processes migrate at once is ruined.

    Raises:
        WorldError: the store cannot be reached.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state_dir() / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    with locked("mlflow"):
        try:
            client.search_experiments(max_results=1)
        except MlflowException as error:
            raise WorldError(f"MLFLOW_TRACKING_URI: {uri}: the tracking store does not answer ({error})") from None
    return client


@contextmanager
def needed(what: str):
    """Turn a failure of the tracking store within the block into a :class:`WorldError` that says what is kept."""
    try:
        yield
    except MlflowException as error:
        uri = mlflow.get_tracking_uri()
        raise WorldError(f"tracking store {uri}: {error}; {what}; the next start goes on from here") from None


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


class TrainingRun:
    """The MLflow run of one model, found again by its key after a kill; each epoch is logged once."""

    def __init__(self, client: MlflowClient, experiment: str, key: str, name: str, parent: str | None = None):
        self.client = client
        found = client.search_runs([experiment], f"tags.{KEY_TAG} = '{key}'", max_results=1)
        if found:
            self.run_id = found[0].info.run_id
        else:
            tags = {KEY_TAG: key} | ({"mlflow.parentRunId": parent} if parent else {})
            self.run_id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
            client.update_run(self.run_id, status="SCHEDULED")
        logged = client.get_metric_history(self.run_id, "train_loss") if found else []
        self.logged = {metric.step for metric in logged}
        self.monitor: SystemMetricsMonitor | None = None

    def describe(self, params: dict[str, Any], tags: dict[str, str], meta: dict, diff: str = "") -> None:
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
            self.client.log_text(self.run_id, diff, "lineage/uncommitted.diff")

    def describe_trial(self, params: dict[str, Any]) -> None:
        """Log what a trial is made of."""
        self.client.log_batch(self.run_id, params=[Param(key, str(value)) for key, value in params.items()])
        self.client.update_run(self.run_id, status="RUNNING")

    def end_trial(self, state: str, reason: str = "") -> None:
        """Say what became of a trial: ``finished``, ``pruned`` or ``failed`` and why."""
        tags = [RunTag("state", state)] + ([RunTag("reason", reason)] if reason else [])
        self.client.log_batch(self.run_id, tags=tags)
        self.end("FAILED" if state == "failed" else "FINISHED")

    def start(self) -> None:
        """Mark the run as running and record the machine's load (``system/`` metrics) until :meth:`end`."""
        if self.monitor is None:
            self.client.update_run(self.run_id, status="RUNNING")
            self.monitor = SystemMetricsMonitor(self.run_id, samples_before_logging=1, resume_logging=True)
            self.monitor.start()

    def log_epoch(self, entry: dict[str, float]) -> None:
        """Log one epoch's metrics, unless its epoch has been logged before.

        Their timestamps are those of the entry: MLflow drops what is sent again alike, and keeps it with another.
        """
        epoch = int(entry["epoch"])
        if epoch in self.logged:
            return
        metrics = [
            Metric(name, value, int(entry["timestamp"]), epoch)
            for name, value in entry.items()
            if name not in ("epoch", "timestamp")
        ]
        self.client.log_batch(self.run_id, metrics=metrics)
        self.logged.add(epoch)

    def end(self, status: str) -> None:
        """Stop watching the machine and set the run's status: FINISHED, FAILED or KILLED."""
        if self.monitor is not None:
            self.monitor.finish()
            self.monitor = None
        self.client.set_terminated(self.run_id, status)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted names."""
    leaves = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves


def log_metrics(client: MlflowClient, run_id: str, metrics: dict[str, float]) -> None:
    """Log metrics that a run has once, such as its test accuracy."""
    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])


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


def registered_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a registered model; none where there is no such model."""
    return list(client.search_model_versions(f"name = '{name}'"))


def aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Where the aliases of a registered model point: alias → version; empty where there is no such model."""
    try:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def register_network(
    name: str, variant: str, run_id: str, program: Path, example: np.ndarray, outputs: dict, tags: dict[str, str]
) -> ModelVersion:
    """Log an exported network (a ``.pt2`` file) to its run and register it as a new version of ``name``.

    ``example`` and ``outputs`` are a batch of images and what the network answers: the model's signature.
    """
    code = Path(__file__).with_name("registered_model.py")
    free = {key: TensorSpec(value.dtype, (-1, *value.shape[1:]), key) for key, value in outputs.items()}
    signature = ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]), outputs=Schema(list(free.values()))
    )
    files = {f"sha256_{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in (program, code)}
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        logged = mlflow.pyfunc.log_model(
            name=variant,
            python_model=str(code),
            artifacts={"network": str(program)},
            signature=signature,
            input_example=example,
            pip_requirements=[
                f"{package}=={metadata.version(package).split('+')[0]}" for package in ("torch", "numpy", "mlflow")
            ],
            tags=tags,
        )
        with tempfile.TemporaryDirectory() as folder:  # what names the code that is run on loading
            described = Path(download_artifacts(logged.model_uri, dst_path=folder)) / "MLmodel"
            files[f"sha256_{described.name}"] = hashlib.sha256(described.read_bytes()).hexdigest()
    # The run's context manager never swallows an exception, though its type would allow it to.
    return mlflow.register_model(logged.model_uri, name, tags=tags | files)  # pyright: ignore[reportPossiblyUnboundVariable]
