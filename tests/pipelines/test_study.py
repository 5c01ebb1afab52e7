"""The study: what counts after kills, who may work on it, and where it is kept."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from pipelines import study
from pipelines.errors import UserError, WorldError
from pipelines.params import TuneParams, load_params


@pytest.fixture
def settings(tmp_path, monkeypatch) -> TuneParams:
    """The default settings, with the state in a new home."""
    tune = load_params().tune
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    return tune


def drawn(opened: optuna.Study) -> optuna.Trial:
    trial = opened.ask()
    trial.suggest_float("x", 0, 1)
    trial.suggest_categorical("kind", ["a", "b"])
    return trial


def crash(settings: TuneParams, name: str = "s") -> None:
    """Begin a trial and go without telling of it, as a killed driver does."""
    with study.opened(name, settings) as opened:
        drawn(opened)


def test_an_orphan_is_tried_again_with_its_values(settings):
    with study.opened("s", settings) as opened:
        opened.tell(drawn(opened), 0.5)
        lost = drawn(opened)
    with study.opened("s", settings) as opened:
        assert [trial.number for trial in study.recover(opened)] == [lost.number]
        assert opened.trials[lost.number].state == TrialState.FAIL
        assert len(study.counted(opened)) == 1, "it is to be tried again and must not count"
        again = drawn(opened)
        assert again.params == lost.params and again.number != lost.number
        opened.tell(again, 0.6)
        assert [trial.number for trial in study.counted(opened)] == [0, again.number]


def test_an_orphan_is_tried_again_at_most_twice(settings):
    crash(settings)
    for _ in range(5):
        with study.opened("s", settings) as opened:
            list(study.recover(opened))
            waiting = [trial for trial in opened.trials if trial.state == TrialState.WAITING]
        if not waiting:
            break
        crash(settings)
    with study.opened("s", settings) as opened:
        assert len(opened.trials) == 3
        (counted,) = study.counted(opened)
        assert counted.state == TrialState.FAIL and "killed" in study.reason(counted)


def test_a_kill_in_the_middle_of_recovery_loses_and_doubles_nothing(settings, monkeypatch):
    crash(settings)
    crash(settings)
    with study.opened("s", settings) as opened:
        tell = opened.tell
        with monkeypatch.context() as patch:
            patch.setattr(opened, "tell", lambda number, **_: tell(number, state=TrialState.FAIL) and 1 / 0)
            with pytest.raises(ZeroDivisionError):
                list(study.recover(opened))
        with monkeypatch.context() as patch:
            patch.setattr(opened, "tell", lambda *_, **__: 1 / 0)  # between queuing the other and telling of it
            with pytest.raises(ZeroDivisionError):
                list(study.recover(opened))
    with study.opened("s", settings) as opened:
        list(study.recover(opened))
        states = [trial.state for trial in opened.trials]
        assert states == [TrialState.FAIL] * 2 + [TrialState.WAITING] * 2
        assert study.counted(opened) == []


def test_an_orphan_killed_before_its_values_were_suggested_keeps_them(settings):
    with study.opened("s", settings) as opened:
        study.queue(opened, {"x": 0.25, "kind": "b"}, **{study.SEEDS_NETWORK: True})
        opened.ask()
    with study.opened("s", settings) as opened:
        list(study.recover(opened))
        again = drawn(opened)
        assert again.params == {"x": 0.25, "kind": "b"} and again.user_attrs[study.SEEDS_NETWORK]


def test_a_refused_combination_does_not_count(settings):
    with study.opened("s", settings) as opened:
        study.refuse(opened, drawn(opened), "too large")
        failed = drawn(opened)
        failed.set_user_attr("reason", "not finite")
        opened.tell(failed, state=TrialState.FAIL)
        assert [study.reason(trial) for trial in study.counted(opened)] == ["not finite"]


def test_a_resumed_sampler_does_not_repeat_itself(settings):
    values = []
    for _ in range(3):
        with study.opened("s", settings) as opened:
            trial = drawn(opened)
            opened.tell(trial, 0.0)
            values.append(trial.params["x"])
    assert len(set(values)) == 3


def test_a_second_driver_is_told_who_holds_the_study(settings):
    second = study.opened("s", settings)
    with study.opened("s", settings), pytest.raises(WorldError, match=f"process {os.getpid()} .*s"), second:
        pass
    with study.opened("s", settings), study.opened("another", settings):
        pass


def test_a_driver_on_another_machine_holds_the_study_while_it_beats(settings):
    def held_by(host: str, pid: int, ago: float) -> None:
        opened = optuna.load_study(study_name="s", storage=study._storage("s"))
        opened.set_user_attr("driver", {"host": host, "pid": pid, "started": 1.0, "time": time.time() - ago})

    with study.opened("s", settings):
        pass
    held_by("elsewhere", 123, ago=5)
    with pytest.raises(WorldError, match="process 123 on elsewhere"), study.opened("s", settings):
        pass
    # One that has not been heard of for long, and one of this machine that is dead.
    for host, pid, ago in (("elsewhere", 123, 121), (socket.gethostname(), 2**22 + 1, 5)):
        held_by(host, pid, ago)
        with study.opened("s", settings) as opened:
            assert opened.user_attrs["driver"]["pid"] == os.getpid()


def test_a_driver_that_was_silent_for_too_long_and_is_displaced_stops(settings):
    with study.opened("s", settings) as opened:
        opened.set_user_attr("driver", {"host": "elsewhere", "pid": 123, "started": 1.0, "time": time.time()})
        with pytest.raises(WorldError, match="process 123 on elsewhere"):
            study.beat(opened)
    storage = study._storage("s")
    assert optuna.load_study(study_name="s", storage=storage).user_attrs["driver"]["pid"] == 123, "not its own to clear"


def test_what_a_kill_leaves_of_the_journal_is_mended(settings):
    with study.opened("s", settings) as opened:
        opened.tell(drawn(opened), 0.5)
    journal = Path(study.location("s"))
    journal.with_name(journal.name + ".lock").symlink_to(journal)
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:10])
    started = time.monotonic()
    with study.opened("s", settings) as opened:
        assert [trial.value for trial in opened.trials] == [0.5]
    assert time.monotonic() - started < 20, "Optuna's own grace period for a lock is 30 s"


@pytest.mark.parametrize(
    "address", ["nonsense", "postgresql+nodriver://user:secret@host/db", "postgresql://user:secret@host:54x/db"]
)
def test_an_address_that_is_none_is_the_users_mistake(address, settings, monkeypatch):
    monkeypatch.setenv("OPTUNA_STORAGE", address)
    with pytest.raises(UserError, match="OPTUNA_STORAGE") as raised, study.opened("s", settings):
        pass
    assert "secret" not in str(raised.value)


@pytest.fixture
def postgresql(tmp_path_factory):
    """The address of a PostgreSQL server of this machine's own programs, on a loopback port."""
    programs = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not any(programs):
        pytest.skip("PostgreSQL is not installed here (initdb not found)")
    folder = Path(next(filter(None, programs))).resolve().parent
    data = tmp_path_factory.mktemp("postgresql")
    root = os.geteuid() == 0  # which the server refuses to be
    user = "nobody" if root else None
    if root:
        shutil.chown(data, "nobody")
        for parent in (data.parent, data.parent.parent):
            parent.chmod(parent.stat().st_mode | 0o011)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run(
        [folder / "initdb", "-D", data / "db", "-U", "tester", "-A", "trust"],
        check=True,
        capture_output=True,
        user=user,
    )
    options = ["-k", data, "-c", "listen_addresses=127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        [folder / "postgres", "-D", data / "db", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
    )
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.1)
    time.sleep(1)
    yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    server.send_signal(signal.SIGINT)  # SIGTERM would wait for every client to close its connection
    server.wait(30)


def test_a_study_in_postgresql(postgresql, settings, monkeypatch):
    monkeypatch.setenv("OPTUNA_STORAGE", postgresql)
    with study.opened("s", settings) as opened:
        opened.tell(drawn(opened), 0.5)
        lost = drawn(opened)
    with study.opened("s", settings) as opened:
        assert [trial.number for trial in study.recover(opened)] == [lost.number]
        assert drawn(opened).params == lost.params
        assert opened.best_value == 0.5
    assert study.location("s") == postgresql
    monkeypatch.setenv("OPTUNA_STORAGE", re.sub(r":\d+/", ":1/", postgresql))
    with pytest.raises(WorldError, match="OPTUNA_STORAGE"), study.opened("s", settings):
        pass
