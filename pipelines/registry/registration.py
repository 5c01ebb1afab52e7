"""Registers trained models as versions of ``stn-<dataset>``."""

import shutil
import tempfile
from pathlib import Path

from pipelines.outputs.evaluation_results import COMPARISON
from pipelines.outputs.prepared_data import load_meta, load_split
from pipelines.outputs.reports import PICTURES
from pipelines.outputs.trained_models import Trained, best_on_validation, load_trained
from pipelines.registry import champion
from pipelines.registry.export import digest_of, export, register_network
from pipelines.registry.model_card import model_card, version_card
from pipelines.registry.versions import aliases_of, list_versions
from pipelines.runtime.files import read_json, replacing, write_json
from pipelines.runtime.home import state_dir
from pipelines.tracking.client import TrainingRun, connect, experiment_id, log_files, run_exists
from pipelines.tracking.outbox import Outbox
from stn.distortions import make_distortion

REGISTERED = Path("registered.json")


REPORTS = (Path("reports/report.html"), COMPARISON)


def register(variants: list[str], tags: dict[str, str]) -> dict:
    """Register what is not registered yet, point ``challenger`` to the best; returns what registered.json says."""
    meta, metrics = load_meta(), read_json(Path("metrics/evaluate.json"))
    name = f"stn-{meta['dataset']}"
    client = connect()
    chosen = [best_on_validation(load_trained(variant, meta)) for variant in variants]
    versions = {model.variant: _register_one(client, name, model, meta, metrics, tags) for model in chosen}
    for model in chosen:
        _describe(client, name, versions[model.variant], model, meta, metrics)
    client.update_registered_model(name, model_card(name, meta, COMPARISON.read_text(encoding="utf-8")))

    best = best_on_validation(chosen)
    challenger = versions[best.variant]
    client.set_registered_model_alias(name, "challenger", challenger)
    with champion.promotion_lock(client, name):
        current = aliases_of(client, name).get("champion")
        if current is None:
            current = challenger
            champion.record(client, name, champion.decide(champion.INITIAL, None, current))

    folder = state_dir("reports", meta["dataset"])
    for report in REPORTS:
        with replacing(folder / report.name) as beside:
            shutil.copyfile(report, beside)
    registered = {"model": name, "versions": versions, "challenger": challenger, "champion": current}
    write_json(REGISTERED, registered)
    return registered


def _register_one(client, name: str, model: Trained, meta: dict, metrics: dict, tags: dict[str, str]) -> str:
    """The version of this very model: the registered one, else a new one."""
    digest = digest_of(model.network.state_dict(), meta)
    for version in list_versions(client, name):
        if (version.tags.get("model_digest"), version.tags.get("trained_in")) == (digest, model.run_id):
            for key, value in tags.items():
                client.set_model_version_tag(name, version.version, key, value)
            return str(version.version)
    run_id = model.run_id
    if not run_exists(client, run_id):
        run_id = _restore_run(client, name, model, meta, metrics)
    of_variant = metrics["variants"][model.variant]
    all_tags = tags | {
        "variant": model.variant,
        "seed": str(model.seed),
        "validation_accuracy": f"{model.validation['validation_accuracy']:.4f}",
        "test_accuracy": f"{of_variant['seeds'][str(model.seed)]['test_accuracy']:.4f}",
        "parameters": str(of_variant["parameters"]),
        "model_digest": digest,
        "data_digest": meta["digest"],
        "git_commit": model.record["git_commit"],
        "git_dirty": model.record["git_dirty"],
        "trained_in": model.run_id,
    }
    if (origin := model.record["variant"]["origin"]) is not None:
        all_tags |= {key: str(value) for key, value in origin.items()}
    images = load_split("validation").images[:1].repeat(2, 1, 1, 1)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "network.pt2"
        outputs = {key: value.numpy() for key, value in export(model, meta, images, program).items()}
        registered = register_network(
            name, model.variant, run_id, program, images.numpy(), outputs, _about(model, meta), all_tags
        )
    return str(registered.version)


def _about(model: Trained, meta: dict) -> dict:
    transformer = model.record["variant"]["transformer"]
    about = {key: meta[key] for key in ("dataset", "classes", "image_shape", "mean")}
    about["canvas"] = make_distortion(**meta["distortion"]).canvas
    return about | {"variant": model.variant, "padding_mode": transformer and transformer["padding_mode"]}


def _describe(client, name: str, number: str, model: Trained, meta: dict, metrics: dict) -> None:
    """Write the version's card, and put what it points to into the version's run."""
    run = client.get_run(client.get_model_version(name, number).run_id)
    log_files(
        client, run.info.run_id, [*REPORTS, PICTURES / "robustness.png", PICTURES / "reliability.png"], "evaluation"
    )
    link = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    client.update_model_version(name, number, version_card(name, number, model, meta, metrics, link))


def _restore_run(client, name: str, model: Trained, meta: dict, metrics: dict) -> str:
    """The run of a model whose own run is in another store, made anew from its recorded history and marked so."""
    key, experiment = f"restored-{model.run_id}", experiment_id(client, name)
    with Outbox(client, key) as delivery:
        restored = TrainingRun(delivery, experiment, key, f"{model.variant}-{model.seed}")
        restored.describe_training(model.variant, model.seed, model.record, meta)
        restored.describe(tags={"restored_from_run": model.run_id})
        for entry in model.history:
            restored.log_epoch(entry)
        restored.log_summary_metrics(metrics["variants"][model.variant]["seeds"][str(model.seed)])
        for picture in sorted((PICTURES / model.variant).glob("*.png")):
            restored.log_file(picture, "theta")
        restored.end("FINISHED")
    return restored.run_id
