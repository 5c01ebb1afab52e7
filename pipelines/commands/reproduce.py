"""reproduce: train a registered version again from its own commit, changes, settings and data; are the weights equal?

    python -m pipelines.commands.reproduce stn-cifar10 --version 3

All happens in a temporary work tree with a tracking store of its own; nothing of this one is touched.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from dvc.repo import Repo

from pipelines.outputs.prepared_data import PREPARED, load_tensors
from pipelines.registry.export import digest_of
from pipelines.registry.versions import find_version, record_of
from pipelines.runtime import environment
from pipelines.runtime.errors import ExternalError, UserError, run
from pipelines.runtime.files import read_json
from pipelines.runtime.home import state_dir
from pipelines.runtime.locks import locked
from pipelines.tracking.client import connect, store_errors_explained
from pipelines.tracking.lineage import libraries


def reproduce(name: str, wanted: str) -> str:
    """Train a version again and say how the result compares with it.

    Raises:
        UserError: no such model or version; its commit or its data are not here.
        ExternalError: its record is gone, or its training failed.
    """
    client = connect()
    version = find_version(client, name, wanted)
    record, tags = record_of(client, version), version.tags
    variant, seed, data = tags["variant"], int(tags["seed"]), record["data"]
    commit = record["git_commit"]
    if subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True).returncode:
        raise UserError(
            f"VERSION: {version.version} given; it was trained at commit {commit}, which this repository does not "
            f"have. git fetch may bring it"
        )
    for library, here in libraries().items():
        if (then := record["libraries"].get(library)) != here:
            print(f"{library}: {then} then, {here} here", flush=True)
    with _work_tree(commit, record["git_diff"]) as tree:
        _bring_data(data, tree / PREPARED)
        (tree / "variants" / f"{variant}.yaml").write_text(json.dumps(record["variant"]), encoding="utf-8")
        settings = {**record["train"], "seeds": [seed], **_workers(record)}
        changes = {f"train.{key}": value for key, value in settings.items()}
        changes |= {"variants": [variant], "data.dataset": data["dataset"]}
        _python(tree, "pipelines.params", *(f"{key}={json.dumps(value)}" for key, value in changes.items()), quiet=True)
        print(f"{name}, version {version.version}: {variant}, training seed {seed}, again at {commit[:10]}", flush=True)
        _python(tree, "pipelines.train", "--variant", variant)
        tensors = load_tensors(tree / "models" / variant / f"{seed}.safetensors")
        if digest_of(tensors, data) == tags["model_digest"]:
            return "the weights are equal, bit for bit"
        _python(tree, "pipelines.evaluate")
        again = read_json(tree / "metrics/evaluate.json")["variants"][variant]["seeds"][str(seed)]["test_accuracy"]
    before = float(tags["test_accuracy"])
    return (
        f"the weights differ; test accuracy {again:.2%}, registered {before:.2%}: {(again - before) * 100:+.2f} points"
    )


@contextmanager
def _work_tree(commit: str, diff: str):
    """A temporary work tree at a commit, changed by a diff, its own home for all state; gone after the block."""
    subprocess.run(["git", "worktree", "prune"], check=True)  # of a start that was killed
    folder = Path(tempfile.mkdtemp(dir=state_dir("reproduce")))
    tree = folder / "tree"
    try:
        with locked(f"reproduce-{folder.name}"):  # make clean-all leaves it alone
            subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], check=True)
            if diff:
                apply = ["git", "apply", "--whitespace=nowarn"]
                done = subprocess.run(apply, cwd=tree, input=diff, text=True, capture_output=True)
                if done.returncode:
                    raise ExternalError(
                        f"the changes recorded beside commit {commit} do not apply to it: {done.stderr}"
                    )
            yield tree
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["git", "worktree", "prune"], check=True)


def _bring_data(data: dict[str, Any], target: Path) -> None:
    """The prepared data of this digest: those that lie here, else those that DVC's cache has kept."""
    if PREPARED.joinpath("meta.json").exists() and read_json(PREPARED / "meta.json")["digest"] == data["digest"]:
        shutil.copytree(PREPARED, target)
        return
    cache = Path(Repo().cache.local.path)
    for listing in cache.glob("*/*.dir"):
        files = {entry["relpath"]: _cached(cache, entry["md5"]) for entry in json.loads(listing.read_text())}
        meta = files.get("meta.json")
        if meta is None or not meta.exists() or read_json(meta).get("digest") != data["digest"]:
            continue
        if all(file.exists() for file in files.values()):
            for name, file in files.items():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / name)
            return
    raise UserError(
        f"VERSION: its data, {data['dataset']} from {data['source']} of digest {data['digest'][:12]}, are neither in "
        f"{PREPARED} nor in DVC's cache; prepare them again, or get them by dvc fetch --all-commits"
    )


def _cached(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _workers(record: dict[str, Any]) -> dict[str, Any]:
    """The workers that trained it, which decide the order in which is added; where they do not fit, those that do."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fits = record["workers"] * record["threads"] <= cores
    if record["gpu"]:
        fits = torch.cuda.device_count() >= record["workers"]
    if fits or environment.value("RAY_ADDRESS"):
        return {"workers": record["workers"], "threads": record["threads"]}
    kind = "GPU" if record["gpu"] else "CPU"
    print(f"{record['workers']} {kind} worker(s) of {record['threads']} thread(s) do not fit here", flush=True)
    return {"workers": "auto", "threads": "auto"}


def _python(tree: Path, module: str, *arguments: str, quiet: bool = False) -> None:
    """Run a module of the work tree's own code."""
    own = {"PYTHONPATH": str(tree), "DVC_ROOT": str(tree), "MLFLOW_TRACKING_URI": f"sqlite:///{tree}/state/mlflow.db"}
    own["CHECKPOINT_STORAGE"] = ""  # where those of the first training may lie, under the same name
    output = subprocess.DEVNULL if quiet else None
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=tree, env=os.environ | own, stdout=output)
    if done.returncode:
        raise ExternalError(
            f"{module} of that commit ended with exit code {done.returncode}; its own words stand above"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.reproduce",
        description="Train a registered version again and compare the weights.",
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", default="champion", help="its number or an alias; champion if left out")
    arguments = parser.parse_args()
    with store_errors_explained("nothing was changed"):
        said = reproduce(arguments.model, arguments.version)
    print(f"{arguments.model}: {said}")


if __name__ == "__main__":
    run(main)
