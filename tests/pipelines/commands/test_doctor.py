"""doctor: what the machine offers, and what is wrong."""

from types import SimpleNamespace

from pipelines.commands import doctor


def test_a_root_of_files_alone_is_not_empty(tmp_path, monkeypatch):
    """As torchvision keeps SVHN."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    said = {}
    root = tmp_path / "data/raw"
    root.mkdir(parents=True)
    (root / "README.md").touch()
    params = SimpleNamespace(data=SimpleNamespace(dataset="svhn", source="data/raw"))
    doctor._data(lambda what, value, problem="": said.update({what: value}), params)  # pyright: ignore[reportArgumentType]
    assert said["data source"].endswith("is empty; svhn will be downloaded into it")
    (root / "train_32x32.mat").touch()
    doctor._data(lambda what, value, problem="": said.update({what: value}), params)  # pyright: ignore[reportArgumentType]
    assert said["data source"] in (str(root), "data/raw")


def test_doctor_says_what_there_is_and_what_is_wrong(project):
    well = project.command("doctor")
    assert "nothing is wrong" in well.stdout
    assert str(project.folder / "state" / "mlflow.db") in well.stdout
    assert "will be downloaded" in well.stdout

    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("source: data/raw", "source: /nowhere/at/all"))
    unreachable = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    ill = project.command("doctor", check=False, env=unreachable)
    assert ill.returncode == 1
    assert "wrong: data source" in ill.stdout and "'/nowhere/at/all'" in ill.stdout
    assert "wrong: tracking store" in ill.stdout and "Traceback" not in ill.stdout
