"""The tracking store: unreachable, read-only, damaged or full; and metrics after the clock was set back."""

import os
import re
import shutil
import socket
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from PIL import Image

from pipelines.commands import history, predict, promote, provenance, reproduce, rollback, serve
from pipelines.runtime.errors import ExternalError, UserError, run_main
from pipelines.tracking.client import TrainingRun, connect, experiment_id, log_metrics, store_errors_explained
from pipelines.tracking.outbox import Outbox

WRITE_VERSION = 18  # offset in the header of a sqlite file; sqlite opens an unknown version read-only


@pytest.fixture
def place(new_store, tmp_path, monkeypatch) -> Path:
    """The database file of the default store, an empty one."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "state").mkdir()
    return shutil.copyfile(new_store, tmp_path / "state/mlflow.db")


def make_read_only(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[WRITE_VERSION] = 9
    database.write_bytes(content)


def damage(database: Path, how: str) -> None:
    """Turn the database file into something that is not a database."""
    content = database.read_bytes()
    if how == "a folder":
        database.unlink()
        database.mkdir()
    elif how == "half":
        database.write_bytes(content[: len(content) // 2])
    elif how == "other content":
        database.write_bytes(b"not a database " * 500)
    else:
        database.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


@contextmanager
def one_line_error():
    """Expect an :class:`ExternalError` with a message of one line; the list holds that line after the block."""
    line: list[str] = []
    with pytest.raises(ExternalError) as raised:
        yield line
    line.append(str(raised.value))
    assert "\n" not in line[0] and len(line[0]) < 700


@pytest.mark.parametrize("how", ["a folder", "half", "other content", "overwritten"])
def test_a_damaged_store_is_reported_in_one_line(place, how):
    damage(place, how)
    started = time.monotonic()
    with one_line_error() as line:
        connect()
    assert str(place) in line[0] and "restore a backup: make restore" in line[0]
    assert "keep the file" in line[0] and "dvc repro -f -s register" in line[0]
    assert time.monotonic() - started < 60, "MLflow would try for hours"


def test_a_project_in_a_folder_with_a_percent_sign_is_refused_in_one_line(place, monkeypatch):
    """Alembic, which MLflow migrates databases with, ends in a traceback there."""
    monkeypatch.setattr("mlflow.__file__", "/home/kim/100% stn/.venv/lib/mlflow/__init__.py")
    with pytest.raises(UserError, match=r"100% stn/.venv/lib/mlflow: MLflow cannot open .* move the project"):
        connect()


def test_a_path_too_long_for_sqlite_is_refused_in_one_line(place, monkeypatch):
    folder = place.parent.parent.joinpath(*["d" * 200] * 2)
    folder.mkdir(parents=True)
    rest = 500 - len(str(folder / "state/mlflow.db"))
    longest, longer = (folder / ("e" * (rest + more - 1)) for more in (0, 1))
    for home in (longest, longer):
        home.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(longest))
    connect()
    monkeypatch.setenv("DVC_ROOT", str(longer))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # MLflow has set it
    with pytest.raises(UserError, match=r"its path has 501 bytes, and 500 are allowed; move the project"):
        connect()


@pytest.fixture
def closed_port() -> str:
    """A loopback address at which no server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "{}:{}".format(*probe.getsockname())


@pytest.mark.slow
@pytest.mark.parametrize("address", ["http://me:secret@{}", "postgresql://me:secret@{}/mlflow"])
def test_a_server_out_of_reach_is_reported_soon_and_without_its_password(place, closed_port, monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(closed_port))
    started = time.monotonic()
    with one_line_error() as line:
        connect()
    assert time.monotonic() - started < 60, "MLflow would try for four minutes, and a database for hours"
    assert "MLFLOW_TRACKING_URI" in line[0] and closed_port in line[0] and "start it, or name another" in line[0]
    assert "secret" not in line[0] and "me:***@" in line[0]


def test_timeouts_are_short_within_connect_alone(place, monkeypatch):
    connect()
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    connect()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"


@contextmanager
def open_run(client: MlflowClient):
    """A run that can be updated within the block."""
    with Outbox(client, "key", patience=1.0) as outbox:
        yield TrainingRun(outbox, experiment_id(client, "stn-mine"), "key", "name")


def logged(client: MlflowClient) -> list[int]:
    """The run's epochs, in the order in which MLflow returns them."""
    with open_run(client) as found:
        return [metric.step for metric in client.get_metric_history(found.run_id, "train_loss")]


def test_a_store_that_cannot_be_written_is_reported_in_one_line_and_keeps_what_it_has(place, caplog):
    client = connect()
    with open_run(client) as found:
        found.log_epoch({"epoch": 1, "timestamp": 1000, "train_loss": 0.5})
    writable = place.read_bytes()
    make_read_only(place)
    with one_line_error() as line, store_errors_explained("the model is kept"):
        log_metrics(connect(), found.run_id, {"test_accuracy": 0.5})
    assert "readonly database" in line[0] and "the model is kept; the next start continues from here" in line[0]
    assert not caplog.records, "MLflow printed SQL"
    place.write_bytes(writable)
    with open_run(client) as found:
        found.log_epoch({"epoch": 2, "timestamp": 2000, "train_loss": 0.4})
    assert logged(client) == [1, 2]


def test_a_full_disk_under_the_store_is_reported_in_one_line(place, files_of_at_most):
    with open_run(connect()) as found:
        client = found.client
    tags = [RunTag("long", "x" * 3000), RunTag("longer", "y" * 4000)]
    with files_of_at_most(4096), one_line_error() as line, store_errors_explained("the model is kept"):
        client.log_batch(found.run_id, tags=tags)
    assert "disk" in line[0]
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        client.log_text(found.run_id, "x" * 3000, "long.txt")
    with open_run(connect()) as found:
        found.describe(tags={"short": "x"})
    assert client.get_run(found.run_id).data.tags["short"] == "x"


@pytest.mark.parametrize(
    "main",
    [history.main, predict.main, promote.main, provenance.main, reproduce.main, rollback.main, serve.main],
    ids=lambda main: main.__module__,
)
def test_every_command_reports_a_store_that_fails_while_it_works(store, monkeypatch, capsys, main):
    """The store answers when the command connects, and fails later."""

    def fail(*_, **__):
        raise MlflowException("the store has gone\nfollowed by a page of details")

    for name in ("search_model_versions", "get_registered_model"):
        monkeypatch.setattr(MlflowClient, name, fail)
    Image.new("L", (8, 8)).save("a.png")
    images = ["a.png"] if main is predict.main else []
    monkeypatch.setattr(sys, "argv", ["command", "stn-mine", *images])
    with pytest.raises(SystemExit) as ended:
        run_main(main)
    error = capsys.readouterr().err
    assert ended.value.code == 1 and error.count("\n") == 1
    assert re.match(r"error: tracking store sqlite:///\S+: the store has gone; .*; the next start continues", error)


def test_epochs_keep_their_order_where_the_clock_was_set_back(place):
    client = connect()
    for _ in range(2):  # another start
        with open_run(client) as found:
            for epoch, timestamp in ((1, 10**12), (2, 10**12 - 10**8), (3, 10**12 - 10**9)):
                found.log_epoch({"epoch": epoch, "timestamp": timestamp, "train_loss": 1 / epoch})
                found.log_epoch({"epoch": epoch, "timestamp": timestamp, "train_loss": 1 / epoch})
    assert sorted(logged(client)) == [1, 2, 3]
    (run,) = client.search_runs([experiment_id(client, "stn-mine")])
    assert run.data.metrics["train_loss"] == pytest.approx(1 / 3)


def test_the_last_figures_stand_after_the_clock_was_set_back(place, monkeypatch):
    with open_run(connect()) as found:
        pass
    for value, now in ((0.1, 10**9), (0.2, 10**9 - 3600), (0.3, 10**9 - 7200)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        log_metrics(found.client, found.run_id, {"test_accuracy": value, "test_loss": 1 - value})
        data = found.client.get_run(found.run_id).data.metrics
        assert data == pytest.approx({"test_accuracy": value, "test_loss": 1 - value})
