"""experiment: the settings of a file reach DVC, wrong ones are refused before anything runs, params.yaml stays."""

import logging
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines.runtime.errors import UserError
from pipelines.settings.train_presets import OF_EVERY_PRESET
from tools.experiment import read_settings, run_experiment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_setting_of_the_demo_is_given_by_its_dotted_name():
    settings = read_settings(Path("experiments/demo.yaml"))
    assert settings["data.distortion.scale"] == [0.3, 1.0] and settings["train.seeds"] == [0, 1, 2]
    assert settings["variants"] == ["plain", "stn", "tuned"] and settings["data.size"] is None


def test_the_upright_digits_are_those_of_the_demo():
    demo, upright = (read_settings(Path(f"experiments/{name}.yaml")) for name in ("demo", "digits_upright"))
    of_data = {name for name in demo if name.startswith(("data.", "prepare."))}
    assert of_data and {name: upright.get(name, "none") for name in of_data} == {name: demo[name] for name in of_data}
    assert read_settings(Path("experiments/cifar10_rts.yaml"))["data.distortion.protocol"] == "RTS"
    assert read_settings(Path("experiments/cifar10_turned.yaml"))["data.distortion.rotation"] == 30


def test_what_the_demo_does_not_name_may_be_edited_in_params():
    """A user's own data set must not reach the demo: each setting with a default per data set is reset, and so is the
    preset, which comes before these defaults."""
    params = YAML(typ="safe").load(Path("params.yaml").read_text())
    nulls = {f"{s}.{k}" for s in ("data", "train", "tune") for k, value in params[s].items() if value is None}
    demo = read_settings(Path("experiments/demo.yaml"))
    assert nulls - {f"train.{name}" for name in OF_EVERY_PRESET} <= demo.keys()
    assert demo["train.preset"] == "small"


def test_data_that_the_work_tree_would_lack_are_refused(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "variants", tmp_path / "variants")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.yaml").write_text("data: {source: mine}")
    subprocess.run(["git", "init", "-q"], check=True)
    with pytest.raises(UserError, match=f"data.source: 'mine' given; .* give the absolute path: '{tmp_path}/mine'"):
        read_settings(Path("mine.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {lrr: 0.1}", "mine.yaml: train.lrr: unknown setting; did you mean lr?"),
        ("train: {lr: -1}", "mine.yaml: train.lr: -1 given"),
        ("[1, 2]", "expected sections of params.yaml"),
        ("train: {", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        read_settings(file)
    assert message in str(refused.value)


def test_dvc_gets_the_settings_and_its_expected_warnings_are_dropped(tmp_path, monkeypatch, caplog):
    file = tmp_path / "mine.yaml"
    file.write_text("data: {source: a b, distortion: {scale: [0.5, 1.0]}}\ntrain: {lr: null}\n")

    calls = []

    def dvc(arguments):
        calls.append(arguments)
        logger = logging.getLogger("dvc_data.hashfile.checkout")
        logger.warning("No file hash info found for '%s'. It won't be created.", "/x")
        logger.warning("something else")
        return 7

    monkeypatch.setattr("dvc.cli.main", dvc)
    assert run_experiment(read_settings(file)) == 7
    settings = ["-S", 'data.source="a b"', "-S", "data.distortion.scale=[0.5, 1.0]", "-S", "train.lr=null"]
    assert calls == [["exp", "run", "--temp", *settings]]
    assert caplog.messages == ["something else"]
