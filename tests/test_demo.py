"""The whole pipeline, end to end: what ``make demo`` leaves behind, and that what it says is true."""

import http.client
import json
import os
import re
import shutil
import signal
import site
import socket
import subprocess
import time
import venv
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from pipelines.evaluation.robustness import area, move
from pipelines.outputs.motions import ROTATION
from pipelines.outputs.prepared_data import Labeled, load_meta, load_split
from pipelines.outputs.trained_models import best_on_validation, load_trained
from pipelines.preparation.run import prepare_source
from pipelines.settings.metric import Metric
from pipelines.settings.params import load_params
from stn.training import predict
from stn.transforms import Affine

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ("plain", "stn", "tuned")
SETTINGS = YAML(typ="safe").load((ROOT / "experiments/demo.yaml").read_text())
EPOCHS = SETTINGS["train"]["epochs"]


@pytest.fixture(scope="module")
def client(demo) -> mlflow.MlflowClient:
    uri = f"sqlite:///{demo.folder}/state/mlflow.db"
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


@pytest.fixture(scope="module")
def applied(demo, tmp_path_factory):
    """A copy of the demo's repository with the experiment's results checked out."""
    folder = tmp_path_factory.mktemp("applied") / "project"
    shutil.copytree(demo.copy, folder, symlinks=True)
    project = type(demo)(folder)
    name = re.search(r"Ran experiment\(s\): (\S+)", demo.output)
    assert name, demo.output
    project.run("dvc", "exp", "apply", name[1])
    return project


def runs_of(client: mlflow.MlflowClient) -> list:
    experiment = client.get_experiment_by_name("stn-digits")
    assert experiment is not None
    return [run for run in client.search_runs([experiment.experiment_id]) if "variant" in run.data.tags]


def test_the_work_tree_is_as_it_was(demo):
    assert demo.run("git", "status", "--porcelain").stdout == ""
    assert "dataset: cifar10" in (demo.folder / "params.yaml").read_text()


def test_the_transformer_leads_by_ten_points_and_tuning_loses_nothing(applied):
    variants = json.loads((applied.folder / "metrics/evaluate.json").read_text())["variants"]
    assert len(variants["stn"]["seeds"]) == 3
    assert variants["stn"]["test_accuracy"] - variants["plain"]["test_accuracy"] >= 0.1
    assert variants["tuned"]["test_accuracy"] >= variants["stn"]["test_accuracy"]


def test_what_the_transformers_undo_is_measured(applied, client):
    variants = json.loads((applied.folder / "metrics/evaluate.json").read_text())["variants"]
    assert variants["plain"]["alignment"] is None
    for name in ("stn", "tuned"):
        slopes = variants[name]["alignment"]["slopes"]
        assert all(slope["low"] <= slope["median"] <= slope["high"] for slope in slopes.values())
        assert slopes["shift"]["low"] > 0.2, "digits are shifted, and θ follows them"
    for run in runs_of(client):
        assert ("test_undone_rotation" in run.data.metrics) == (run.data.tags["variant"] != "plain")


def test_the_table_it_prints_is_the_one_in_the_metrics(demo, applied):
    variants = json.loads((applied.folder / "metrics/evaluate.json").read_text())["variants"]
    for name, values in variants.items():
        lines = [line for line in demo.output.splitlines()[::-1] if line.startswith(f"| {name} |")]
        moved, row = lines[:2] if name == "plain" else lines[1:3]  # the last table has the variants with a transformer
        assert f"{values['test_accuracy'] * 100:.2f} ± {values['test_accuracy_std'] * 100:.2f} %" in row
        assert f"{values['parameters']:,}" in row
        assert all(f"{mean:.2%}" in moved for mean in values["robustness"].values())


def test_with_theta_forced_to_the_identity_the_lead_is_gone(applied, monkeypatch):
    """The lead of the variant stn comes from warping: without the warp it is no better than plain."""
    monkeypatch.chdir(applied.folder)
    meta, test = load_meta(), load_split("test")
    batches = meta.batches(test, torch.device("cpu"))

    def accuracy(network) -> float:
        logits, labels, _ = predict(network, batches.ordered(1000))
        return (logits.argmax(1) == labels).double().mean().item()

    plain = np.mean([accuracy(model.network) for model in load_trained("plain", meta)])
    warped, forced = [], []
    for model in load_trained("stn", meta):
        warped.append(accuracy(model.network))
        monkeypatch.setattr(
            model.network.transformer, "theta", lambda images: torch.tensor([Affine.identity]).repeat(len(images), 1)
        )
        forced.append(accuracy(model.network))
    assert np.mean(warped) > plain + 0.08
    assert np.mean(forced) <= plain


def test_over_rotation_the_transformer_is_flatter_and_with_theta_forced_to_the_identity_it_is_not(
    applied, monkeypatch, tmp_path
):
    """Compares the mean accuracy over the angles of training, relative to the highest, on turned upright images.

    The prepared images are turned already. If they were turned by up to 90° more, half of them would leave the range.
    """
    monkeypatch.chdir(applied.folder)
    params, meta, test = load_params(), load_meta(), load_split("test")
    assert params.data.distortion.rotation == ROTATION.amounts[-1] == 90
    still = params.data.distortion.model_copy(update={"rotation": 0.0, "scale": [1.0, 1.0], "shift": 0.0})
    prepare_source(params.data.model_copy(update={"distortion": still}), params.prepare, tmp_path / "upright")
    upright = load_split("test", tmp_path / "upright")
    assert torch.equal(upright.labels, test.labels)
    turned = [
        meta.batches(Labeled(move(upright.images, ROTATION, angle), test.labels), torch.device("cpu"))
        for angle in ROTATION.amounts
    ]

    def flatness(variant: str, forced: bool = False) -> float:
        shares, start = [], torch.tensor([Affine.identity])
        for model in load_trained(variant, meta):
            if forced:
                monkeypatch.setattr(model.network.transformer, "theta", lambda images: start.repeat(len(images), 1))
            accuracies = []
            for batches in turned:
                logits, labels, _ = predict(model.network, batches.ordered(1000))
                accuracies.append((logits.argmax(1) == labels).double().mean().item())
            shares.append(area(ROTATION.amounts, accuracies) / max(accuracies))
        return float(np.mean(shares))

    plain = flatness("plain")
    assert flatness("stn") > plain + 0.02
    assert flatness("stn", forced=True) <= plain + 0.02


def test_the_tuned_variant_is_the_studys_winner(applied, client):
    metrics = json.loads((applied.folder / "metrics/tune.json").read_text())
    assert metrics["finished"] + metrics["pruned"] + metrics["failed"] == SETTINGS["tune"]["trials"]
    assert len(metrics["finalists"]) == SETTINGS["tune"]["finalists"] + 1
    assert metrics["finalists"][metrics["winner"]] == max(metrics["finalists"].values())
    file = YAML(typ="safe").load((applied.folder / "variants/tuned.yaml").read_text())
    assert json.loads((applied.folder / "models/tuned/training.json").read_text())["variant"] == file
    values = json.loads((applied.folder / "metrics/evaluate.json").read_text())["variants"]
    assert values["tuned"]["parameters"] <= values["stn"]["parameters"]
    (parent,) = client.search_runs(
        [client.get_experiment_by_name("stn-digits").experiment_id], f"tags.study = '{metrics['study']}'"
    )
    pictures = {Path(file.path).name for file in client.list_artifacts(parent.info.run_id, "study")}
    assert pictures == {"history.png", "importances.png", "parallel-coordinates.png", "slices.png"}


def test_one_run_for_each_model_with_all_that_describes_it(client, demo):
    runs = runs_of(client)
    assert sorted((run.data.tags["variant"], run.data.tags["seed"]) for run in runs) == [
        (variant, seed) for variant in VARIANTS for seed in ("0", "1", "2")
    ]
    commit = demo.run("git", "rev-parse", "HEAD").stdout.strip()
    for run in runs:
        assert run.info.status == "FINISHED"
        assert len(run.data.tags["data_digest"]) == 64
        assert run.inputs.dataset_inputs[0].dataset.digest == run.data.tags["data_digest"][:36]
        assert run.inputs.dataset_inputs[0].dataset.name == "digits"
        assert run.data.params["train.epochs"] == str(EPOCHS)
        assert run.data.params["train.seed"] == run.data.tags["seed"]
        # The temporary work tree is at a commit of DVC's own; what the experiment changed is recorded as a diff.
        assert run.data.tags["git_dirty"] == "true" or run.data.tags["git_commit"] != commit
        for metric in ("train_loss", "validation_loss", "validation_accuracy", "images_per_second"):
            history = client.get_metric_history(run.info.run_id, metric)
            assert sorted(entry.step for entry in history) == list(range(1, EPOCHS + 1))
        assert run.data.metrics["test_accuracy"] > 0.5
        has_theta = "theta_rotation" in run.data.metrics
        assert has_theta == (run.data.tags["variant"] != "plain")
    watched = [run for run in runs if any(name.startswith("system/") for name in run.data.metrics)]
    assert watched, "no run has metrics of the machine"


def test_theta_pictures_are_in_the_chosen_run(client):
    version = client.get_model_version_by_alias("stn-digits", "challenger")
    names = {Path(file.path).name for file in client.list_artifacts(version.run_id, "theta")}
    pictures = {"rectified", "grids", "worst", "theta", "means", "filmstrip", "epochs"}
    assert {f"{picture}.png" for picture in pictures} == names


def test_the_registered_model_answers_as_the_trained_network_does(client, applied, monkeypatch):
    """Loaded by plain MLflow, raw pixels in."""
    monkeypatch.chdir(applied.folder)
    meta, test = load_meta(), load_split("test")
    for variant in VARIANTS:
        version = next(v for v in client.search_model_versions("name = 'stn-digits'") if v.tags["variant"] == variant)
        model = best_on_validation(load_trained(variant, meta), Metric.ACCURACY)
        assert version.tags["seed"] == str(model.seed)
        served = mlflow.pyfunc.load_model(f"models:/stn-digits/{version.version}")
        batches = meta.batches(test, torch.device("cpu"))
        logits, labels, thetas = predict(model.network, batches.ordered(1000))
        for count in (1, 2, len(labels)):
            answer = served.predict(test.images[:count].numpy())
            np.testing.assert_array_equal(answer["class"], logits[:count].argmax(1))
            np.testing.assert_allclose(answer["probabilities"], logits[:count].softmax(1), atol=1e-5)
            if not thetas:
                assert "theta" not in answer
            else:
                assert model.network.transformer is not None
                matrices = model.network.transformer.transform.readable(thetas["input"][:count])
                np.testing.assert_allclose(answer["theta"], matrices, atol=1e-5)
        accuracy = (answer["class"] == labels.numpy()).mean()
        assert version.tags["test_accuracy"] == f"{accuracy:.4f}"
        assert version.tags["data_digest"] == meta.digest


def test_aliases(client, applied):
    """The challenger is the best on validation; on the first registration it is the champion, too."""
    aliases = client.get_registered_model("stn-digits").aliases
    assert aliases["champion"] == aliases["challenger"]
    version = client.get_model_version("stn-digits", aliases["challenger"])
    assert version.tags["promotion"] == "initial"
    histories = json.loads((applied.folder / "models" / version.tags["variant"] / "training.json").read_text())["runs"]
    accuracy = histories[version.tags["seed"]]["history"][-1]["validation_accuracy"]
    for other in VARIANTS:
        runs = json.loads((applied.folder / "models" / other / "training.json").read_text())["runs"]
        assert all(run["history"][-1]["validation_accuracy"] <= accuracy for run in runs.values())


def test_the_report_opens_without_a_network(demo):
    html = (demo.folder / "state/reports/digits/report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", html)
    assert "<script" not in html
    # Of two transformers, with the last picture of their animations; confusions of each variant; of the evaluation, of
    # training, of the study.
    assert html.count("data:image/png;base64,") == 8 * 2 + 3 + 3 + 3 + 4


def test_a_second_demo_trains_nothing_and_registers_nothing_twice(demo, client):
    before = {run.info.run_id for run in runs_of(client)}
    output = demo.run("tools/demo.sh").stdout
    assert "worker" not in output  # what each training prints when it starts
    assert "trials done" not in output
    assert {run.info.run_id for run in runs_of(client)} == before
    assert len(client.search_model_versions("name = 'stn-digits'")) == len(VARIANTS)


def test_the_demos_results_meet_an_empty_store(applied, tmp_path):
    """Registering where the runs are missing creates them from their recorded history and marks them."""
    uri = f"sqlite:///{tmp_path}/other.db"
    applied.stage("register", env={"MLFLOW_TRACKING_URI": uri})
    other = mlflow.MlflowClient(uri)
    version = other.get_model_version_by_alias("stn-digits", "champion")
    assert version.run_id
    run = other.get_run(version.run_id)
    assert run.data.tags["restored_from_run"] == version.tags["trained_in"]
    assert len(other.get_metric_history(version.run_id, "validation_accuracy")) == EPOCHS
    assert mlflow.MlflowClient(f"sqlite:///{applied.folder}/state/mlflow.db").get_run(version.tags["trained_in"])


def test_promote_finds_the_demos_data_in_dvcs_cache(demo, client):
    """The demo prepares its data in a temporary work tree; data/prepared stays empty."""
    assert not (demo.folder / "data/prepared").exists()
    (plain,) = client.search_model_versions("name = 'stn-digits' and tags.variant = 'plain'")
    done = demo.command("promote", "stn-digits", "--version", str(plain.version), "--dry-run", check=False)
    assert done.returncode == 3 and "would be refused" in done.stdout, done.stdout


def test_promotion_and_the_way_back(applied):
    """tuned replaces plain, since it is better. The opposite needs force. A rollback restores the champion."""
    client = mlflow.MlflowClient(f"sqlite:///{applied.folder}/state/mlflow.db")
    version = {v.tags["variant"]: str(v.version) for v in client.search_model_versions("name = 'stn-digits'")}

    def promote(*arguments: str, code: int) -> str:
        done = applied.run("make", "-o", ".venv/.ready", "promote", "MODEL=stn-digits", *arguments, check=False)
        assert f"Error {code}" in done.stdout if code else done.returncode == 0, done.stdout
        return done.stdout

    def champion() -> str:
        return str(client.get_model_version_by_alias("stn-digits", "champion").version)

    first = champion()
    if first != version["plain"]:
        assert "refused" in promote(f"VERSION={version['plain']}", code=3) and champion() == first
        promote(f"VERSION={version['plain']}", "FORCE=to see 'what' it does", code=0)
    assert "would move" in promote(f"VERSION={version['tuned']}", "DRY_RUN=1", code=0)
    assert champion() == version["plain"]
    assert "| class_level |" in promote(f"VERSION={version['tuned']}", code=0)
    assert champion() == version["tuned"]
    assert "already" in promote(f"VERSION={version['tuned']}", code=0)
    promote(f"VERSION={version['tuned']}9", code=2)
    applied.run("make", "-o", ".venv/.ready", "rollback", "MODEL=stn-digits", "REASON=it's odd at night")
    assert champion() == version["plain"]
    told = applied.run("make", "-o", ".venv/.ready", "history", "MODEL=stn-digits").stdout
    outcomes = [line.split("  ")[1].split(" version")[0] for line in told.splitlines() if "  " in line[:30].strip()]
    assert outcomes[0] == "initial" and outcomes[-2:] == ["promoted", "rolled back"], told
    assert "it's odd at night" in told
    assert applied.command("promote", "stn-nothing", check=False).returncode == 2
    assert applied.command("rollback", "stn-nothing", check=False).returncode == 2
    assert applied.command("history", "stn-nothing", check=False).returncode == 2


def make(project, *arguments: str, check: bool = True) -> str:
    return project.run("make", "-o", ".venv/.ready", *arguments, check=check).stdout


def test_provenance_there_and_back(demo, client):
    champion = client.get_model_version_by_alias("stn-digits", "champion")
    told = make(demo, "provenance", "MODEL=stn-digits")
    entries = dict(line.split(maxsplit=1) for line in told.splitlines() if line.startswith("  "))
    commit = demo.run("git", "rev-parse", "HEAD").stdout.strip()
    assert (entries["git_commit"], entries["uncommitted_changes"]) == (commit, "yes")
    assert entries["digest"] == champion.tags["data_digest"] and entries["dataset"] == "digits"
    assert entries["id"] == champion.run_id and entries["epochs"] == str(EPOCHS)
    if champion.tags["variant"] == "tuned":
        trial = client.get_run(entries["trial_run"])
        assert trial.info.run_name == f"trial-{entries['trial']}" and trial.data.tags["state"] == "finished"
    everything = {f"stn-digits version {number}" for number in (1, 2, 3)}
    for by in (f"COMMIT={commit[:8]}", f"DATA={champion.tags['data_digest'][:8]}"):
        assert {line.partition(":")[0] for line in make(demo, "provenance", by).splitlines()} == everything
    assert "Error 2" in make(demo, "provenance", "COMMIT=beef", check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="sums on a GPU have no fixed order")
def test_the_champion_can_be_made_again_bit_for_bit(demo, client):
    """From its commit, the changes stored with its run, its settings, and its data in DVC's cache."""
    assert not (demo.folder / "data/prepared").exists()
    told = make(demo, "reproduce", "MODEL=stn-digits")
    assert "set by hand" in told, "the precision is the recorded one, not measured again"
    version = client.get_model_version_by_alias("stn-digits", "champion")
    assert f"version {version.version}: {version.tags['variant']}, training seed {version.tags['seed']}, again" in told
    assert "the weights are equal, bit for bit" in told
    assert demo.run("git", "status", "--porcelain").stdout == ""
    assert not list((demo.folder / "state/reproduce").iterdir())


def test_prediction_from_files(applied, client, monkeypatch, tmp_path):
    """Color files of test images get the same prediction as their pixels."""
    monkeypatch.chdir(applied.folder)
    chosen = load_split("test").images[:12]
    for number, image in enumerate(chosen[:, 0].numpy()):
        Image.fromarray(image).convert("RGB").save(tmp_path / f"{number}.png")
    files = " ".join(f"{tmp_path}/{number}.png" for number in range(12))
    version = client.get_model_version_by_alias("stn-digits", "champion")
    table = make(applied, "predict", "MODEL=stn-digits", f"VERSION={version.version}", f"IMAGES={files}")
    said = [row.split("│")[2].strip() for row in table.splitlines() if row.startswith("│ /")]
    model = mlflow.pyfunc.load_model(f"models:/stn-digits/{version.version}")
    assert [int(label) for label in said] == model.predict(chosen.numpy())["class"].tolist()
    rectified = list(tmp_path.glob("*.rectified.png"))
    assert len(rectified) == (0 if version.tags["variant"] == "plain" else 12)
    assert all(Image.open(path).size == (28, 28) for path in rectified)


def test_the_champion_over_http(applied, client, monkeypatch):
    monkeypatch.chdir(applied.folder)
    images = load_split("test").images[:3].numpy()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    which = f"VERSION={client.get_model_version_by_alias('stn-digits', 'champion').version}"
    server = applied.start("make", "-o", ".venv/.ready", "serve", "MODEL=stn-digits", which, f"PORT={port}")
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(1800):
            try:
                connection.connect()
                break
            except ConnectionRefusedError:
                assert server.poll() is None, server.communicate()[0]
                time.sleep(0.1)
        body = json.dumps({"inputs": images.tolist()})
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        said = json.load(connection.getresponse())["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
    expected = mlflow.pyfunc.load_model("models:/stn-digits@champion").predict(images)
    assert said.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(said[name], values, atol=1e-5)
    assert "Application shutdown complete" in server.communicate(timeout=300)[0]


def test_three_lines_load_it_where_this_project_is_not(demo, tmp_path):
    """The environment has torch and mlflow, but neither stn nor pipelines."""
    venv.create(tmp_path / "env", with_pip=False)
    (site_packages,) = (tmp_path / "env/lib").glob("python*/site-packages")
    # Python searches the folders that a .pth file names, but does not read their .pth files. One is this project's.
    (site_packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    script = """
from importlib.util import find_spec
assert find_spec("stn") is None and find_spec("pipelines") is None
import mlflow, numpy as np, sys
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/stn-digits@champion")
answer = model.predict(np.zeros((3, 1, 28, 28), dtype=np.uint8))
print(sorted(answer), answer["probabilities"].shape, model.metadata.metadata["classes"])
"""
    command = [tmp_path / "env/bin/python", "-c", script, f"sqlite:///{demo.folder}/state/mlflow.db"]
    environment = {name: value for name, value in demo.env.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'class'" in done.stdout and "(3, 10)" in done.stdout and "'9'" in done.stdout
