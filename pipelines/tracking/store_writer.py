"""Applies updates to the runs of a tracking store.

Every update is idempotent, since a lost answer does not tell whether the request was carried out: metrics have their
own timestamps (MLflow drops a metric that it already has), and a run is looked up by its key before it is created.
"""

import base64
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from pipelines.tracking.updates import (
    CreateRun,
    Describe,
    LogEpoch,
    LogFile,
    LogSample,
    LogSummary,
    SetStatus,
    Update,
)

KEY_TAG = "training_key"
METRICS_PER_REQUEST = 1000  # MLflow's limit
# Errors that repeating the request cannot fix, such as those about a deleted run.
FINAL_ERRORS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class StoreWriter:
    """Applies updates to the runs of one store, which it finds by their keys.

    Attributes:
        run_ids: run ids of the keys seen so far.
        logged_epochs: for each key, the epochs that the store had when the run was found.
    """

    def __init__(self, client: MlflowClient):
        self.client = client
        self.run_ids: dict[str, str] = {}
        self.logged_epochs: dict[str, set[int]] = {}

    def find_run(self, experiment: str, key: str) -> bool:
        """Whether the store has the run of this key; if so, remember its id and its epochs."""
        found = self.client.search_runs([experiment], f"tags.{KEY_TAG} = '{key}'", max_results=1)
        if found:
            self.run_ids[key] = found[0].info.run_id
            history = self.client.get_metric_history(self.run_ids[key], "train_loss")
            self.logged_epochs[key] = {metric.step for metric in history}
        return bool(found)

    def create_run(
        self, experiment: str, key: str, name: str, *, parent: str | None = None, start: int | None = None
    ) -> None:
        """Create the run of this key, as a child of ``parent`` (a run id), started at ``start`` (ms)."""
        tags = {KEY_TAG: key} | ({"mlflow.parentRunId": parent} if parent else {})
        self.run_ids[key] = self.client.create_run(experiment, start, tags, name).info.run_id

    def apply(self, updates: list[Update]) -> None:
        """Apply one update, or several epochs or samples of one run in a single request.

        Raises:
            MlflowException: the store does not answer, or refuses the updates (see :func:`is_final`).
        """
        update, client = updates[0], self.client
        run_id = self._run_id(update)
        match update.action:
            case CreateRun():
                pass  # done by _run_id
            case LogEpoch():
                client.log_batch(run_id, _metrics(updates, self.logged_epochs.get(update.key, set())))
            case LogSample():
                client.log_batch(run_id, _metrics(updates, set()))
            case Describe(params, tags):
                logged = [Param(name, value) for name, value in params.items()]
                client.log_batch(run_id, params=logged, tags=[RunTag(*tag) for tag in tags.items()])
            case LogSummary(metrics):
                log_summary_metrics(client, run_id, metrics, update.time)
            case LogFile(name, place, content):
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, name)
                    file.write_bytes(base64.b64decode(content))
                    client.log_artifact(run_id, str(file), place)
            case SetStatus("SCHEDULED" | "RUNNING" as status):
                client.update_run(run_id, status=status)
            case SetStatus(status):
                client.set_terminated(run_id, status, update.time)

    def _run_id(self, update: Update) -> str:
        key = update.key
        if key not in self.run_ids and not self.find_run(update.experiment, key):
            if not isinstance(update.action, CreateRun):
                raise MlflowException("it was deleted", RESOURCE_DOES_NOT_EXIST)
            name, parent = update.action
            self.create_run(update.experiment, key, name, parent=parent, start=update.time)
        return self.run_ids[key]


def next_batch(updates: Iterable[Update]) -> list[Update]:
    """The first update, or the first epochs or samples of one run that fit into one request.

    Without batches, an hour's updates would take as many requests as there are updates.
    """
    first, *others = islice(updates, METRICS_PER_REQUEST)
    batch = [first]
    if not isinstance(first.action, LogEpoch | LogSample):
        return batch
    count = len(first.action.metrics)
    for update in others:
        if update.key != first.key or not isinstance(update.action, type(first.action)):
            break
        count += len(update.action.metrics)
        if count > METRICS_PER_REQUEST:
            break
        batch.append(update)
    return batch


def log_summary_metrics(client: MlflowClient, run_id: str, metrics: dict[str, float], now: int) -> None:
    """Log metrics that a run has once, such as its test accuracy; they supersede earlier values. Idempotent.

    MLflow takes the value with the latest timestamp as the last one. If the clock was set back, that is an older value,
    so the new one gets a timestamp after all earlier ones.
    """
    earlier = client.get_metric_history(run_id, next(iter(metrics)))
    last = max(earlier, key=lambda metric: metric.timestamp, default=None)
    if last is not None and last.value == next(iter(metrics.values())) and last.timestamp >= now:
        return  # logged before, and the answer was lost
    now = max([now, *(metric.timestamp + 1 for metric in earlier)])
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])


def is_final(error: Exception) -> bool:
    """Whether the store will never accept the request. Any other error may be temporary."""
    return isinstance(error, MlflowException) and error.error_code in FINAL_ERRORS


def _metrics(updates: list[Update], logged: set[int]) -> list[Metric]:
    """MLflow's metrics of epochs or samples whose step is not in ``logged``."""
    return [
        Metric(name, value, update.time, update.action.step)
        for update in updates
        if isinstance(update.action, LogEpoch | LogSample) and update.action.step not in logged
        for name, value in update.action.metrics.items()
    ]
