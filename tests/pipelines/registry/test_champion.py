"""The alias champion, its history and rollback, on a real store."""

import multiprocessing
import os
import shutil
import time

import mlflow
import pytest

from pipelines.registry import champion
from pipelines.registry.champion import Outcome, apply_decision, make_decision, promotion_lock, read_history
from pipelines.registry.rollback import champion_stack, rollback
from pipelines.registry.versions import aliases_of
from pipelines.runtime.errors import UserError
from pipelines.tracking.client import connect

NAME = "stn-mine"


@pytest.fixture
def client(new_store, tmp_path, monkeypatch) -> mlflow.MlflowClient:
    """A client of a store that has a model with four versions and no champion."""
    shutil.copyfile(new_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = connect()
    client.create_registered_model(NAME)
    for _ in range(4):
        client.create_model_version(NAME, str(tmp_path))
    return client


def current(client) -> str | None:
    return aliases_of(client, NAME).get("champion")


def promote(client, after: str, outcome: Outcome = Outcome.PROMOTED, reason: str = "") -> None:
    with promotion_lock(client, NAME):
        decision = make_decision(outcome, current(client), after, reason=reason, gates="level passed")
        apply_decision(client, NAME, decision, metrics={"passed": 1.0}, report="the report")


def test_every_decision_is_recorded_and_a_refusal_moves_nothing(client):
    promote(client, "1", Outcome.INITIAL)
    promote(client, "2")
    promote(client, "3", Outcome.REFUSED)
    promote(client, "4", Outcome.FORCED, "the fair is tomorrow")
    assert current(client) == "4"
    decisions = read_history(client, NAME)
    assert [(decision.outcome, decision.before, decision.after) for decision in decisions] == [
        (Outcome.INITIAL, "none", "1"), (Outcome.PROMOTED, "1", "2"), (Outcome.REFUSED, "2", "3"),
        (Outcome.FORCED, "2", "4"),
    ]  # fmt: skip
    assert decisions[-1].reason == "the fair is tomorrow" and decisions[-1].gates == "level passed"
    assert all(abs(decision.time_ms / 1000 - time.time()) < 60 and decision.by for decision in decisions)
    tags = {number: client.get_model_version(NAME, number).tags for number in "1234"}
    assert [tags[number]["promotion"] for number in "1234"] == ["initial", "promoted", "refused", "forced"]
    assert tags["4"]["previous_champion"] == "2" and "previous_champion" not in tags["3"]
    run = client.get_run(tags["4"]["promotion_run"])
    assert run.data.metrics == {"passed": 1.0} and run.info.run_name == "promotion"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["promotion.md"]


def test_rollback_goes_back_through_history(client):
    for number in "123":
        promote(client, number)
    assert rollback(NAME, "mistakes at night").after == "2" == current(client)
    assert rollback(NAME).after == "1" == current(client)
    with pytest.raises(UserError, match="no earlier champion"):
        rollback(NAME)
    assert current(client) == "1"
    assert read_history(client, NAME)[-2].reason == "mistakes at night"
    promote(client, "4")
    assert rollback(NAME).after == "1"


def test_rollback_skips_deleted_versions(client):
    for number in "123":
        promote(client, number)
    client.delete_model_version(NAME, "2")
    assert rollback(NAME).after == "1"


def test_rollback_after_the_alias_was_changed_outside_this_tool(client):
    promote(client, "1")
    promote(client, "2")
    client.set_registered_model_alias(NAME, "champion", "4")
    assert rollback(NAME).after == "2"


def test_a_clock_set_back_changes_no_order_of_decisions(client, monkeypatch):
    start = time.time()
    for hours, number in enumerate("1234"):
        monkeypatch.setattr(champion.time, "time", lambda hours=hours: start - 3600 * hours)
        promote(client, number)
    assert [decision.after for decision in read_history(client, NAME)] == ["1", "2", "3", "4"]
    assert [rollback(NAME).after for _ in range(3)] == ["3", "2", "1"]


def test_rollback_of_an_unknown_model(client):
    with pytest.raises(UserError, match=f"'stn-other' given.*{NAME}"):
        rollback("stn-other")


def test_promotions_push_and_rollbacks_pop():
    moves = [
        (Outcome.INITIAL, "1"), (Outcome.PROMOTED, "2"), (Outcome.REFUSED, "9"), (Outcome.PROMOTED, "3"),
        (Outcome.ROLLED_BACK, "2"), (Outcome.FORCED, "4"),
    ]  # fmt: skip
    decisions = [make_decision(outcome, None, after) for outcome, after in moves]
    assert champion_stack(decisions, "4") == ["1", "2", "4"]
    assert champion_stack(decisions, "7") == ["1", "2", "4", "7"]
    assert champion_stack([], None) == [] and champion_stack([], "3") == ["3"]


class Killed(BaseException):
    """Stands for kill -9: no code catches it."""


@pytest.mark.parametrize("call", ["set_model_version_tag", "set_registered_model_alias", "set_terminated"])
def test_a_promotion_killed_halfway_is_settled_by_the_next(client, monkeypatch, call):
    promote(client, "1")

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(client, call, die)
        with pytest.raises(Killed):
            promote(client, "2")
    moved = call == "set_terminated"  # the last call
    assert current(client) == ("2" if moved else "1")
    promote(client, "3")
    assert [decision.after for decision in read_history(client, NAME)] == (["1", "2", "3"] if moved else ["1", "3"])
    assert rollback(NAME).after == ("2" if moved else "1")


def _hold(folder: str, seconds: float, entered, done) -> None:
    os.environ |= {"DVC_ROOT": folder, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    with promotion_lock(connect(), NAME):
        entered.set()
        time.sleep(seconds)
        done.put("first")


@pytest.mark.slow
def test_the_second_of_two_promotions_waits(client, tmp_path):
    context = multiprocessing.get_context("spawn")
    entered, done = context.Event(), context.Queue()
    other = context.Process(target=_hold, args=(str(tmp_path), 3.0, entered, done))
    other.start()
    assert entered.wait(300)
    with promotion_lock(client, NAME):
        done.put("second")
    other.join()
    assert [done.get(timeout=60), done.get(timeout=60)] == ["first", "second"]
