"""Rollback of the alias ``champion`` to the previous champion."""

from collections.abc import Sequence

from mlflow import MlflowClient

from pipelines.registry.champion import (
    Decision,
    Outcome,
    apply_decision,
    make_decision,
    promotion_lock,
    read_history,
)
from pipelines.registry.versions import aliases_of, versions_by_number
from pipelines.runtime.errors import UserError
from pipelines.tracking.client import connect


def rollback(name: str, reason: str = "") -> Decision:
    """Make the previous champion the champion again; deleted versions are skipped.

    Raises:
        UserError: the registry has no such model, or the model has no previous champion.
    """
    client = connect()
    with promotion_lock(client, name):
        current, previous = find_previous_champion(client, name)
        decision = make_decision(Outcome.ROLLED_BACK, current, previous, reason=reason)
        apply_decision(client, name, decision)
    return decision


def find_previous_champion(client: MlflowClient, name: str) -> tuple[str | None, str]:
    """Return the current champion, and the latest earlier champion that still exists.

    Raises:
        UserError: the registry has no such model, or the model has no previous champion.
    """
    versions = versions_by_number(client, name)
    current = aliases_of(client, name).get("champion")
    for version in reversed(champion_stack(read_history(client, name), current)):
        if version != current and version in versions:
            return current, version
    raise UserError(f"MODEL: {name!r} given; it has no earlier champion to go back to")


def champion_stack(decisions: Sequence[Decision], current: str | None) -> list[str]:
    """Return the stack of champions: a promotion pushes a version, a rollback pops versions.

    Args:
        decisions: all decisions, oldest first.
        current: version that the alias points to now. It becomes the top of the stack.
    """
    champions: list[str] = []
    for decision in decisions:
        if not decision.moved:
            continue
        if decision.outcome == Outcome.ROLLED_BACK and decision.after in champions:
            while champions[-1] != decision.after:
                champions.pop()
        elif not champions or champions[-1] != decision.after:
            champions.append(decision.after)
    if current is not None and (not champions or champions[-1] != current):
        champions.append(current)  # the alias was changed outside this tool
    return champions
