"""The alias ``champion`` of a registered model, and the history of decisions about it.

MLflow stores the version that an alias points to, but not the earlier ones. Each decision is therefore recorded as an
MLflow run named ``promotion`` in the experiment ``<model>-promotions``.
"""

import getpass
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from pipelines.registry.versions import aliases_of, list_versions
from pipelines.runtime.locks import hold_lock
from pipelines.tracking.client import experiment_id, log_metrics

MODEL_TAG = "promotion_of"
DATA_TAG = "data_digest"  # of the test images; versions have it as well


class Outcome(StrEnum):
    """Outcome of a decision; the values are tags in MLflow."""

    INITIAL = "initial"
    PROMOTED = "promoted"
    FORCED = "forced"
    REFUSED = "refused"
    ROLLED_BACK = "rolled back"


class Decision(NamedTuple):
    """A decision about the champion. All fields except ``time_ms`` are tags of its run.

    Args:
        outcome: see :class:`Outcome`.
        before: version that was champion before the decision, or ``none``.
        after: version that the decision is about. It is the champion unless it was refused.
        by: name of the user who made the decision.
        reason: reason given by the user; may be empty.
        gates: one line with the result of each gate; may be empty.
        time_ms: milliseconds since 1970.
    """

    outcome: Outcome
    before: str
    after: str
    by: str
    reason: str
    gates: str
    time_ms: int

    @property
    def moved(self) -> bool:
        """Whether the alias moved."""
        return self.outcome != Outcome.REFUSED

    def tags(self) -> dict[str, str]:
        """Return the tags of the decision's run."""
        return {field: str(value) for field, value in self._asdict().items() if field != "time_ms"}


def make_decision(outcome: Outcome, before: str | None, after: str, *, reason: str = "", gates: str = "") -> Decision:
    """Return a decision made now by the current user; ``before`` is None if there was no champion."""
    return Decision(outcome, before or "none", after, _user_name(), reason, gates, int(time.time() * 1000))


def _user_name() -> str:
    name = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True).stdout.strip()
    return name or getpass.getuser()


@contextmanager
def promotion_lock(client: MlflowClient, name: str) -> Iterator[None]:
    """Hold the lock for decisions about a model, and end the runs of decisions that were killed.

    The lock is effective among the processes of one machine.
    """
    with hold_lock(f"promotion-{name}"):
        champion = aliases_of(client, name).get("champion")
        for run in _search_runs(client, name, "RUNNING"):
            moved = run.data.tags["after"] == champion and run.data.tags["outcome"] != Outcome.REFUSED
            client.set_terminated(run.info.run_id, "FINISHED" if moved else "KILLED")
        yield


def apply_decision(
    client: MlflowClient,
    name: str,
    decision: Decision,
    *,
    metrics: Mapping[str, float] | None = None,
    report: str = "",
    digest: str = "",
) -> str:
    """Record a decision as an MLflow run, move the alias unless the decision is a refusal, and return the run's id.

    The run is created first and ended last. After a kill in between, :func:`promotion_lock` tells from the alias
    whether the decision took effect. The run starts later than all earlier decisions even if the clock was set back,
    because the order of the runs is the order of the decisions.

    Args:
        metrics: metrics of the run.
        report: Markdown, stored with the run as ``promotion.md``.
        digest: digest of the data that the decision is based on; empty if it is based on none.
    """
    start = max([decision.time_ms, *(earlier.time_ms + 1 for earlier in read_history(client, name))])
    tags = decision.tags() | {MODEL_TAG: name} | ({DATA_TAG: digest} if digest else {})
    run = client.create_run(experiment_id(client, f"{name}-promotions"), start, tags, "promotion")
    run_id = run.info.run_id
    if metrics:
        log_metrics(client, run_id, dict(metrics))
    if report:
        client.log_text(run_id, report, "promotion.md")
    version_tags = {"promotion": decision.outcome.value, "promotion_by": decision.by, "promotion_run": run_id}
    if decision.moved:
        version_tags["previous_champion"] = decision.before
    for key, value in version_tags.items():
        client.set_model_version_tag(name, decision.after, key, value)
    if decision.moved:
        client.set_registered_model_alias(name, "champion", decision.after)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def read_history(client: MlflowClient, name: str) -> list[Decision]:
    """Return all decisions about a model's champion, oldest first."""
    decisions = []
    for run in _search_runs(client, name, "FINISHED"):
        tags = run.data.tags
        decisions.append(
            Decision(
                Outcome(tags["outcome"]), tags["before"], tags["after"], tags["by"], tags["reason"], tags["gates"],
                time_ms=run.info.start_time,
            )
        )  # fmt: skip
    return decisions


def count_challengers(client: MlflowClient, name: str, digest: str, number: str) -> int:
    """Count the versions that were compared with a champion on the test images of these data, ``number`` included.

    Decisions of earlier commits do not name their data; those are the data of their version. Dry runs are not recorded.
    """
    trained_on = {str(version.version): version.tags.get(DATA_TAG) for version in list_versions(client, name)}
    compared = (Outcome.PROMOTED, Outcome.FORCED, Outcome.REFUSED)
    runs = [run.data.tags for run in _search_runs(client, name, "FINISHED")]
    met = {
        tags["after"]
        for tags in runs
        if tags["outcome"] in compared and tags.get(DATA_TAG, trained_on.get(tags["after"])) == digest
    }
    return len(met | {number})


def _search_runs(client: MlflowClient, name: str, status: str) -> list[Run]:
    experiment = client.get_experiment_by_name(f"{name}-promotions")
    if experiment is None:
        return []
    return mlflow.search_runs(  # pyright: ignore[reportReturnType]
        [experiment.experiment_id],
        f"tags.{MODEL_TAG} = '{name}' and attributes.status = '{status}'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
