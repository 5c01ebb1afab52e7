"""Provenance: from a registered version to its code, data, settings and study, and from code or data to versions.

Records and tags of runs may have been written at any earlier commit, so they stay plain JSON values.
"""

import subprocess
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from pipelines.registry.champion import read_history
from pipelines.registry.versions import aliases_of, find_version, record_of
from pipelines.settings.dotted_names import flatten
from pipelines.tracking.client import DIFF
from pipelines.tracking.store_writer import KEY_TAG

TRAINING_METRICS = ("train_loss", "images_per_second")
MACHINE_TAGS = ("workers", "threads", "gpu", "device", "precision")


class Section(NamedTuple):
    """A part of a version's provenance: a title, and texts by name."""

    title: str
    entries: Mapping[str, str]


def trace_version(client: MlflowClient, name: str, wanted: str) -> list[Section]:
    """Return the provenance of a version.

    Args:
        client: client of the tracking store.
        name: registered model.
        wanted: number or alias of the version.

    Raises:
        UserError: the registry has no such model or version.
        ExternalError: the version's run, or the training record in it, is missing.
    """
    version = find_version(client, name, wanted)
    number = str(version.version)
    record = record_of(client, version)
    run = client.get_run(version.run_id or "")
    aliases = [alias for alias, of_alias in aliases_of(client, name).items() if of_alias == number]
    sections = [
        _version_section(version, aliases),
        _code_section(record, run),
        _data_section(record["data"]),
        _run_section(run),
        Section("train", {key: _inline(value) for key, value in record["train"].items() if key != "seeds"}),
        _variant_section(record["variant"]),
        Section("machine", {tag: run.data.tags.get(tag, "unknown") for tag in MACHINE_TAGS}),
        Section("libraries", record["libraries"]),
        _metrics_section(run),
    ]
    if (origin := record["variant"]["origin"]) is not None:
        sections.append(_study_section(client, f"stn-{record['data']['dataset']}", origin))
    decisions = [decision for decision in read_history(client, name) if number in (decision.after, decision.before)]
    if decisions:
        lines = {format_time(d.time_ms): f"{d.outcome}: {d.before} → {d.after}, by {d.by}" for d in decisions}
        sections.append(Section("decisions", lines))
    return sections


def find_versions(client: MlflowClient, tag: str, prefix: str, name: str | None = None) -> list[ModelVersion]:
    """Return the versions whose ``tag`` starts with ``prefix``, oldest first; ``name`` limits them to one model."""
    versions = client.search_model_versions(f"name = '{name}'" if name else None)
    matching = [version for version in versions if version.tags.get(tag, "").startswith(prefix)]
    return sorted(matching, key=lambda version: version.creation_timestamp)


def format_time(milliseconds: int | None) -> str:
    """Return the local time of a timestamp in milliseconds since 1970."""
    if milliseconds is None:
        return "unknown"
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def _version_section(version: ModelVersion, aliases: list[str]) -> Section:
    tags = version.tags
    entries = {
        "model": f"{version.name}, version {version.version}",
        "aliases": ", ".join(aliases) or "none",
        "registered": format_time(version.creation_timestamp),
        "variant": tags["variant"],
        "seed": tags["seed"],
        "parameters": f"{int(tags['parameters']):,}",
        "model_digest": tags["model_digest"],
    }
    return Section("version", entries)


def _code_section(record: Mapping[str, Any], run: Run) -> Section:
    commit, diff = record["git_commit"], record["git_diff"]
    shown = subprocess.run(["git", "show", "-s", "--format=%cs %s", commit], capture_output=True, text=True)
    entries = {
        "git_commit": commit,
        "subject": shown.stdout.strip() if shown.returncode == 0 else "not in this repository",
        "uncommitted_changes": "yes" if diff else "none",
    }
    if diff:
        files = sum(line.startswith("diff --git") for line in diff.splitlines())
        entries["diff"] = f"of {files} file(s), {run.info.artifact_uri}/{DIFF}"
    return Section("code", entries)


def _data_section(data: Mapping[str, Any]) -> Section:
    entries = {
        "dataset": data["dataset"],
        "source": data["source"],
        "digest": data["digest"],
        "images": ", ".join(f"{count:,} {split}" for split, count in data["counts"].items()),
        "shape": "×".join(map(str, data["image_shape"])),
        "fit": data.get("fit", "stretch"),
        "classes": str(len(data["classes"])),
        "distortion": _inline(data["distortion"]),
    }
    return Section("data", entries)


def _run_section(run: Run) -> Section:
    entries = {
        "id": run.info.run_id,
        "name": run.info.run_name or "",
        "started": format_time(run.info.start_time),
        "ended": format_time(run.info.end_time),
    }
    if "restored_from_run" in run.data.tags:
        entries["restored_from_run"] = run.data.tags["restored_from_run"]
    return Section("run", entries)


def _variant_section(variant: Mapping[str, Any]) -> Section:
    settings = flatten({key: value for key, value in variant.items() if key != "origin"})
    return Section("variant", {key: _inline(value) for key, value in settings.items()})


def _metrics_section(run: Run) -> Section:
    entries = {
        key: f"{value:.4f}"
        for key, value in sorted(run.data.metrics.items())
        if key in TRAINING_METRICS or key.startswith(("test_", "validation_"))
    }
    return Section("metrics", entries)


def _study_section(client: MlflowClient, experiment: str, origin: Mapping[str, Any]) -> Section:
    """Return the study and trial that a variant comes from, with their runs if the store has them."""
    study, trial = origin["study"], origin["trial"]
    entries = {"study": study, "trial": "none, the baseline network won" if trial is None else str(trial)}
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return Section("study", entries)
    parents = client.search_runs([found.experiment_id], f"tags.study = '{study}'")
    if parents:
        trials = client.search_runs([found.experiment_id], f"tags.{KEY_TAG} = '{study}/trial-{trial}'")
        entries["study_run"] = parents[0].info.run_id
        entries["trial_run"] = ", ".join(run.info.run_id for run in trials) or "none"
    return Section("study", entries)


def _inline(value: Any) -> str:
    """Return a JSON value as one line of text."""
    return ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, dict) else str(value)
