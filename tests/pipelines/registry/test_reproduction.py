"""Reproduction: the work tree, the data and the settings of the training; test_demo.py has a complete reproduction."""

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.registry import reproduction
from pipelines.registry.export import digest_of
from pipelines.registry.reproduction import (
    _choose_workers,
    _copy_data,
    _copy_weights,
    _recorded_precision,
    _work_tree,
    reproduce,
)
from pipelines.runtime.cores import Cores
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import write_json
from pipelines.tracking.lineage import current_commit, libraries
from stn.settings import Normalization

DATA = {"dataset": "mine", "source": "mine.zip", "digest": "d1"}


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """The current folder as a repository with one commit, DVC's cache and an edited file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "commit.gpgsign=false")
    Path("params.yaml").write_text("lr: 1\n")
    Path(".gitignore").write_text("/state\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "A start"], check=True)
    Path("params.yaml").write_text("lr: 2\n")
    return tmp_path


def work_trees() -> int:
    return len(subprocess.run(["git", "worktree", "list"], capture_output=True, text=True).stdout.splitlines())


def test_the_work_tree_has_the_commit_with_its_changes_and_is_deleted(repository):
    commit = current_commit()
    with _work_tree(commit.sha, commit.diff) as tree:
        assert (tree / "params.yaml").read_text() == "lr: 2\n" and work_trees() == 2
    with _work_tree(commit.sha, "") as tree:
        assert (tree / "params.yaml").read_text() == "lr: 1\n"
    with pytest.raises(KeyboardInterrupt), _work_tree(commit.sha, ""):
        raise KeyboardInterrupt
    with (
        pytest.raises(ExternalError, match="do not apply"),
        _work_tree(commit.sha, commit.diff.replace("lr: 1", "lr: 3")),
    ):
        pass
    assert work_trees() == 1 and not list((repository / "state/reproduce").iterdir())
    assert Path("params.yaml").read_text() == "lr: 2\n"


def test_a_project_in_a_folder_of_a_repository_is_found_with_its_changes(repository, monkeypatch):
    for name in (".dvc", "params.yaml"):
        (repository / "team/a project").mkdir(parents=True, exist_ok=True)
        (repository / name).rename(repository / "team/a project" / name)
    subprocess.run(["git", "add", "-A"], check=True)
    identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, "commit", "-q", "-m", "A move"], check=True)
    monkeypatch.chdir("team/a project")
    monkeypatch.setenv("DVC_ROOT", str(repository / "team/a project"))
    Path("params.yaml").write_text("lr: 3\n")
    Path("own_networks").mkdir()
    Path("own_networks/mine.py").write_text("def build(shape, classes): ...\n")
    commit = current_commit()
    with _work_tree(commit.sha, commit.diff) as project:
        assert project.parts[-2:] == ("team", "a project") and (project / ".dvc").is_dir()
        assert (project / "params.yaml").read_text() == "lr: 3\n"
        assert (project / "own_networks/mine.py").exists()
        assert not (project.parents[1] / "own_networks").exists()


def test_a_network_of_ones_own_and_files_of_weights_are_found(repository):
    """git does not know the network yet, and never knows the weights."""
    Path("own_networks").mkdir()
    Path("own_networks/mine.py").write_text("def build(shape, classes): ...\n")
    Path("weights").mkdir()
    for name in ("a", "b"):
        Path(f"weights/{name}.safetensors").write_text(name)
    absolute = {"file": str(repository / "weights/b.safetensors"), "sha256": "0"}
    variant = {
        "classifier": {"backbone": "resnet18", "pretrained": {"file": "weights/a.safetensors", "sha256": "0"}},
        "transformers": [{"at": "input", "localization": {"backbone": "resnet18", "pretrained": absolute}}],
    }
    commit = current_commit()
    with _work_tree(commit.sha, commit.diff) as tree:
        _copy_weights(variant, tree)
        assert (tree / "own_networks/mine.py").read_text().startswith("def build")
        assert [file.name for file in (tree / "weights").iterdir()] == ["a.safetensors"]


def prepared(folder: Path, digest: str) -> None:
    write_json(folder / "meta.json", {"digest": digest})
    (folder / "train.safetensors").write_bytes(digest.encode() * 10)


@pytest.mark.slow
def test_data_are_found_by_digest_here_or_in_dvcs_cache(repository):
    """Data cached by DVC and data that was prepared afterwards are both found, and no others."""
    prepared(Path("data/prepared"), "d1")
    subprocess.run(["dvc", "add", "-q", "data/prepared"], check=True)
    prepared(Path("data/prepared"), "d2")
    for digest in ("d1", "d2"):
        _copy_data(DATA | {"digest": digest}, repository / digest)
        assert json.loads((repository / digest / "meta.json").read_text()) == {"digest": digest}
        assert (repository / digest / "train.safetensors").read_bytes() == digest.encode() * 10
    with pytest.raises(UserError, match=r"mine from mine.zip with digest d3, are neither in data/prepared nor"):
        _copy_data(DATA | {"digest": "d3"}, repository / "d3")


def test_cached_data_with_a_missing_file_are_not_used(repository):
    prepared(Path("data/prepared"), "d1")
    subprocess.run(["dvc", "add", "-q", "data/prepared"], check=True)
    for file in Path(".dvc/cache").rglob("*"):
        if file.is_file() and file.read_bytes() == b"d1" * 10:
            file.unlink()
    prepared(Path("data/prepared"), "d2")
    with pytest.raises(UserError, match="neither"):
        _copy_data(DATA, repository / "d1")


def test_the_recorded_workers_are_used_if_they_fit(monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(reproduction, "usable_cores", lambda: Cores(3))
    auto = {"workers": "auto", "threads": "auto"}
    assert _choose_workers({"workers": 3, "threads": 1, "gpu": False}) == {"workers": 3, "threads": 1}
    assert not capsys.readouterr().out
    assert _choose_workers({"workers": 2, "threads": 2, "gpu": False}) == auto
    assert "2 CPU worker(s) with 2 thread(s) do not fit this machine" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert _choose_workers({"workers": 2, "threads": 1, "gpu": True}) == auto
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # whether the cluster has room is checked when training starts
    assert _choose_workers({"workers": 2, "threads": 1, "gpu": True}) == {"workers": 2, "threads": 1}


@pytest.mark.parametrize("change", [0.0, 1e-7])
def test_the_new_model_is_compared_with_the_registered_one(store, tmp_path, monkeypatch, change, capsys):
    """A stub replaces training. Its settings, and the comparison of its result, are real."""
    data = {"dataset": "mine", "digest": "d1", "mean": [0.5], "std": [0.2], "classes": ["cat", "dog"]}
    record = {
        "git_commit": "HEAD", "git_diff": "", "data": data, "libraries": libraries() | {"torch": "1.0"},
        "variant": {"transformer": None}, "train": {"lr": 0.1, "seeds": [0, 5]},
        "workers": 1, "threads": 1, "gpu": False,
    }  # fmt: skip
    weights = {"layer": torch.tensor([1.0, 2.0])}
    digest = digest_of(weights, Normalization([0.5], [0.2]), ["cat", "dog"])
    tags = {"variant": "stn", "seed": "5", "test_accuracy": "0.9000", "model_digest": digest}
    for key, value in tags.items():
        store.client.set_model_version_tag("stn-mine", "2", key, value)
    ran = []

    @contextmanager
    def work_tree(commit: str, diff: str):
        (tmp_path / "tree/variants").mkdir(parents=True)
        yield tmp_path / "tree"

    def run_module(tree: Path, module: str, *arguments: str, quiet: bool = False) -> None:
        ran.append((module, arguments))
        (tree / "models/stn").mkdir(parents=True, exist_ok=True)
        save_file({"layer": weights["layer"] + torch.tensor([0.0, 2.0 * change])}, tree / "models/stn/5.safetensors")
        write_json(tree / "metrics/evaluate.json", {"variants": {"stn": {"seeds": {"5": {"test_accuracy": 0.93}}}}})

    subprocess.run(["git", "init", "-q"], check=True)
    identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "A start"], check=True)
    monkeypatch.setattr(reproduction, "record_of", lambda *_: record)
    monkeypatch.setattr(reproduction, "_work_tree", work_tree)
    monkeypatch.setattr(reproduction, "_run_module", run_module)
    result = reproduce("stn-mine", "2")
    assert "torch: 1.0 then, " in capsys.readouterr().out
    assert json.loads((tmp_path / "tree/variants/stn.yaml").read_text()) == {"transformer": None}
    settings = dict(argument.split("=", 1) for argument in ran[0][1])
    assert settings == {
        "train.lr": "0.1", "train.seeds": "[5]", "train.workers": "1", "train.threads": "1", "variants": '["stn"]',
        "data.dataset": '"mine"',
    }  # fmt: skip
    assert ran[1] == ("pipelines.train", ("--variant", "stn"))
    if change:
        assert result == "the weights differ; test accuracy 93.00%, registered 90.00%: +3.00 points"
    else:
        assert result == "the weights are equal, bit for bit" and len(ran) == 2


def test_a_commit_that_the_repository_lacks(store, monkeypatch):
    monkeypatch.setattr(
        reproduction, "record_of", lambda *_: {"git_commit": "c0ffee" + 34 * "0", "data": {}, "libraries": {}}
    )
    store.client.set_model_version_tag("stn-mine", "2", "seed", "0")
    with pytest.raises(UserError, match=r"VERSION: 2 given; it was trained at commit c0ffee0+, which this repository"):
        reproduce("stn-mine", "2")


def test_the_recorded_precision_is_taken():
    assert _recorded_precision({"precision": "bfloat16"}) == {"precision": "bf16"}
    assert _recorded_precision({"precision": "float32"}) == {"precision": "fp32"}
    assert _recorded_precision({}) == {}, "an old run"
