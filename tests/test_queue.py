"""Experiments of DVC's queue that run at once and have work in common."""

import re

import mlflow
import pytest

pytestmark = pytest.mark.slow
SETTINGS = (
    "data.dataset=digits", "data.size=null", "data.channels=null", "variants=[plain,tuned]", "tune.trials=2",
    "tune.epochs=1", "tune.finalists=1", "tune.final_seeds=[1000]", "train.epochs=2", "train.batch_size=null",
    "train.threads=1", "train.seeds=[0]",
)  # fmt: skip


def test_two_queued_experiments_share_a_study_and_a_training(project):
    """They differ in a setting of evaluate alone."""
    project.set(*SETTINGS)
    project.commit("Small settings")
    for name, resamples in (("one", 500), ("two", 600)):
        project.run("dvc", "exp", "run", "--queue", "--name", name, "-S", f"evaluate.resamples={resamples}")
    logs = project.run_queue("one", "two")
    waits = [set(re.findall(r"on the same task \((stn-digits|train-|register-|mlflow)", log)) for log in logs]
    assert "stn-digits" in set().union(*waits), logs  # one waited for the other one's study
    client = mlflow.MlflowClient(f"sqlite:///{project.folder}/state/mlflow.db")
    experiment = client.get_experiment_by_name("stn-digits")
    assert experiment is not None
    names = [run.info.run_name for run in client.search_runs([experiment.experiment_id])]
    assert len(names) == len(set(names)), names  # no trial and no training twice
    versions = client.search_model_versions("name = 'stn-digits'")
    assert sorted(version.tags["variant"] for version in versions) == ["plain", "tuned"]
