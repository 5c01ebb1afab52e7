"""DVC's features on the demo's results: queued experiments, comparisons, plots, a remote, clones, the run cache."""

import csv
import json
import re
import shutil

import mlflow
import pytest
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.slow
STAGES = ("prepare", "tune", "train@plain", "train@stn", "train@tuned", "evaluate", "visualize", "register")


@pytest.fixture(scope="module")
def committed(demo, tmp_path_factory):
    """A copy of the demo's repository; the experiment's results are committed and pushed to a remote beside it."""
    folder = tmp_path_factory.mktemp("committed")
    shutil.copytree(demo.copy, folder / "project", symlinks=True)
    project = type(demo)(folder / "project")
    name = re.search(r"Ran experiment\(s\): (\S+)", demo.output)
    assert name, demo.output
    project.run("dvc", "exp", "apply", name[1])
    project.run("dvc", "remote", "add", "--default", "beside", str(folder / "remote"))
    project.commit("The demo's results")
    project.run("dvc", "push", "--run-cache")
    return project


def clone(committed, folder):
    """A fresh clone that shares only git and the remote with the repository."""
    committed.run("git", "clone", "-q", str(committed.folder), str(folder))
    return type(committed)(folder)


def versions(project) -> dict[str, str]:
    """Digest of each variant's model that is registered in the project's own store."""
    client = mlflow.MlflowClient(f"sqlite:///{project.folder}/state/mlflow.db")
    return {v.tags["variant"]: v.tags["model_digest"] for v in client.search_model_versions("name = 'stn-digits'")}


def skipped(output: str) -> list[str]:
    return re.findall(r"Stage '(\S+)' didn't change, skipping", output)


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(\S+)':", output)


def dvc_json(project, *command: str):
    """The JSON that a command of DVC prints, without its warnings."""
    lines = project.run("dvc", *command, "--json").stdout.splitlines()
    return json.loads(next(line for line in lines if line.startswith(("{", "["))))


@pytest.fixture(scope="module")
def queued(committed) -> dict[str, str]:
    """Two experiments that ran in two jobs at once: name → learning rate."""
    rates = {"slow": "0.02", "fast": "0.08"}
    for name, rate in rates.items():
        values = (
            f"train.lr={rate}", "train.epochs=2", "train.distortion_ramp=0", "train.seeds=[0]", "variants=[plain]",
            "tune.trials=0", "train.threads=1",
        )  # fmt: skip
        settings = [word for value in values for word in ("-S", value)]
        committed.run("dvc", "exp", "run", "--queue", "--name", name, *settings)
    committed.run_queue(*rates)
    return rates


def test_two_queued_experiments_both_finish(committed, queued):
    assert committed.run("git", "status", "--porcelain").stdout == ""
    client = mlflow.MlflowClient(f"sqlite:///{committed.folder}/state/mlflow.db")
    experiment = client.get_experiment_by_name("stn-digits")
    assert experiment is not None
    for rate in queued.values():
        (run,) = client.search_runs([experiment.experiment_id], f"params.`train.lr` = '{rate}'")
        assert run.info.status == "FINISHED" and run.data.metrics["test_accuracy"] > 0


def test_experiments_are_shown_with_their_settings_and_metrics(committed, queued):
    shown = dvc_json(committed, "exp", "show")
    found = {}
    for commit in shown:
        for group in commit["experiments"] or []:
            for revision in group["revs"]:
                data = revision["data"]
                if revision["name"] in queued:
                    found[revision["name"]] = data["params"]["params.yaml"]["data"]["train"]["lr"]
                    metrics = data["metrics"]
                    assert metrics.keys() == {
                        f"metrics/{file}.json" for file in ("tune", "train/plain", "variants/plain")
                    }
                    assert all(len(of_file["data"]) <= 8 for of_file in metrics.values())  # each is a column of a table
                    assert 0 < metrics["metrics/variants/plain.json"]["data"]["test_accuracy"] < 1
    assert found == {name: float(rate) for name, rate in queued.items()}
    table = list(csv.DictReader(committed.run("dvc", "exp", "show", "--csv").stdout.splitlines()))
    assert {row["Experiment"]: row["train.lr"] for row in table if row["Experiment"] in queued} == queued


def test_comparisons_name_what_differs(committed, queued):
    params = dvc_json(committed, "params", "diff", "slow", "fast")["params.yaml"]
    assert {name: (change["old"], change["new"]) for name, change in params.items()} == {"train.lr": (0.02, 0.08)}
    metrics = dvc_json(committed, "metrics", "diff", "HEAD", "slow")
    assert metrics["metrics/variants/plain.json"]["test_accuracy"]["diff"] < 0
    committed.run("dvc", "plots", "diff", "slow", "fast", "--out", "../compared")
    assert "validation_accuracy" in (committed.folder.parent / "compared/index.html").read_text()


def test_plots_open_without_a_network(committed, browser):
    """The page of `make plots`: no script is fetched, and every plot is drawn."""
    printed = committed.run("make", "-o", ".venv/.ready", "plots").stdout
    page = committed.folder / "dvc_plots/index.html"
    assert page.as_uri() in printed
    assert committed.run("git", "status", "--porcelain").stdout == ""
    browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    browser.get(page.as_uri())
    fetched = "return performance.getEntriesByType('resource').map(r => r.name).filter(n => n.startsWith('http'))"
    drawn = """
        return [...document.querySelectorAll('.vega-embed canvas, .vega-embed svg.marks')]
            .filter(plot => plot.getBoundingClientRect().width > 50).length"""
    plots = page.read_text().count("vegaEmbed('#")  # one call for each plot
    assert plots >= 8

    WebDriverWait(browser, 60).until(lambda _: browser.execute_script(drawn) == plots)
    assert browser.execute_script(fetched) == []


def test_in_a_fresh_clone_a_pull_leaves_nothing_to_run(committed, tmp_path):
    """Only register runs, because the store is empty; the second time not even that."""
    fresh = clone(committed, tmp_path / "fresh")
    fresh.run("dvc", "pull")
    output = fresh.run("dvc", "repro").stdout
    assert (set(skipped(output)), ran(output)) == (set(STAGES[:-1]), ["register"])
    assert versions(fresh) == versions(committed) and versions(fresh).keys() == {"plain", "stn", "tuned"}
    again = fresh.run("dvc", "repro").stdout
    assert ran(again) == [] and "Data and pipelines are up to date." in again
    assert fresh.run("git", "status", "--porcelain").stdout == ""


def test_the_run_cache_brings_back_results_and_every_model_is_registered(committed, tmp_path):
    """Without dvc.lock, the remote's run cache has the results of each stage."""
    fresh = clone(committed, tmp_path / "fresh")
    (fresh.folder / "dvc.lock").unlink()
    fresh.run("dvc", "pull", "--run-cache", check=False)  # without dvc.lock it finds no results
    output = fresh.run("dvc", "repro", "--pull").stdout
    assert ran(output) == ["register"], output
    assert versions(fresh) == versions(committed)
    assert json.loads((fresh.folder / "registered.json").read_text())["versions"].keys() == {"plain", "stn", "tuned"}


@pytest.fixture(scope="module")
def in_s3(committed, s3):
    """The same repository with its results in an S3 bucket as the remote; git holds no key of it."""
    committed.run("dvc", "remote", "add", "--default", "team", "s3://bucket/dvc")
    committed.commit("The remote is a bucket")
    committed.run("make", "-o", ".venv/.ready", "push", env=s3.env)
    held = committed.run("git", "grep", "-c", "-e", s3.env["AWS_SECRET_ACCESS_KEY"], "HEAD", check=False).stdout
    assert held == ""
    yield committed
    committed.run("dvc", "remote", "default", "beside")
    committed.commit("The remote is the folder again")


def test_a_clone_pulls_from_s3_and_has_nothing_to_run(in_s3, s3, tmp_path):
    """The key comes from ``.env``. A clone that sets a setting back to an earlier value uses the run cache."""
    fresh = clone(in_s3, tmp_path / "fresh")
    (fresh.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in s3.env.items()))
    fresh.run("make", "-o", ".venv/.ready", "pull")
    output = fresh.run("dvc", "repro").stdout
    assert (set(skipped(output)), ran(output)) == (set(STAGES[:-1]), ["register"])
    assert ran(fresh.run("dvc", "repro").stdout) == []
    assert fresh.run("git", "status", "--porcelain").stdout == ""

    fresh.set("evaluate.resamples=500")
    fresh.run("dvc", "repro", "evaluate")
    fresh.commit("Another setting")
    fresh.run("make", "-o", ".venv/.ready", "push")
    other = clone(in_s3, tmp_path / "other")
    (other.folder / ".env").write_text((fresh.folder / ".env").read_text())
    other.run("make", "-o", ".venv/.ready", "pull")
    other.set("evaluate.resamples=500")
    output = other.run("dvc", "repro", "--pull", "evaluate", env=s3.env).stdout
    assert ran(output) == [] and "Stage 'evaluate' is cached" in output
