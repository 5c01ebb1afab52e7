"""Registration of trained models as versions of ``stn-<dataset>``."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from pipelines.outputs.evaluation_results import COMPARISON, EvaluationResults, describe_trouble, read_results
from pipelines.outputs.prepared_data import DatasetMeta, load_meta, load_split
from pipelines.outputs.reports import PICTURES, REPORT
from pipelines.outputs.trained_models import Trained, best_on_validation, load_trained, trouble_tags
from pipelines.registry.champion import Outcome, apply_decision, make_decision, promotion_lock
from pipelines.registry.export import NewVersion, digest_of, export, register_network
from pipelines.registry.model_card import VersionLinks, fit_description, model_card, version_card
from pipelines.registry.model_metadata import ModelMetadata
from pipelines.registry.registered_versions import RegisteredVersions, write_registered
from pipelines.registry.theta_tags import ThetaTags
from pipelines.registry.versions import aliases_of, list_versions
from pipelines.runtime.files import replace_atomically
from pipelines.runtime.home import state_dir
from pipelines.runtime.locks import hold_lock
from pipelines.settings.metric import Metric
from pipelines.tracking.client import Dataset, TrainingRun, connect, experiment_id, log_files, run_exists
from pipelines.tracking.outbox import Outbox
from stn.theta_trouble import first_epochs


def register(variants: Sequence[str], tags: Mapping[str, str]) -> RegisteredVersions:
    """Register each variant's best model on validation, unless it is registered already, and set the aliases.

    Models are compared by the metric of the results of the stage evaluate.
    ``challenger`` points to the best of these models. It becomes ``champion`` if there is none and if its θ has no
    trouble on the test images.

    Args:
        variants: variants to register.
        tags: tags of each version, from the section ``register`` of params.yaml.
    """
    meta, results = load_meta(), read_results()
    registrar = Registrar(connect(), f"stn-{meta.dataset}", meta, results)
    # Two experiments with a model in common would register it twice if they looked for it at the same moment.
    with hold_lock(f"register-{registrar.name}"):
        return _register(registrar, variants, tags)


def _register(registrar: "Registrar", variants: Sequence[str], tags: Mapping[str, str]) -> RegisteredVersions:
    client, name, meta, results = registrar.client, registrar.name, registrar.meta, registrar.results
    chosen = [best_on_validation(load_trained(variant, meta), results.metric) for variant in variants]
    versions = {model.variant: registrar.register(model, tags) for model in chosen}
    for model in chosen:
        registrar.describe(versions[model.variant], model)
    card = model_card(name, meta, COMPARISON.read_text(encoding="utf-8"), results.metric)
    whole = f"evaluation/{COMPARISON.name} among the artifacts of each version's run"
    client.update_registered_model(name, fit_description(card, whole))

    best = best_on_validation(chosen, results.metric)
    challenger, trouble = versions[best.variant], results.variants[best.variant].seeds[best.seed].trouble
    client.set_registered_model_alias(name, "challenger", challenger)
    with promotion_lock(client, name):
        champion = aliases_of(client, name).get("champion")
        if champion is None and trouble:
            print(
                f"{name}: there is no champion, and version {challenger} ({best.variant}) does not become it by "
                f"itself: {describe_trouble(trouble)}. To promote it anyway: "
                f"make promote MODEL={name} VERSION={challenger}",
                flush=True,
            )
        elif champion is None:
            champion = challenger
            apply_decision(client, name, make_decision(Outcome.INITIAL, None, champion))

    reports = state_dir("reports", meta.dataset)
    for report in (REPORT, COMPARISON):
        with replace_atomically(reports / report.name) as temporary:
            shutil.copyfile(report, temporary)
    registered = RegisteredVersions(name, versions, challenger, champion)
    write_registered(registered)
    return registered


CARD = "evaluation/card.md"  # artifact of a version's run, if the card is too long for a description


@dataclass(frozen=True)
class Registrar:
    """Registers trained models of one data set as versions of one registered model.

    Args:
        client: client of the tracking store.
        name: registered model.
        meta: data of the models.
        results: results of the stage evaluate.
    """

    client: MlflowClient
    name: str
    meta: DatasetMeta
    results: EvaluationResults

    def register(self, model: Trained, tags: Mapping[str, str]) -> str:
        """Return the number of the model's version, which is created if missing.

        A version belongs to a model if both its weights and its training are the model's.
        """
        normalization, classes = self.meta.normalization, self.meta.classes
        digest = digest_of(model.network.state_dict(), normalization, classes)
        for version in list_versions(self.client, self.name):
            if (version.tags.get("model_digest"), version.tags.get("trained_in")) == (digest, model.run_id):
                for key, value in {**tags, **self._evaluation_tags(model)}.items():
                    self.client.set_model_version_tag(self.name, version.version, key, value)
                return str(version.version)
        run_id = model.run_id if run_exists(self.client, model.run_id) else self._restore_run(model)
        images = load_split("validation").images[:1].repeat(2, 1, 1, 1)
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "network.pt2"
            outputs = export(model, self.meta, images, program)
            new = NewVersion(
                name=self.name,
                variant=model.variant,
                run_id=run_id,
                program=program,
                example=images.numpy(),
                outputs={key: values.numpy() for key, values in outputs.items()},
                metadata=ModelMetadata.from_trained(model, self.meta),
                tags={**tags, **self._tags(model, digest)},
            )
            return str(register_network(new).version)

    def describe(self, number: str, model: Trained) -> None:
        """Write the version's card, and the files that it links to into the version's run."""
        run = self.client.get_run(self.client.get_model_version(self.name, number).run_id or "")
        files = [REPORT, COMPARISON, PICTURES / "robustness.png", PICTURES / "reliability.png"]
        files.append(PICTURES / f"confusion-{model.variant}.png")
        log_files(self.client, run.info.run_id, files, "evaluation")
        links = VersionLinks(self.name, number, f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}")
        card = version_card(links, model, self.meta, self.results)
        description = fit_description(card, f"[{CARD}]({links.run}/artifacts/{CARD})")
        if description != card:
            self.client.log_text(run.info.run_id, card, CARD)
        self.client.update_model_version(self.name, number, description)

    def _tags(self, model: Trained, digest: str) -> dict[str, str]:
        """Return the tags of a model's version; ``digest`` is the model's."""
        results = self.results.variants[model.variant]
        tags = {
            "variant": model.variant,
            "seed": str(model.seed),
            "parameters": str(results.parameters),
            "model_digest": digest,
            "data_digest": self.meta.digest,
            "git_commit": model.record.git_commit,
            "git_dirty": model.record.git_dirty,
            "trained_in": model.run_id,
        }
        if (origin := model.record.variant.origin) is not None:
            tags |= {"study": origin.study, "trial": str(origin.trial)}
        return tags | self._evaluation_tags(model)

    def _evaluation_tags(self, model: Trained) -> dict[str, str]:
        """Return the tags that can change for a registered model: its metrics, what selected it, and its θ.

        The gates of a promotion read those on θ, see :class:`~pipelines.registry.theta_tags.ThetaTags`.
        """
        results = self.results.variants[model.variant].seeds[model.seed]
        metrics = {
            name: model.validation[name] for metric in Metric if (name := metric.on_validation) in model.validation
        }
        metrics |= results.on_test_by_name
        tags = {name: f"{value:.4f}" for name, value in metrics.items()}
        return tags | {"selected_by": str(self.results.metric)} | ThetaTags.from_results(results.theta).to_tags()

    def _restore_run(self, model: Trained) -> str:
        """Recreate the run of a model that was trained with another store, and return its id.

        Its epochs come from the model's history. The tag ``restored_from_run`` names the original run.
        """
        key, experiment = f"restored-{model.run_id}", experiment_id(self.client, self.name)
        record, seed = model.record, model.seed
        with Outbox(self.client, key) as outbox:
            run = TrainingRun(outbox, experiment, key, f"{model.variant}-{seed}")
            dataset = Dataset(self.meta.dataset, self.meta.digest, self.meta.source)
            run.describe_now(record.run_params(seed), record.run_tags(model.variant, seed), dataset, record.git_diff)
            run.log_record(record.to_json())
            trouble = trouble_tags(first_epochs(model.history, len(model.history)))
            run.describe(tags={"restored_from_run": model.run_id} | trouble)
            for metrics in model.history:
                run.log_epoch(metrics)
            results = self.results.variants[model.variant].seeds[seed]
            run.log_summary_metrics({**results.on_test_by_name, "test_loss": results.test_loss})
            for picture in sorted((PICTURES / model.variant).glob("*.png")):
                run.log_file(picture, "theta")
            run.end("FINISHED")
        return run.run_id
