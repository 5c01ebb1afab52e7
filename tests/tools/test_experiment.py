"""experiment: the settings of a file reach DVC, wrong ones are refused before anything runs, params.yaml stays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines.runtime.errors import UserError
from tools.experiment import read_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_setting_of_the_demo_is_given_by_its_dotted_name():
    settings = read_settings(Path("experiments/demo.yaml"))
    assert settings["data.distortion.scale"] == [0.3, 1.0] and settings["train.seeds"] == [0, 1, 2]
    assert settings["variants"] == ["plain", "stn", "tuned"] and settings["data.size"] is None


def test_what_the_demo_does_not_name_may_be_edited_in_params():
    """A user's own data set must not reach the demo: each setting with a default per data set is reset."""
    params = YAML(typ="safe").load(Path("params.yaml").read_text())
    nulls = {f"{s}.{k}" for s in ("data", "train", "tune") for k, value in params[s].items() if value is None}
    assert nulls <= read_settings(Path("experiments/demo.yaml")).keys()


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


def test_dvc_gets_the_settings_and_its_expected_warnings_are_dropped(tmp_path):
    fake = tmp_path / "dvc"
    fake.write_text(
        f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
        "print(\"WARNING: No file hash info found for '/x'. It won't be created.\", file=sys.stderr)\n"
        'print("ERROR: failed", file=sys.stderr)\nsys.exit(7)\n'
    )
    fake.chmod(0o755)
    file = tmp_path / "mine.yaml"
    file.write_text("data: {source: a b, distortion: {scale: [0.5, 1.0]}}\ntrain: {lr: null}\n")
    done = subprocess.run(
        [sys.executable, "-m", "tools.experiment", str(file)], capture_output=True, text=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 7 and done.stderr == "ERROR: failed\n"
    settings = ["-S", 'data.source="a b"', "-S", "data.distortion.scale=[0.5, 1.0]", "-S", "train.lr=null"]
    assert json.loads(done.stdout) == ["exp", "run", "--temp", *settings]
