"""provenance: from a registered version to everything that made it, and back from a commit or data to versions.

python -m pipelines.commands.provenance stn-cifar10 --version 3
python -m pipelines.commands.provenance --commit 1a2b3c4
python -m pipelines.commands.provenance --data 4e23ec36
"""

import argparse
import subprocess
from datetime import datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipelines.registry import champion
from pipelines.registry.versions import aliases_of, find_version, record_of
from pipelines.runtime.errors import UserError, run
from pipelines.tracking.client import DIFF, connect, flatten, store_errors_explained
from pipelines.tracking.outbox import KEY_TAG

TRAINING_METRICS = ("test_accuracy", "validation_accuracy", "validation_loss", "train_loss", "images_per_second")

MACHINE = ("workers", "threads", "gpu", "device", "precision")


def provenance(client: MlflowClient, name: str, wanted: str) -> dict[str, dict[str, Any]]:
    """Everything that made a version, in sections.

    Raises:
        UserError: there is no such model or version.
        ExternalError: its run, or the record in it, is gone.
    """
    version = find_version(client, name, wanted)
    record, tags = record_of(client, version), version.tags
    training_run = client.get_run(version.run_id or "")
    aliases = [alias for alias, number in aliases_of(client, name).items() if number == str(version.version)]
    data = record["data"]
    sections: dict[str, dict[str, Any]] = {
        "version": {
            "model": f"{name}, version {version.version}", "aliases": ", ".join(aliases) or "none",
            "registered": _time(version.creation_timestamp), "variant": tags["variant"], "seed": tags["seed"],
            "parameters": f"{int(tags['parameters']):,}", "model_digest": tags["model_digest"],
        },
        "code": _code(record) | ({"diff": _diff(training_run, record)} if record["git_diff"] else {}),
        "data": {
            "dataset": data["dataset"], "source": data["source"], "digest": data["digest"],
            "images": ", ".join(f"{count:,} {split}" for split, count in data["counts"].items()),
            "shape": "×".join(map(str, data["image_shape"])), "classes": len(data["classes"]),
            "distortion": _inline(data["distortion"]),
        },
        "run": {
            "id": training_run.info.run_id, "name": training_run.info.run_name,
            "started": _time(training_run.info.start_time), "ended": _time(training_run.info.end_time),
        },
        "train": {key: _inline(value) for key, value in record["train"].items() if key != "seeds"},
        "variant": _variant(record["variant"]),
        "machine": {key: training_run.data.tags.get(key, "unknown") for key in MACHINE},
        "libraries": record["libraries"],
        "metrics": {
            key: f"{value:.4f}" for key, value in sorted(training_run.data.metrics.items())
            if key in TRAINING_METRICS or key.startswith("test_")
        },
    }  # fmt: skip
    if "restored_from_run" in training_run.data.tags:
        sections["run"]["restored_from_run"] = training_run.data.tags["restored_from_run"]
    if (origin := record["variant"]["origin"]) is not None:
        sections["study"] = _study(client, f"stn-{data['dataset']}", origin)
    decisions = [d for d in champion.history(client, name) if str(version.version) in (d.after, d.before)]
    if decisions:
        sections["decisions"] = {_time(d.at): f"{d.outcome}: {d.before} → {d.after}, by {d.by}" for d in decisions}
    return sections


def made_from(client: MlflowClient, tag: str, start: str, name: str | None = None) -> list[ModelVersion]:
    """All versions, of all models or of one, whose tag begins so; the oldest first."""
    of = f"name = '{name}'" if name else None
    versions = [v for v in client.search_model_versions(of) if v.tags.get(tag, "").startswith(start)]
    return sorted(versions, key=lambda version: version.creation_timestamp)


def _code(record: dict) -> dict[str, str]:
    sha = record["git_commit"]
    shown = subprocess.run(["git", "show", "-s", "--format=%cs %s", sha], capture_output=True, text=True)
    about = {"subject": shown.stdout.strip() if shown.returncode == 0 else "not in this repository"}
    return {"git_commit": sha} | about | {"uncommitted_changes": "yes" if record["git_diff"] else "none"}


def _diff(training_run, record: dict) -> str:
    files = sum(line.startswith("diff --git") for line in record["git_diff"].splitlines())
    return f"of {files} file(s), {training_run.info.artifact_uri}/{DIFF}"


def _study(client: MlflowClient, experiment: str, origin: dict) -> dict[str, Any]:
    """The study and trial that a variant comes from, with their runs where the store at hand has them."""
    found = client.get_experiment_by_name(experiment)
    parents = client.search_runs([found.experiment_id], f"tags.study = '{origin['study']}'") if found else []
    section = {"study": origin["study"], "trial": "none, the baseline network won"}
    if origin["trial"] is not None:
        section["trial"] = origin["trial"]
    if found and parents:
        section["study_run"] = parents[0].info.run_id
        of_trial = f"tags.{KEY_TAG} = '{origin['study']}/trial-{origin['trial']}'"
        trials = client.search_runs([found.experiment_id], of_trial)
        section["trial_run"] = ", ".join(trial.info.run_id for trial in trials) or "none"
    return section


def _variant(variant: dict) -> dict[str, str]:
    flat = flatten({key: value for key, value in variant.items() if key != "origin"})
    return {key: _inline(value) for key, value in flat.items()}


def _inline(value: Any) -> str:
    return ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, dict) else str(value)


def _time(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "unknown"
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def _answer(client: MlflowClient, arguments: argparse.Namespace) -> None:
    for setting, tag, start in (("COMMIT", "git_commit", arguments.commit), ("DATA", "data_digest", arguments.data)):
        if start is not None:
            found = made_from(client, tag, start, arguments.model)
            if not start or not found:
                raise UserError(f"{setting}: {start!r} given; no version was made from it")
            for version in found:
                dirty = ", with uncommitted changes" if version.tags.get("git_dirty") == "true" else ""
                print(
                    f"{version.name} version {version.version}: {version.tags['variant']}, "
                    f"commit {version.tags['git_commit'][:10]}{dirty}, data {version.tags['data_digest'][:12]}, "
                    f"{_time(version.creation_timestamp)}"
                )
            return
    if arguments.model is None:
        raise UserError("MODEL: none given; name a registered model, or give COMMIT or DATA")
    for section, entries in provenance(client, arguments.model, arguments.version).items():
        print(f"{section}")
        for key, value in entries.items():
            print(f"  {key:<28} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.provenance",
        description="What a registered version was made from; or which versions were made from a commit, or from data.",
    )
    parser.add_argument("model", nargs="?", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", default="champion", help="its number or an alias; champion if left out")
    back = parser.add_mutually_exclusive_group()
    back.add_argument("--commit", help="list what was made from this commit; its first digits suffice")
    back.add_argument("--data", help="list what was made from data of this digest; its first digits suffice")
    arguments = parser.parse_args()
    with store_errors_explained("nothing was changed"):
        _answer(connect(), arguments)


if __name__ == "__main__":
    run(main)
