"""Study: which trials count after kills, which driver may run it, and its storage."""

import os
import re
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from pipelines.runtime.errors import ExternalError, UserError
from pipelines.settings.params import TuneParams, load_params
from pipelines.tuning import heartbeat, study


@pytest.fixture
def settings(tmp_path, monkeypatch) -> TuneParams:
    """Default settings, with a new state folder."""
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
    """Start a trial and leave it running, as a killed driver does."""
    with study.open_study(name, settings) as opened:
        drawn(opened)


def test_an_orphan_is_tried_again_with_its_values(settings):
    with study.open_study("s", settings) as opened:
        opened.tell(drawn(opened), 0.5)
        lost = drawn(opened)
    with study.open_study("s", settings) as opened:
        assert [trial.number for trial in study.recover_orphans(opened)] == [lost.number]
        assert opened.trials[lost.number].state == TrialState.FAIL
        assert len(study.finished_trials(opened)) == 1, "it is retried and must not count"
        again = drawn(opened)
        assert again.params == lost.params and again.number != lost.number
        opened.tell(again, 0.6)
        assert [trial.number for trial in study.finished_trials(opened)] == [0, again.number]


def test_an_orphan_is_tried_again_at_most_twice(settings):
    crash(settings)
    for _ in range(5):
        with study.open_study("s", settings) as opened:
            list(study.recover_orphans(opened))
            waiting = [trial for trial in opened.trials if trial.state == TrialState.WAITING]
        if not waiting:
            break
        crash(settings)
    with study.open_study("s", settings) as opened:
        assert len(opened.trials) == 3
        (counted,) = study.finished_trials(opened)
        assert counted.state == TrialState.FAIL and "killed" in study.failure_reason(counted)


def test_a_kill_in_the_middle_of_recovery_loses_and_doubles_nothing(settings, monkeypatch):
    crash(settings)
    crash(settings)
    with study.open_study("s", settings) as opened:
        tell = opened.tell
        with monkeypatch.context() as patch:
            patch.setattr(opened, "tell", lambda number, **_: tell(number, state=TrialState.FAIL) and 1 / 0)
            with pytest.raises(ZeroDivisionError):
                list(study.recover_orphans(opened))
        with monkeypatch.context() as patch:
            patch.setattr(opened, "tell", lambda *_, **__: 1 / 0)  # between enqueuing the retry and marking the orphan
            with pytest.raises(ZeroDivisionError):
                list(study.recover_orphans(opened))
    with study.open_study("s", settings) as opened:
        list(study.recover_orphans(opened))
        states = [trial.state for trial in opened.trials]
        assert states == [TrialState.FAIL] * 2 + [TrialState.WAITING] * 2
        assert study.finished_trials(opened) == []


def test_an_orphan_killed_before_its_values_were_suggested_keeps_them(settings):
    with study.open_study("s", settings) as opened:
        study.enqueue_trial(opened, {"x": 0.25, "kind": "b"}, {study.BASELINE_TRIAL: True})
        opened.ask()
    with study.open_study("s", settings) as opened:
        list(study.recover_orphans(opened))
        again = drawn(opened)
        assert again.params == {"x": 0.25, "kind": "b"} and again.user_attrs[study.BASELINE_TRIAL]


def test_a_refused_combination_does_not_count(settings):
    with study.open_study("s", settings) as opened:
        study.reject_trial(opened, drawn(opened), "too large")
        failed = drawn(opened)
        failed.set_user_attr(study.FAILURE, "not finite")
        opened.tell(failed, state=TrialState.FAIL)
        assert [study.failure_reason(trial) for trial in study.finished_trials(opened)] == ["not finite"]


def test_a_resumed_sampler_does_not_repeat_itself(settings):
    values = []
    for _ in range(3):
        with study.open_study("s", settings) as opened:
            trial = drawn(opened)
            opened.tell(trial, 0.0)
            values.append(trial.params["x"])
    assert len(set(values)) == 3


def open_in_thread(settings: TuneParams) -> Future[int]:
    """Open the study in a thread; the result is the number of its trials then."""

    def trials() -> int:
        with study.open_study("s", settings) as opened:
            return len(opened.trials)

    return ThreadPoolExecutor(1).submit(trials)


def test_a_second_driver_waits_and_learns_who_holds_the_study(settings, capsys):
    with study.open_study("s", settings) as opened:
        second = open_in_thread(settings)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.5)
        opened.tell(drawn(opened), 0.5)
    assert second.result(timeout=30) == 1
    assert f"process {os.getpid()} is working on the same task (s); waiting" in capsys.readouterr().out
    with study.open_study("s", settings), study.open_study("another", settings):
        pass


def test_a_driver_on_another_machine_holds_the_study_while_it_beats(settings, monkeypatch, capsys):
    monkeypatch.setattr(heartbeat, "LOOK_EVERY_S", 0.05)

    def held_by(host: str, pid: int, ago: float) -> None:
        opened = optuna.load_study(study_name="s", storage=study._storage("s"))
        opened.set_user_attr("driver", {"host": host, "pid": pid, "started": 1.0, "time": time.time() - ago})

    with study.open_study("s", settings):
        pass
    held_by("elsewhere", 123, ago=5)
    second = open_in_thread(settings)
    with pytest.raises(TimeoutError):
        second.result(timeout=0.5)
    assert "process 123 on elsewhere is running the study s; waiting" in capsys.readouterr().out
    optuna.load_study(study_name="s", storage=study._storage("s")).set_user_attr("driver", None)  # it ends
    assert second.result(timeout=30) == 0
    # A driver whose last heartbeat is old, and a dead one on this machine.
    for host, pid, ago in (("elsewhere", 123, 121), (socket.gethostname(), 2**22 + 1, 5)):
        held_by(host, pid, ago)
        with study.open_study("s", settings) as opened:
            assert opened.user_attrs["driver"]["pid"] == os.getpid()


def test_of_two_drivers_that_start_at_once_one_waits(settings, monkeypatch):
    """Both have found the study free; the other one's mark was written last."""
    monkeypatch.setattr(heartbeat, "LOOK_EVERY_S", 0.05)
    with study.open_study("s", settings) as opened:
        opened.set_user_attr("driver", None)
        mark = {"host": "elsewhere", "pid": 123, "started": 1.0, "time": time.time()}
        waits = iter([lambda: opened.set_user_attr("driver", mark), lambda: opened.set_user_attr("driver", None)])
        monkeypatch.setattr(heartbeat.time, "sleep", lambda _: next(waits, lambda: None)())
        heartbeat.take_over(opened, shared=True)
        assert opened.user_attrs["driver"]["pid"] == os.getpid() and next(waits, None) is None


def test_a_driver_that_was_silent_for_too_long_and_is_displaced_stops(settings):
    with study.open_study("s", settings) as opened:
        opened.set_user_attr("driver", {"host": "elsewhere", "pid": 123, "started": 1.0, "time": time.time()})
        with pytest.raises(ExternalError, match="process 123 on elsewhere"):
            heartbeat.send_heartbeat(opened)
    storage = study._storage("s")
    assert optuna.load_study(study_name="s", storage=storage).user_attrs["driver"]["pid"] == 123, (
        "the mark of another driver stays"
    )


@pytest.mark.parametrize("end", [b"\n", b"\n\n\n", b"\0" * 64, b"\0" * 64 + b"\n"])
def test_blank_lines_and_zeros_at_the_end_of_the_journal_are_repaired(settings, end):
    with study.open_study("s", settings) as opened:
        opened.tell(drawn(opened), 0.5)
    with Path(study.location("s")).open("ab") as journal:
        journal.write(end)
    with study.open_study("s", settings) as opened:
        opened.tell(drawn(opened), 0.6)
    with study.open_study("s", settings) as opened:
        assert [trial.value for trial in opened.trials] == [0.5, 0.6]


def test_a_database_that_mlflow_uses_is_refused(settings, tmp_path, monkeypatch):
    address = f"sqlite:///{tmp_path}/both.db"
    MlflowClient(address).search_experiments()
    monkeypatch.setenv("OPTUNA_STORAGE", address)
    with pytest.raises(UserError, match=r"OPTUNA_STORAGE: .*give it one of its own"), study.open_study("s", settings):
        pass


def test_an_incomplete_last_line_of_the_journal_is_repaired(settings):
    with study.open_study("s", settings) as opened:
        opened.tell(drawn(opened), 0.5)
    journal = Path(study.location("s"))
    journal.with_name(journal.name + ".lock").symlink_to(journal)
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:10])
    started = time.monotonic()
    with study.open_study("s", settings) as opened:
        assert [trial.value for trial in opened.trials] == [0.5]
    assert time.monotonic() - started < 20, "Optuna's own grace period for a lock is 30 s"


@pytest.mark.parametrize("damage", [b'{"op_code": 4, "wor', b"\xff\xfe\x00", b'{"op_code": 4}', b'["no record"]'])
def test_a_damaged_line_in_the_middle_of_the_journal_is_reported(damage, settings):
    for _ in range(2):
        with study.open_study("s", settings) as opened:
            opened.tell(drawn(opened), 0.5)
    journal = Path(study.location("s"))
    lines = journal.read_bytes().splitlines()
    lines[len(lines) // 2] = damage
    journal.write_bytes(b"\n".join(lines) + b"\n")
    with (
        pytest.raises(ExternalError, match=rf"{journal}: damaged \(.*move it away") as raised,
        study.open_study("s", settings),
    ):
        pass
    assert "\n" not in str(raised.value)


def test_a_full_disk_loses_no_trial_and_counts_none_twice(settings, files_of_at_most):
    with study.open_study("s", settings) as opened:
        opened.tell(drawn(opened), 0.5)
    journal = Path(study.location("s"))

    def work(room: int) -> None:
        with files_of_at_most(journal.stat().st_size + room), study.open_study("s", settings) as opened:
            list(study.recover_orphans(opened))
            for _ in range(20):
                drawn(opened)

    for room in range(5, 800, 90):
        with pytest.raises(OSError, match="File too large"):
            work(room)
        with study.open_study("s", settings) as opened:
            list(study.recover_orphans(opened))
            values = [trial.value for trial in study.finished_trials(opened) if trial.state == TrialState.COMPLETE]
            assert values == [0.5]
            states = [trial.state for trial in opened.trials]
            assert TrialState.RUNNING not in states
            assert len(study._retried(opened)) == len(
                [trial for trial in opened.trials if study.RETRY_OF in trial.user_attrs]
            ), "enqueued twice"


def test_a_clock_set_back_does_not_release_the_study(settings, monkeypatch):
    """The running driver keeps the study, a driver started after a dead one gets it, and all trials stay."""
    now = time.time()
    clock = {"now": now}
    monkeypatch.setattr(heartbeat.time, "time", lambda: clock["now"])
    monkeypatch.setattr(heartbeat.psutil.Process, "create_time", lambda _: clock["now"] - 10)  # moves with the clock
    with study.open_study("s", settings) as opened:
        opened.tell(drawn(opened), 0.5)
        clock["now"] = now - 7200
        heartbeat.send_heartbeat(opened)
        opened.tell(drawn(opened), 0.6)
        mark = {"host": "elsewhere", "pid": 123, "started": 1.0}
        opened.set_user_attr("driver", {**mark, "time": now})  # sent before the change, by a driver that is dead
    with study.open_study("s", settings) as opened:
        assert [trial.value for trial in study.finished_trials(opened)] == [0.5, 0.6]
        opened.set_user_attr("driver", {**mark, "time": now - 7200})
        with pytest.raises(ExternalError, match="process 123 on elsewhere"):
            heartbeat.send_heartbeat(opened)


@pytest.mark.parametrize(
    "address", ["nonsense", "postgresql+nodriver://user:secret@host/db", "postgresql://user:secret@host:54x/db"]
)
def test_an_invalid_address_is_a_user_error(address, settings, monkeypatch):
    monkeypatch.setenv("OPTUNA_STORAGE", address)
    with pytest.raises(UserError, match="OPTUNA_STORAGE") as raised, study.open_study("s", settings):
        pass
    assert "secret" not in str(raised.value)


@pytest.mark.slow
def test_a_study_in_postgresql(make_database, settings, monkeypatch):
    postgresql = make_database()
    monkeypatch.setenv("OPTUNA_STORAGE", postgresql)
    with study.open_study("s", settings) as opened:
        opened.tell(drawn(opened), 0.5)
        lost = drawn(opened)
    with study.open_study("s", settings) as opened:
        assert [trial.number for trial in study.recover_orphans(opened)] == [lost.number]
        assert drawn(opened).params == lost.params
        assert opened.best_value == 0.5
    assert study.location("s") == postgresql
    monkeypatch.setenv("OPTUNA_STORAGE", re.sub(r":\d+/", ":1/", postgresql))
    with pytest.raises(ExternalError, match="OPTUNA_STORAGE"), study.open_study("s", settings):
        pass
