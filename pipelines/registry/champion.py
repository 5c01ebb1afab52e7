"""The champion of a registered model: its alias, each move of it, and the way back.

MLflow keeps where an alias points and forgets where it pointed. Every decision is therefore an MLflow run, named
``promotion``, in an experiment of its own: these runs are the history, and :func:`previous` reads the way back from it.
"""

import getpass
import subprocess
import time
from contextlib import contextmanager
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient

from pipelines.registry.versions import aliases_of, versions_by_number
from pipelines.runtime.errors import UserError
from pipelines.runtime.locks import locked
from pipelines.tracking.client import experiment_id, log_metrics

INITIAL, PROMOTED, FORCED, REFUSED, ROLLED_BACK = "initial", "promoted", "forced", "refused", "rolled back"
OF_TAG = "promotion_of"


class Decision(NamedTuple):
    """One decision on who is champion. ``before`` and ``after`` are versions, ``none`` where there was none.

    ``at`` is in milliseconds since 1970; ``gates`` says in one line how each gate ended.
    """

    outcome: str
    before: str
    after: str
    by: str
    reason: str
    gates: str
    at: int

    @property
    def moved(self) -> bool:
        """Whether the alias moved."""
        return self.outcome != REFUSED


def decide(outcome: str, before: str | None, after: str, reason: str = "", gates: str = "") -> Decision:
    """A decision made now by whoever is at work."""
    return Decision(outcome, before or "none", after, _who(), reason, gates, int(time.time() * 1000))


def _who() -> str:
    name = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True).stdout.strip()
    return name or getpass.getuser()


@contextmanager
def promotion_lock(client: MlflowClient, name: str):
    """Keep other promotions of this model on this machine waiting, and settle what a killed one left open."""
    with locked(f"promotion-{name}"):
        current = aliases_of(client, name).get("champion")
        for run in _runs(client, name, "RUNNING"):
            moved = run.data.tags["after"] == current and run.data.tags["outcome"] != REFUSED
            client.set_terminated(run.info.run_id, "FINISHED" if moved else "KILLED")
        yield


def record(
    client: MlflowClient,
    name: str,
    decision: Decision,
    figures: dict[str, float] | None = None,
    report: str = "",
) -> str:
    """Write a decision down and carry it out; returns the id of its run.

    The run is written first and ended last: what a kill leaves in between, :func:`held` can tell by the alias. It is
    later than all before it, whatever the clock says, since their order is the way back.
    """
    at = max([decision.at, *(earlier.at + 1 for earlier in history(client, name))])
    tags = {key: str(value) for key, value in decision._asdict().items() if key != "at"}
    run = client.create_run(experiment_id(client, f"{name}-promotions"), at, tags | {OF_TAG: name}, "promotion")
    run_id = run.info.run_id
    if figures:
        log_metrics(client, run_id, figures)
    if report:
        client.log_text(run_id, report, "promotion.md")
    of_version = {"promotion": decision.outcome, "promotion_by": decision.by, "promotion_run": run_id}
    if decision.moved:
        of_version["previous_champion"] = decision.before
    for key, value in of_version.items():
        client.set_model_version_tag(name, decision.after, key, value)
    if decision.moved:
        client.set_registered_model_alias(name, "champion", decision.after)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def history(client: MlflowClient, name: str) -> list[Decision]:
    """All decisions on a model, the oldest first."""
    return [
        Decision(*(run.data.tags[field] for field in Decision._fields[:-1]), at=run.info.start_time)
        for run in _runs(client, name, "FINISHED")
    ]


def _runs(client: MlflowClient, name: str, status: str) -> list:
    experiment = client.get_experiment_by_name(f"{name}-promotions")
    if experiment is None:
        return []
    return mlflow.search_runs(  # pyright: ignore[reportReturnType]
        [experiment.experiment_id],
        f"tags.{OF_TAG} = '{name}' and attributes.status = '{status}'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )


def champion_stack(decisions: list[Decision], current: str | None) -> list[str]:
    """The champions one above the other, the present one last: a promotion adds one, a rollback takes some away."""
    champions: list[str] = []
    for decision in decisions:
        if not decision.moved:
            continue
        if decision.outcome == ROLLED_BACK and decision.after in champions:
            while champions[-1] != decision.after:
                champions.pop()
        elif not champions or champions[-1] != decision.after:
            champions.append(decision.after)
    if current is not None and (not champions or champions[-1] != current):
        champions.append(current)  # moved by other hands
    return champions


def previous(client: MlflowClient, name: str) -> tuple[str | None, str]:
    """The present champion, and the one before it that still exists.

    Raises:
        UserError: there is no such model, or no champion to go back to.
    """
    versions = versions_by_number(client, name)
    current = aliases_of(client, name).get("champion")
    for version in reversed(champion_stack(history(client, name), current)):
        if version != current and version in versions:
            return current, version
    raise UserError(f"MODEL: {name!r} given; it has no earlier champion to go back to")
