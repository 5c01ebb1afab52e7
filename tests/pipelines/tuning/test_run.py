"""tune: the study on Ray, killed at random moments, extended, and in a space in which nothing can be trained."""

import contextlib
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from urllib.request import urlopen

import mlflow
import optuna
import psutil
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image
from ruamel.yaml import YAML

from pipelines.commands import summary
from pipelines.runtime.files import read_json
from pipelines.settings.variants import VariantParams
from pipelines.tune import main
from pipelines.tuning.study import REJECTED, RETRIES, RETRY_OF
from tests.conftest import Project
from tests.servers import free_port

pytestmark = pytest.mark.slow

SMALL = (
    "data.dataset=digits", "data.size=20", "train.epochs=4", "train.precision=fp32", "tune.epochs=3",
    "tune.finalists=2", "tune.max_parameters=none", "tune.search_space.kernel_size=[3]",
    "tune.search_space.transform=[affine]",
)  # fmt: skip


# Replaces the check of the losses: allocates a pebibyte of memory in every epoch.
ASK_FOR_TOO_MUCH = """

def check_finite(losses):
    torch.empty(2**50, dtype=torch.uint8)
"""


@pytest.fixture(scope="module")
def prepared(copy_of_project) -> Project:
    """A copy of the project with SMALL and its prepared data, to be copied."""
    copy_of_project.set(*SMALL)
    copy_of_project.stage("prepare")
    return copy_of_project


@pytest.fixture
def small(prepared, tmp_path) -> Project:
    return prepared.copied(tmp_path / "project")


@pytest.fixture
def tune_here(small, monkeypatch, capsys) -> Callable[[], str]:
    """Runs the stage in this process, which has imported everything already; returns what it prints."""
    monkeypatch.chdir(small.folder)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "OPTUNA_STORAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def run() -> str:
        monkeypatch.setattr(sys, "argv", ["tune"])
        main()
        return capsys.readouterr().out

    return run


def study_of(project) -> optuna.Study:
    (journal,) = (project.folder / "state/tuning").glob("*.log")
    return optuna.load_study(study_name=journal.stem, storage=JournalStorage(JournalFileBackend(str(journal))))


def runs_of(project) -> list:
    client = mlflow.MlflowClient(f"sqlite:///{project.folder}/state/mlflow.db")
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def tuned(project) -> VariantParams:
    return VariantParams.model_validate(YAML(typ="safe").load((project.folder / "variants/tuned.yaml").read_text()))


def test_a_killed_study_ends_with_all_its_trials_and_one_run_for_each(small, tune_here):
    """Killed with SIGKILL at random moments, then extended by four trials."""
    trials, dice = 12, random.Random(1)
    small.set(f"tune.trials={trials}")
    for kill in range(3):
        driver = small.start("python", "-m", "pipelines.tune", warm=True)
        # First before a worker has started, which takes seconds; then while workers train.
        wait_for(b"param_name" if kill == 0 else b"intermediate_value", small, driver, times=dice.randint(1, 3))
        time.sleep(dice.uniform(0, 0.5))
        assert driver.poll() is None, f"over before it could be killed: {driver.communicate()[0]}"
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    printed = small.stage("tune").stdout
    study = study_of(small)
    again = {trial.user_attrs[RETRY_OF] for trial in study.trials if RETRY_OF in trial.user_attrs}
    counted = [trial for trial in study.trials if trial.number not in again and REJECTED not in trial.user_attrs]
    assert len(counted) == trials
    # A trial that all three kills hit is given up; the timing does not rule that out.
    given_up = [trial for trial in counted if trial.state == TrialState.FAIL]
    assert all(trial.user_attrs[RETRIES] == 2 for trial in given_up)
    finished = [trial for trial in counted if trial not in given_up]
    assert len(finished) >= trials - 2, "two run at once"
    assert again, "no kill hit a running trial"
    assert "left unfinished" in printed

    # MLflow: one parent, one run for each trial that a worker has started, each epoch once.
    runs = runs_of(small)
    (parent,) = [run for run in runs if run.info.run_name == "tune-digits"]
    assert parent.info.status == "FINISHED"
    children = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert len(children) == len(runs) - 1, "two runs have one name"
    client = mlflow.MlflowClient(f"sqlite:///{small.folder}/state/mlflow.db")
    for trial in finished:
        run = children[f"trial-{trial.number}"]
        assert run.data.tags["state"] == {"COMPLETE": "finished", "PRUNED": "pruned"}[trial.state.name]
        assert run.data.params == {name: str(value) for name, value in trial.params.items()}
        logged = client.get_metric_history(run.info.run_id, "validation_accuracy")
        assert {entry.step: entry.value for entry in logged} == trial.intermediate_values
        assert len(logged) == len(trial.intermediate_values)
    assert all(children[f"trial-{number}"].data.tags["state"] == "failed" for number in again)

    # The winner is the best at full length, and its file holds the values of its trial.
    metrics = read_json(small.folder / "metrics/tune.json")
    winner = metrics["winner"]
    assert len(metrics["finalists"]) == 3
    assert metrics["finalists"][winner] == max(metrics["finalists"].values())
    if winner != "stn":
        transformer = tuned(small).transformer
        params = study.trials[int(winner.removeprefix("trial-"))].params
        assert transformer is not None and transformer.localization.hidden == params["hidden"]
    assert (small.folder / "plots/tune/history.png").stat().st_size > 1000

    # First a start without work left, then one with four more trials. One of the trials loses its worker.
    assert "at once" not in tune_here()
    small.set(f"tune.trials={trials + 4}")
    driver = small.start("python", "-m", "pipelines.tune", warm=True)
    while not (workers := small.processes("Worker.train_epoch")):
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.02)
    workers[0].kill()
    printed = driver.communicate()[0]
    assert driver.returncode == 0, printed
    assert f"{trials} of {trials + 4} trials done" in printed
    assert re.search(r"trial \d+ failed: its worker died", printed), printed
    metrics = read_json(small.folder / "metrics/tune.json")
    assert (metrics["finished"] + metrics["pruned"], metrics["failed"]) == (len(finished) + 3, len(given_up) + 1)


def wait_for(what: bytes, project, driver, times: int = 1) -> None:
    """Wait until the driver has written ``what`` to the study's journal so many times more."""

    def written() -> int:
        return sum(journal.read_bytes().count(what) for journal in (project.folder / "state/tuning").glob("*.log"))

    before = written()
    while written() < before + times:
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)


def test_a_disk_that_fills_up_while_tuning(small, small_disk):
    """Once the disk has room again, no trial is lost and none counts twice."""
    small.set("tune.trials=4")
    disk = small_disk(small.folder / "state")
    driver = small.start("python", "-m", "pipelines.tune", warm=True)
    wait_for(b"intermediate_value", small, driver)
    disk.fill()
    output = driver.communicate()[0]
    assert driver.returncode == 1 and "Traceback" not in output, output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "the next start continues" in error
    disk.clear()
    small.stage("tune")
    metrics = read_json(small.folder / "metrics/tune.json")
    assert metrics["finished"] + metrics["pruned"] == 4 and metrics["failed"] == 0
    names = [run.info.run_name for run in runs_of(small)]
    assert len(names) == len(set(names)), "two runs have one name"


def test_the_second_of_two_drivers_waits_and_takes_the_result_over(small, tune_here):
    small.set("tune.trials=2", "tune.finalists=1")
    first = small.start("python", "-m", "pipelines.tune", warm=True)
    wait_for(b"study_name", small, first)
    at_work = {process.pid for process in small.processes("")} - {os.getpid()}
    second = tune_here()
    waited = re.search(r"process (\d+) is working on the same task \(\S+\); waiting", second)
    assert waited and int(waited[1]) in at_work, second
    assert "at once" not in second, "it tried again what the first one had finished"
    output = first.communicate()[0]
    assert first.returncode == 0, output
    assert read_json(small.folder / "metrics/tune.json")["finished"] == 2
    names = [run.info.run_name for run in runs_of(small)]
    assert len(names) == len(set(names)), "two runs have one name"


def test_where_every_trial_fails_the_stage_says_why(small):
    """Where memory runs out, the settings to lower are named. What changed since the last study is named too."""
    small.set("train.lr=10.0", "train.weight_decay=1.0", "tune.trials=2")  # each step multiplies the weights by -9
    done = small.stage("tune", check=False)
    assert done.returncode == 1
    assert re.search(r"all 2 trials failed; the first: NotFiniteError: the loss became", done.stdout), done.stdout
    assert "Traceback" not in done.stdout
    states = {run.info.run_name: run.data.tags.get("state") for run in runs_of(small)}
    assert states["trial-0"] == "failed"

    # A changed search space, or changed code, starts another study.
    code = small.folder / "stn/training.py"
    code.write_text(code.read_text() + ASK_FOR_TOO_MUCH)
    small.set("tune.search_space.hidden={low: 8, high: 16, log: false}")
    done = small.stage("tune", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    assert "tune.search_space and the code of a trial changed since the last study" in done.stdout, done.stdout
    assert "0 of 2 trials done" in done.stdout
    assert re.search(r"all 2 trials failed; the first: .*can't allocate memory.* lower train.batch_size", done.stdout)
    assert not (small.folder / "variants/tuned.yaml").exists()


def test_without_trials_the_baseline_network_is_the_winner(small, tune_here, monkeypatch, capsys):
    small.set("tune.trials=0")
    assert "the winner is stn" in tune_here()
    baseline = YAML(typ="safe").load((small.folder / "variants/stn.yaml").read_text())
    assert tuned(small) == VariantParams.model_validate(baseline)
    tables = []
    for name in ("tuned", "stn"):
        monkeypatch.setattr(sys, "argv", ["summary", name])
        summary.main()
        tables.append(capsys.readouterr().out.splitlines()[1:])
    assert tables[0] == tables[1] and len(tables[0]) > 5
    (picture,) = (small.folder / "plots/tune").iterdir()  # of an empty folder DVC would warn each time
    assert Image.open(picture).size == (500, 100)


def test_a_space_in_which_nothing_fits_is_refused(small):
    small.set("tune.search_space.kernel_size=[31]", "tune.trials=3")
    done = small.stage("tune", check=False)
    assert done.returncode == 2
    assert "tune.search_space: none of 500 combinations can be trained; the last: localization" in done.stdout
    assert "Traceback" not in done.stdout


def test_what_cannot_be_tuned_is_refused(small):
    (small.folder / "variants/stn.yaml").write_text("transformer: null\n")
    done = small.stage("tune", check=False)
    assert done.returncode == 2 and "there is nothing to tune" in done.stdout


def test_the_dashboard_has_the_study_and_ps_not_its_address(small):
    place = f"sqlite:///{small.folder}/hush.db"  # another address could contain a password
    small.env["OPTUNA_STORAGE"] = place
    optuna.create_study(storage=place, study_name="mine")
    port = free_port()
    server = small.start("make", "-o", ".venv/.ready", "dashboard", f"DASHBOARD_PORT={port}")
    try:
        deadline = time.monotonic() + 300
        answer = ""
        while not answer and server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                answer = urlopen(f"http://127.0.0.1:{port}/api/studies").read().decode()
            time.sleep(0.2)
        children = psutil.Process(server.pid).children(recursive=True)
        started = [" ".join(child.cmdline()) for child in children if child.status() != psutil.STATUS_ZOMBIE]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        output = server.communicate()[0]
    assert '"study_name": "mine"' in answer, output
    assert any("optuna-dashboard" in command for command in started) and "hush" not in " ".join(started)
