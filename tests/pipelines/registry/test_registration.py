"""The stage register, for two untrained models whose runs the store does not have."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.artifacts import load_text
from mlflow.exceptions import MlflowException
from safetensors.torch import save_file

from pipelines.outputs.alignment_results import ThetaResults
from pipelines.outputs.evaluation_results import (
    COMPARISON,
    Difference,
    EvaluationResults,
    VariantResults,
    write_results,
)
from pipelines.outputs.prepared_data import PREPARED, DatasetMeta, Labeled, replace_prepared
from pipelines.outputs.reports import PICTURES, REPORT
from pipelines.outputs.trained_models import FinishedSeed, TrainingRecord, write_result
from pipelines.params import set_value
from pipelines.registry import registration
from pipelines.registry.champion import Outcome, read_history
from pipelines.registry.promotion import promote
from pipelines.registry.registered_versions import RegisteredVersions, read_registered
from pipelines.registry.registration import register
from pipelines.registry.versions import aliases_of, list_versions
from pipelines.runtime.files import write_json
from pipelines.settings.params import load_params
from pipelines.settings.variants import load_variant
from pipelines.tracking.client import connect
from tests.results import seed_results, variant_results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
NAME, VARIANTS = "stn-mine", ["plain", "stn"]
META = DatasetMeta(
    dataset="mine", source="mine.zip", classes=["cat", "dog"], image_shape=(1, 28, 28),
    counts={"train": 4, "validation": 4, "test": 4}, mean=[0.5], std=[0.25],
    distortion={"rotation": 0.0, "scale": [1.0, 1.0], "shift": 0.0}, duplicates={}, broken={}, digest="d1" * 32,
)  # fmt: skip
ACCURACIES = {"plain": 0.5, "stn": 0.75}  # on the validation images


def make_results(parameters: int, theta: ThetaResults | None = None) -> VariantResults:
    seeds = {0: seed_results(0.5, 0.7, theta)}
    return variant_results(0.5, seeds=seeds, parameters=parameters, multiply_adds=10 * parameters)


def write_evaluation(outside: float) -> None:
    theta = ThetaResults(0.5, outside, mirrored=0.0, one_color=0.0, spread=0.1)
    results = {"plain": make_results(100), "stn": make_results(200, theta)}
    write_results(EvaluationResults(results, {"stn vs plain": Difference(0.0, -0.1, 0.1, 1, 1, 1.0)}))


@pytest.fixture
def client(new_store, tmp_path, monkeypatch) -> mlflow.MlflowClient:
    """A client of an empty store, in a folder as after the stage visualize."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "state").mkdir()
    shutil.copyfile(new_store, tmp_path / "state/mlflow.db")
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    shutil.copytree(ROOT / "variants", "variants")
    labeled = Labeled(torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.arange(4) % 2)
    with replace_prepared(PREPARED) as folder:
        for split in ("train", "validation", "test"):
            save_file(labeled._asdict(), folder / f"{split}.safetensors")
        write_json(folder / "meta.json", META.to_json())
    for name, accuracy in ACCURACIES.items():
        variant, train = load_variant(name), load_params().train
        record = TrainingRecord(
            variant, train, META, git_commit="c0ffee", git_dirty="false", git_diff="", libraries={}, workers=1,
            threads=1, gpu=False,
        )  # fmt: skip
        network = META.network_builder(variant, train.dropout)()
        weights = {key: values.contiguous() for key, values in network.state_dict().items()}
        metrics = {"epoch": 1.0, "timestamp": 1e12, "train_loss": 0.7, "images_per_second": 9.0}
        metrics |= {"validation_loss": 0.7, "validation_accuracy": accuracy}
        write_result({0: FinishedSeed(weights, [metrics], None)}, {0: f"run-of-{name}"}, record, tmp_path / "result")
        shutil.copytree("result/model", f"models/{name}")
        shutil.rmtree("result")
    write_evaluation(outside=0.25)
    pictures = ("robustness.png", "reliability.png", "confusion-plain.png", "confusion-stn.png", "stn/a.png")
    for file in (REPORT, COMPARISON, *(PICTURES / name for name in pictures)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    return connect()


def test_each_model_is_registered_once_with_its_tags_card_and_files(client):
    registered = register(VARIANTS, {"team": "vision"})
    assert registered == RegisteredVersions(NAME, {"plain": "1", "stn": "2"}, challenger="2", champion="2")
    assert read_registered() == registered
    assert json.loads(Path("registered.json").read_text())["versions"] == {"plain": "1", "stn": "2"}
    assert aliases_of(client, NAME) == {"challenger": "2", "champion": "2"}
    (decision,) = read_history(client, NAME)
    assert (decision.outcome, decision.before, decision.after) == (Outcome.INITIAL, "none", "2")

    version = client.get_model_version(NAME, "2")
    expected = {
        "variant": "stn", "seed": "0", "validation_accuracy": "0.7500", "test_accuracy": "0.5000",
        "test_balanced_accuracy": "0.4500", "test_macro_f1": "0.4000", "selected_by": "accuracy", "parameters": "200",
        "data_digest": "d1" * 32, "git_commit": "c0ffee", "git_dirty": "false", "trained_in": "run-of-stn",
        "team": "vision", "theta_undone": "0.5000", "theta_outside": "0.2500", "theta_trouble": "none",
    }  # fmt: skip
    assert client.get_model_version(NAME, "1").tags["theta_undone"] == "no transformer"
    assert expected.items() <= version.tags.items()
    assert "make provenance MODEL=stn-mine VERSION=2" in (version.description or "")
    assert "MODEL=stn-mine" in client.get_registered_model(NAME).description
    run = client.get_run(version.run_id or "")
    assert run.data.tags["restored_from_run"] == "run-of-stn" and run.data.metrics["test_loss"] == 0.7
    files = {file.path for folder in ("evaluation", "theta") for file in client.list_artifacts(run.info.run_id, folder)}
    names = ("comparison.md", "confusion-stn.png", "reliability.png", "report.html", "robustness.png")
    assert files == {f"evaluation/{name}" for name in names} | {"theta/a.png"}
    assert {file.name for file in Path("state/reports/mine").iterdir()} == {"comparison.md", "report.html"}

    model = mlflow.pyfunc.load_model(f"models:/{NAME}/2")
    assert model.metadata.metadata == {
        "dataset": "mine", "classes": ["cat", "dog"], "image_shape": [1, 28, 28], "mean": [0.5], "variant": "stn",
        "padding_mode": load_variant("stn").model_dump()["transformer"]["padding_mode"], "canvas": 1.0,
        "fit": "stretch", "fill": 0, "pixel_range": None,
    }  # fmt: skip
    outputs = model.predict(np.zeros((3, 1, 28, 28), dtype=np.uint8))
    assert outputs["probabilities"].shape == (3, 2) and outputs["theta"].shape == (3, 2, 3)

    client.set_registered_model_alias(NAME, "champion", "1")
    again = register(VARIANTS, {"team": "audio"})
    assert again == RegisteredVersions(NAME, {"plain": "1", "stn": "2"}, challenger="2", champion="1")
    assert len(list_versions(client, NAME)) == 2 and len(read_history(client, NAME)) == 1
    assert client.get_model_version(NAME, "2").tags["team"] == "audio"


def test_two_registrations_at_once_register_once(client, tmp_path):
    set_value(f"variants=[{','.join(VARIANTS)}]")
    command = [sys.executable, "-m", "pipelines.register"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(command, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert len(list_versions(client, NAME)) == 2 and len(read_history(client, NAME)) == 1


def test_a_challenger_with_trouble_does_not_become_the_first_champion(client, capsys):
    write_evaluation(outside=0.9)
    registered = register(VARIANTS, {})
    assert (registered.challenger, registered.champion) == ("2", None) and read_registered() == registered
    assert aliases_of(client, NAME) == {"challenger": "2"} and read_history(client, NAME) == []
    assert capsys.readouterr().out == (
        "stn-mine: there is no champion, and version 2 (stn) does not become it by itself: θ looks outside the image "
        "for more than half of its grid. To promote it anyway: make promote MODEL=stn-mine VERSION=2\n"
    )
    version = client.get_model_version(NAME, "2")
    assert version.tags["theta_trouble"] == "outside" and "**Trouble**" in (version.description or "")

    # The command of the message promotes it, since no gate is set.
    promotion = promote(NAME, load_params(), "2")
    assert promotion is not None and promotion.decision.outcome == Outcome.PROMOTED
    assert register(VARIANTS, {}).champion == "2", "it stays champion"


def test_a_later_challenger_without_trouble_becomes_the_first_champion(client):
    write_evaluation(outside=0.9)
    assert register(VARIANTS, {}).champion is None
    write_evaluation(outside=0.25)
    assert register(VARIANTS, {}).champion == "2"
    assert client.get_model_version(NAME, "2").tags["theta_trouble"] == "none", "tags follow the last evaluation"


def test_texts_that_are_too_long_for_a_description_are_cut(client, monkeypatch):
    """PostgreSQL refuses more than 5,000 characters; each card is whole among the artifacts."""
    rows = "".join(f"| variant {i} | 50.0% |\n" for i in range(600))
    COMPARISON.write_text(rows)
    monkeypatch.setattr(registration, "version_card", lambda *_: rows)
    register(VARIANTS, {})
    version = client.get_model_version(NAME, "2")
    run = client.get_run(version.run_id or "").info
    for text in (version.description or "", client.get_registered_model(NAME).description):
        assert 4800 < len(text) <= 5000 and "… The whole text: " in text
    assert f"runs/{run.run_id}/artifacts/evaluation/card.md" in (version.description or "")
    assert load_text(f"{run.artifact_uri}/evaluation/card.md") == rows
    assert rows in load_text(f"{run.artifact_uri}/evaluation/comparison.md")


@pytest.mark.parametrize("call", ["update_model_version", "update_registered_model", "set_registered_model_alias"])
def test_a_failure_between_a_version_and_its_aliases_is_mended_by_the_next_run(client, monkeypatch, call):
    def refuse(*_):
        raise MlflowException("refused by the store")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, call, refuse)
        with pytest.raises(MlflowException, match="refused by the store"):
            register(VARIANTS, {})
    assert list_versions(client, NAME) and "champion" not in aliases_of(client, NAME)
    assert not Path("registered.json").exists()
    registered = register(VARIANTS, {})
    assert registered == RegisteredVersions(NAME, {"plain": "1", "stn": "2"}, challenger="2", champion="2")
    assert aliases_of(client, NAME) == {"challenger": "2", "champion": "2"}
    assert len(list_versions(client, NAME)) == 2 and len(read_history(client, NAME)) == 1
    assert all(version.description for version in list_versions(client, NAME))
