"""Reproduction: train a registered version again from its commit, uncommitted changes, settings and data.

Training runs in a temporary work tree with its own tracking store and the code of the version's commit. The record of
the training may have been written at any earlier commit, so it stays a plain JSON value.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipelines.outputs.prepared_data import PREPARED, load_tensors
from pipelines.registry.export import digest_of
from pipelines.registry.prepared_by_digest import WHERE, find_prepared
from pipelines.registry.versions import find_version, record_of
from pipelines.runtime import environment
from pipelines.runtime.cores import usable_cores
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import read_json
from pipelines.runtime.home import state_dir
from pipelines.runtime.locks import hold_lock
from pipelines.tracking.artifact_places import sqlite_address
from pipelines.tracking.client import connect
from pipelines.tracking.lineage import libraries
from stn.precision import SETTINGS
from stn.settings import Normalization


def reproduce(name: str, wanted: str) -> str:
    """Train a version again and return how the new model compares with it, as a sentence.

    Args:
        name: registered model.
        wanted: number or alias of the version.

    Raises:
        UserError: the registry has no such model or version, or its commit or its data are not available here.
        ExternalError: the record of its training is missing, or the new training failed.
    """
    client = connect()
    version = find_version(client, name, wanted)
    record, tags = record_of(client, version), version.tags
    variant, seed, commit = tags["variant"], int(tags["seed"]), record["git_commit"]
    precision = _recorded_precision(client.get_run(str(version.run_id)).data.tags)
    if commit in ("none", "unknown"):
        raise UserError(f"VERSION: {version.version} given; the commit of its training was not recorded ({commit})")
    if subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True).returncode:
        raise UserError(
            f"VERSION: {version.version} given; it was trained at commit {commit}, which this repository does not "
            f"have. Try git fetch"
        )
    _print_library_changes(record["libraries"])
    with _work_tree(commit, record["git_diff"]) as tree:
        _copy_data(record["data"], tree / PREPARED)
        _copy_weights(record["variant"], tree)
        _write_settings(tree, variant, seed, record, precision)
        print(f"{name}, version {version.version}: {variant}, training seed {seed}, again at {commit[:10]}", flush=True)
        _run_module(tree, "pipelines.train", "--variant", variant)
        if _digest_of_model(tree, variant, seed, record["data"]) == tags["model_digest"]:
            return "the weights are equal, bit for bit"
        _run_module(tree, "pipelines.evaluate")
        results = read_json(tree / "metrics/evaluate.json")["variants"][variant]["seeds"][str(seed)]
    again, before = results["test_accuracy"], float(tags["test_accuracy"])
    return (
        f"the weights differ; test accuracy {again:.2%}, registered {before:.2%}: {(again - before) * 100:+.2f} points"
    )


def _print_library_changes(recorded: Mapping[str, str]) -> None:
    """Print each library whose version differs from the recorded one."""
    for library, installed in libraries().items():
        if recorded.get(library) != installed:
            print(f"{library}: {recorded.get(library)} then, {installed} here", flush=True)


@contextmanager
def _work_tree(commit: str, diff: str) -> Iterator[Path]:
    """Check out a commit with uncommitted changes into a temporary work tree, which is deleted after the block.

    Yields the folder of the project in it: the project may be a folder of a larger repository.

    Raises:
        ExternalError: the changes do not apply to the commit.
    """
    asked = subprocess.run(["git", "rev-parse", "--show-prefix"], capture_output=True, text=True, check=True)
    prefix = asked.stdout.rstrip("\n")
    subprocess.run(["git", "worktree", "prune"], check=True)  # work trees of processes that were killed
    folder = Path(tempfile.mkdtemp(dir=state_dir("reproduce")))
    tree = folder / "tree"
    try:
        with hold_lock(f"reproduce-{folder.name}"):  # make clean-all skips the folder while the lock is held
            subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], check=True)
            if diff:
                apply = ["git", "apply", "--whitespace=nowarn", *([f"--directory={prefix}"] if prefix else [])]
                done = subprocess.run(apply, cwd=tree, input=diff, text=True, capture_output=True)
                if done.returncode:
                    raise ExternalError(
                        f"the uncommitted changes recorded with commit {commit} do not apply to it: {done.stderr}"
                    )
            yield tree / prefix
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["git", "worktree", "prune"], check=True)


def _copy_data(data: Mapping[str, Any], target: Path) -> None:
    """Copy the prepared data with the recorded digest to ``target``.

    Raises:
        UserError: they are not available here.
    """
    found = find_prepared(data["digest"], target.with_name("found"))
    if found is None:
        described = f"{data['dataset']} from {data['source']} with digest {data['digest'][:12]}"
        raise UserError(f"VERSION: its data, {described}, are {WHERE}")
    shutil.copytree(found, target)


def _copy_weights(settings: Any, tree: Path) -> None:
    """Copy the files of pretrained weights that a variant names by relative paths. Their SHA-256 is checked there."""
    if isinstance(settings, list):
        for value in settings:
            _copy_weights(value, tree)
    if not isinstance(settings, dict):
        return
    for name, value in settings.items():
        if name != "pretrained" or not isinstance(value, dict):
            _copy_weights(value, tree)
        elif not Path(value["file"]).is_absolute() and Path(value["file"]).is_file():
            (tree / value["file"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(value["file"], tree / value["file"])


def _write_settings(
    tree: Path, variant: str, seed: int, record: Mapping[str, Any], precision: Mapping[str, str]
) -> None:
    """Write the recorded settings into the work tree: the variant's file and params.yaml."""
    (tree / "variants" / f"{variant}.yaml").write_text(json.dumps(record["variant"]), encoding="utf-8")
    train = {**record["train"], "seeds": [seed], **_choose_workers(record), **precision}
    settings = {f"train.{key}": value for key, value in train.items()}
    settings |= {"variants": [variant], "data.dataset": record["data"]["dataset"]}
    assignments = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    _run_module(tree, "pipelines.params", *assignments, quiet=True)


def _recorded_precision(tags: Mapping[str, str]) -> dict[str, str]:
    """The precision of the training; ``train.precision: auto`` could choose another one here.

    The tags of its run have it. The record does not: it is written before the workers choose.
    """
    names = {str(dtype).removeprefix("torch."): setting for setting, dtype in SETTINGS.items()}
    return {"precision": names[tags["precision"]]} if "precision" in tags else {}


def _choose_workers(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded numbers of workers and threads if they fit this machine, else ``auto``.

    They determine the order in which floating-point sums are added.
    """
    workers, threads = record["workers"], record["threads"]
    fits = torch.cuda.device_count() >= workers if record["gpu"] else workers * threads <= usable_cores().number
    if fits or environment.get("RAY_ADDRESS"):
        return {"workers": workers, "threads": threads}
    kind = "GPU" if record["gpu"] else "CPU"
    print(f"{workers} {kind} worker(s) with {threads} thread(s) do not fit this machine", flush=True)
    return {"workers": "auto", "threads": "auto"}


def _run_module(tree: Path, module: str, *arguments: str, quiet: bool = False) -> None:
    """Run a module of the work tree's code; its output is discarded if ``quiet``.

    Raises:
        ExternalError: it fails.
    """
    variables = {
        "PYTHONPATH": str(tree),
        "DVC_ROOT": str(tree),
        "MLFLOW_TRACKING_URI": sqlite_address(tree / "state/mlflow.db"),
        "CHECKPOINT_STORAGE": "",  # it may hold checkpoints of the first training, under the same name
    }
    output = subprocess.DEVNULL if quiet else None
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=tree, env=os.environ | variables, stdout=output)
    if done.returncode:
        raise ExternalError(f"{module} of that commit failed with exit code {done.returncode}; see its messages above")


def _digest_of_model(tree: Path, variant: str, seed: int, data: Mapping[str, Any]) -> str:
    tensors = load_tensors(tree / "models" / variant / f"{seed}.safetensors")
    return digest_of(tensors, Normalization(data["mean"], data["std"]), data["classes"])
