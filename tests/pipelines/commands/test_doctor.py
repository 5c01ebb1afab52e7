"""doctor: what the machine offers, and what is wrong."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.commands import doctor
from pipelines.settings.params import load_params

ROOT = Path(__file__).resolve().parents[3]


def test_a_data_folder_that_contains_only_files_is_not_empty(tmp_path, monkeypatch):
    """torchvision stores SVHN like this."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    root = tmp_path / "data/raw"
    root.mkdir(parents=True)
    (root / "README.md").touch()
    params: Any = SimpleNamespace(data=SimpleNamespace(dataset="svhn", source="data/raw"))

    def data_source() -> str:
        (finding,) = (finding for finding in doctor.check_data(params) if finding.subject == "data source")
        assert not finding.problem
        return finding.value

    assert data_source().endswith("is empty; svhn will be downloaded into it")
    (root / "train_32x32.mat").touch()
    assert data_source() in (str(root), "data/raw")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "Found no NVIDIA driver"),
        ("The NVIDIA driver on your system is too old (found version 11040). Please update", "(found version 11040)"),
    ],
)
def test_without_a_usable_gpu_the_reason_is_said(monkeypatch, error, reason):
    def init():
        raise RuntimeError(error)

    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.init", init)
    said = doctor.describe_gpus()
    assert reason in said and said.endswith("training uses the CPU") and "Please" not in said


def test_the_values_of_a_preset_are_printed(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = load_params()
    without = params.model_copy(update={"train": params.train.model_copy(update={"preset": "none"})})
    for given, start in ((params, "preset small. Suits "), (without, "no preset\n")):
        monkeypatch.setattr(doctor, "load_params", lambda given=given: given)
        shown = next(finding.value for finding in doctor.check_settings() if finding.subject == "train")
        assert shown.startswith(start)
        for name, value in params.train.model_dump(exclude={"preset"}).items():
            assert f"{name}: {value}" in shown.replace("\n", " ")


def test_an_environment_that_was_moved_is_reported(tmp_path, monkeypatch):
    """Its programs name the Python of the place where it was made."""
    program = tmp_path / ".venv/bin/dvc"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{tmp_path}/.venv/bin/python\nimport dvc\n")
    monkeypatch.setattr("sys.prefix", str(tmp_path / ".venv"))
    assert [finding for finding in doctor.check_machine() if finding.problem] == []
    program.write_text("#!/before/.venv/bin/python\nimport dvc\n")
    (finding,) = (finding for finding in doctor.check_machine() if finding.problem)
    assert finding.subject == "python" and "this environment was moved" in finding.problem


@pytest.mark.slow
def test_doctor_reports_what_it_finds_and_what_is_wrong(project):
    healthy = project.command("doctor")
    assert "nothing is wrong" in healthy.stdout
    assert "preset small" in healthy.stdout and "optimizer: muon" in healthy.stdout
    assert str(project.folder / "state" / "mlflow.db") in healthy.stdout
    assert "will be downloaded" in healthy.stdout

    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("source: data/raw", "source: /nowhere/at/all"))
    unreachable = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    broken = project.command("doctor", check=False, env=unreachable)
    assert broken.returncode == 1
    assert "wrong: data source" in broken.stdout and "'/nowhere/at/all'" in broken.stdout
    assert "wrong: tracking store" in broken.stdout and "Traceback" not in broken.stdout
