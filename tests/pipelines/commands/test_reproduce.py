"""reproduce: the work tree, the data and the settings it trains with; a whole one is in test_demo.py."""

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.commands import reproduce as module
from pipelines.commands.reproduce import _bring_data, _work_tree, _workers
from pipelines.registry.export import digest_of
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import write_json
from pipelines.tracking.lineage import current_commit, libraries

DATA = {"dataset": "mine", "source": "mine.zip", "digest": "d1"}


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """The current folder, with one commit, DVC's cache and an edited file."""
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


def test_the_work_tree_is_the_commit_with_its_changes_and_then_gone(repository):
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


def prepared(folder: Path, digest: str) -> None:
    write_json(folder / "meta.json", {"digest": digest})
    (folder / "train.safetensors").write_bytes(digest.encode() * 10)


def test_data_are_found_by_digest_here_or_in_dvcs_cache(repository):
    """Prepared, kept by DVC, then prepared otherwise: both are found, and no others."""
    prepared(Path("data/prepared"), "d1")
    subprocess.run(["dvc", "add", "-q", "data/prepared"], check=True)
    prepared(Path("data/prepared"), "d2")
    for digest in ("d1", "d2"):
        _bring_data(DATA | {"digest": digest}, repository / digest)
        assert json.loads((repository / digest / "meta.json").read_text()) == {"digest": digest}
        assert (repository / digest / "train.safetensors").read_bytes() == digest.encode() * 10
    with pytest.raises(UserError, match=r"mine from mine.zip of digest d3, are neither in data/prepared nor"):
        _bring_data(DATA | {"digest": "d3"}, repository / "d3")


def test_data_of_which_the_cache_has_lost_a_file_are_not_taken(repository):
    prepared(Path("data/prepared"), "d1")
    subprocess.run(["dvc", "add", "-q", "data/prepared"], check=True)
    for file in Path(".dvc/cache").rglob("*"):
        if file.is_file() and file.read_bytes() == b"d1" * 10:
            file.unlink()
    prepared(Path("data/prepared"), "d2")
    with pytest.raises(UserError, match="neither"):
        _bring_data(DATA, repository / "d1")


def test_the_same_workers_where_they_fit(monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    auto = {"workers": "auto", "threads": "auto"}
    assert _workers({"workers": 3, "threads": 1, "gpu": False}) == {"workers": 3, "threads": 1}
    assert not capsys.readouterr().out
    assert _workers({"workers": 2, "threads": 2, "gpu": False}) == auto
    assert "2 CPU worker(s) of 2 thread(s) do not fit here" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert _workers({"workers": 2, "threads": 1, "gpu": True}) == auto
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # a cluster has what it has: it is asked when training starts
    assert _workers({"workers": 2, "threads": 1, "gpu": True}) == {"workers": 2, "threads": 1}


@pytest.mark.parametrize("change", [0.0, 1e-7])
def test_what_came_out_is_compared_with_what_was_registered(store, tmp_path, monkeypatch, change, capsys):
    """Training is stood in for; what it is told to do, and what is made of its result, are not."""
    data = {"dataset": "mine", "digest": "d1", "mean": [0.5], "std": [0.2], "classes": ["cat", "dog"]}
    record = {
        "git_commit": "HEAD", "git_diff": "", "data": data, "libraries": libraries() | {"torch": "1.0"},
        "variant": {"transformer": None}, "train": {"lr": 0.1, "seeds": [0, 5]},
        "workers": 1, "threads": 1, "gpu": False,
    }  # fmt: skip
    weights = {"layer": torch.tensor([1.0, 2.0])}
    tags = {"variant": "stn", "seed": "5", "test_accuracy": "0.9000", "model_digest": digest_of(weights, data)}
    for key, value in tags.items():
        store.client.set_model_version_tag("stn-mine", "2", key, value)
    ran = []

    @contextmanager
    def work_tree(commit: str, diff: str):
        (tmp_path / "tree/variants").mkdir(parents=True)
        yield tmp_path / "tree"

    def python(tree: Path, module: str, *arguments: str, quiet: bool = False) -> None:
        ran.append((module, arguments))
        (tree / "models/stn").mkdir(parents=True, exist_ok=True)
        save_file({"layer": weights["layer"] + torch.tensor([0.0, 2.0 * change])}, tree / "models/stn/5.safetensors")
        write_json(tree / "metrics/evaluate.json", {"variants": {"stn": {"seeds": {"5": {"test_accuracy": 0.93}}}}})

    subprocess.run(["git", "init", "-q"], check=True)
    identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "A start"], check=True)
    monkeypatch.setattr(module, "record_of", lambda *_: record)
    monkeypatch.setattr(module, "_work_tree", work_tree)
    monkeypatch.setattr(module, "_python", python)
    said = module.reproduce("stn-mine", "2")
    assert "torch: 1.0 then, " in capsys.readouterr().out
    assert json.loads((tmp_path / "tree/variants/stn.yaml").read_text()) == {"transformer": None}
    settings = dict(argument.split("=", 1) for argument in ran[0][1])
    assert settings == {
        "train.lr": "0.1", "train.seeds": "[5]", "train.workers": "1", "train.threads": "1", "variants": '["stn"]',
        "data.dataset": '"mine"',
    }  # fmt: skip
    assert ran[1] == ("pipelines.train", ("--variant", "stn"))
    if change:
        assert said == "the weights differ; test accuracy 93.00%, registered 90.00%: +3.00 points"
    else:
        assert said == "the weights are equal, bit for bit" and len(ran) == 2


def test_a_commit_that_is_not_here(store, monkeypatch):
    monkeypatch.setattr(
        module, "record_of", lambda *_: {"git_commit": "c0ffee" + 34 * "0", "data": {}, "libraries": {}}
    )
    store.client.set_model_version_tag("stn-mine", "2", "seed", "0")
    with pytest.raises(UserError, match=r"VERSION: 2 given; it was trained at commit c0ffee0+, which this repository"):
        module.reproduce("stn-mine", "2")
