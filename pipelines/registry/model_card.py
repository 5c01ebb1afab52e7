"""Model cards: the descriptions of registered models and their versions in MLflow's UI, as Markdown."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipelines.outputs.class_results import ClassScores, list_names, shorten, weakest
from pipelines.outputs.evaluation_results import (
    EvaluationResults,
    VariantResults,
    describe_never_right,
    describe_trouble,
)
from pipelines.outputs.motions import MOTIONS, UNDONE_MOTIONS
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.outputs.trained_models import Trained
from pipelines.settings.metric import Metric
from pipelines.settings.variants import (
    BackboneParams,
    ClassifierParams,
    OwnNetworkParams,
    TransformerParams,
    VariantParams,
)

PLAIN = "plain"  # the variant without a transformer; the others are compared with it
WEAKEST = 5  # classes in a card


LONGEST = 5000  # characters of a description that every database accepts; PostgreSQL refuses longer ones


def fit_description(card: str, whole: str) -> str:
    """Cut a card after a line, if it is longer than a description may be; ``whole`` says where all of it is found."""
    if len(card) <= LONGEST:
        return card
    pointer = f"\n\n… The whole text: {whole}"
    start = card[: LONGEST - len(pointer)]
    return (start.rpartition("\n")[0] or start) + pointer


class VersionLinks(NamedTuple):
    """Where a version is found.

    Args:
        name: registered model.
        number: number of the version.
        run: address of the version's run in MLflow's UI, ``#/experiments/…/runs/…``.
    """

    name: str
    number: str
    run: str


def version_card(links: VersionLinks, model: Trained, meta: DatasetMeta, results: EvaluationResults) -> str:
    """Return the card of one version.

    Args:
        links: the version and its run.
        model: the model that is registered as this version.
        meta: its data.
        results: results of the stage evaluate.
    """
    own, transformer = results.variants[model.variant], model.record.variant.front
    trouble, never_right = own.seeds[model.seed].trouble, own.seeds[model.seed].never_right
    shape = ", ".join(map(str, meta.image_shape))
    untested = [scores.name for scores in own.classes if not scores.images]
    lines = [
        f"{model.variant}, training seed {model.seed}: {own.chosen_test_accuracy:.2%} of the test images are "
        f"classified correctly; balanced accuracy {own.chosen.test_balanced_accuracy:.2%}, macro-F1 "
        f"{own.chosen.test_macro_f1:.2%}. {_describe_network(model.record.variant)} "
        f"Input: uint8 images (B, {shape}). Output: class, probabilities of {len(meta.classes)} classes"
        f"{', θ' if model.record.variant.all_transformers else ''}.",
        *([f"\n**Trouble**: {describe_trouble(trouble)}."] if trouble else []),
        *([f"\n**No right answer**: {describe_never_right(never_right, len(own.classes))}."] if never_right else []),
        "",
        f"**Data**: {meta.dataset}, from {meta.source}: {meta.counts['train']:,} training, "
        f"{meta.counts['validation']:,} validation and {meta.counts['test']:,} test images"
        f"{_describe_distortion(meta)}. Digest `{meta.digest[:12]}`.",
        "",
        *_results_table(model.variant, meta, results),
        "",
        *_class_table(own.classes),
        "",
        "Pictures and tables of the run: "
        + ", ".join(f"[{text}]({links.run}/artifacts/{file})" for text, file in _artifacts(model.variant, transformer)),
        "",
        f"**Limits**: images of another size must be {_describe_form(meta)}, as in training (`make predict` does). The "
        f"accuracy on images from other sources is unknown"
        f"{f', and on classes without test images: {list_names(untested)}' if untested else ''}.",
        "",
        "**Use**: in an environment with mlflow, torch and numpy:",
        "",
        "```python",
        "import mlflow",
        f'model = mlflow.pyfunc.load_model("models:/{links.name}/{links.number}")',
        'answer = model.predict(images)  # names: model.metadata.metadata["classes"]',
        "```",
        "",
        f"**Origin**: `make provenance MODEL={links.name} VERSION={links.number}`.",
    ]
    return "\n".join(lines)


def model_card(name: str, meta: DatasetMeta, comparison: str, metric: Metric) -> str:
    """Return the card of a registered model as a whole.

    Args:
        name: registered model.
        meta: its data.
        comparison: comparison of the variants by the stage evaluate, as Markdown.
        metric: what selects the challenger.
    """
    return "\n".join(
        [
            f"Classifiers of {meta.dataset} ({list_names(meta.classes)}), with and without a spatial transformer. The "
            f"alias `champion` is for use. `challenger` is the best model of the last `dvc repro` by validation "
            f"{metric.label}; `make promote MODEL={name}` compares it with the champion.",
            "",
            "```python",
            "import mlflow",
            f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
            "```",
            "",
            comparison,
        ]
    )


def _results_table(variant: str, meta: DatasetMeta, results: EvaluationResults) -> list[str]:
    """Return a table of the variant's results next to those of ``plain``, and a line on their difference."""
    names = [variant]
    if variant != PLAIN and PLAIN in results.variants:
        names.append(PLAIN)
    columns = [results.variants[name] for name in names]

    def row(title: str, cell: Callable[[VariantResults], str]) -> str:
        return f"| {title} | {' | '.join(map(cell, columns))} |"

    table = [
        f"| on {meta.counts['test']:,} test images | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
        *(
            row(f"test {metric.label} of the chosen model", lambda v, metric=metric: f"{v.chosen.on_test(metric):.2%}")
            for metric in Metric
        ),
        row("calibration error", lambda values: f"{values.calibration_error:.2%}"),
        *(
            row(f"test {metric.label} over training seeds", lambda v, metric=metric: _describe_seeds(v, metric))
            for metric in Metric
        ),
    ]
    for motion in MOTIONS:
        table.append(row(f"mean over {motion}", lambda values, name=motion.name: f"{values.robustness[name]:.2%}"))
    if results.variants[variant].alignment is not None:
        for motion in UNDONE_MOTIONS:
            table.append(row(f"share of {motion} that θ undoes", lambda v, name=motion.name: _describe_slope(v, name)))
    table += [
        row("parameters", lambda values: f"{values.parameters:,}"),
        row("multiply-adds", lambda values: f"{values.multiply_adds:,}"),
    ]
    if (pair := results.pairs.get(f"{variant} vs {PLAIN}")) is not None:
        table += [
            "",
            f"Against {PLAIN} in {results.metric.label} on the same images: {pair.difference * 100:+.2f} points, "
            f"interval {pair.low * 100:+.2f} to {pair.high * 100:+.2f}, {results.p_value_name} = {pair.p_value:.2g}.",
        ]
    return table


def _describe_seeds(results: VariantResults, metric: Metric) -> str:
    """Return mean and standard deviation of a metric on the test images over training seeds."""
    found = results.on_test(metric)
    return "one seed" if found.std is None else str(found)


def _class_table(classes: Sequence[ClassScores]) -> list[str]:
    """Return a table of the classes with the lowest F1."""
    shown = weakest(classes)[:WEAKEST]

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:.1%}"

    return [
        f"Lowest F1 on the test images ({len(shown)} of {len(classes)} classes):",
        "",
        "| class | images | precision | recall | F1 |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {shorten(c.name)} | {c.images:,} | {percent(c.precision)} | {percent(c.recall)} | {percent(c.f1)} |"
            for c in shown
        ),
    ]


def _describe_slope(results: VariantResults, motion: str) -> str:
    """Return how much of a motion the transformer undoes, with its interval."""
    return "no transformer" if results.alignment is None else str(results.alignment.slopes[motion])


def _artifacts(variant: str, transformer: TransformerParams | None) -> list[tuple[str, str]]:
    """Return link text and file of the run's artifacts."""
    artifacts = [
        ("accuracy under rotation, scale and shift", "evaluation/robustness.png"),
        ("reliability diagram", "evaluation/reliability.png"),
        ("confusion matrix", f"evaluation/confusion-{variant}.png"),
        ("comparison of all variants", "evaluation/comparison.md"),
        ("report", "evaluation/report.html"),
    ]
    if transformer is None:
        return artifacts
    return [
        ("effect of the transformer", "theta/grids.png"),
        ("what it undoes", "evaluation/undone.png"),
        ("mean images of the classes", "theta/means.png"),
        ("worst errors", "theta/worst.png"),
        *artifacts,
    ]


def _describe_network(variant: VariantParams) -> str:
    described = _describe_classifier(variant.classifier)
    if not variant.all_transformers:
        return f"{described}, without a spatial transformer."
    if (front := variant.front) is not None:
        number = "A spatial transformer" if front.parallel == 1 else f"{front.parallel} parallel spatial transformers"
        described = f"{number} ({_describe_transformer(front)}) before {described}"
    inner = [f"before {place} ({_describe_transformer(params)})" for place, params in variant.inner.items()]
    return f"{described}{', with a transformer inside ' if inner else ''}{' and '.join(inner)}."


def _describe_classifier(classifier: ClassifierParams) -> str:
    if isinstance(classifier, BackboneParams):
        return f"{classifier.backbone} of timm{' with pretrained weights' if classifier.pretrained else ''}"
    if isinstance(classifier, OwnNetworkParams):
        return classifier.module
    layers = [(len(classifier.channels), "convolution"), (len(classifier.hidden) + 1, "linear layer")]
    return " and ".join(f"{count} {layer}{'s' * (count > 1)}" for count, layer in layers if count)


def _describe_transformer(params: TransformerParams) -> str:
    families = params.transform
    kind = families if isinstance(families, str) else ", then ".join(families)
    return f"{kind}; padding {params.padding_mode}"


def _describe_form(meta: DatasetMeta) -> str:
    """Return what is done to images of another size."""
    form, (height, width) = meta.form, meta.image_shape[1:]
    fill = "the color of their edge" if form.fill == "edge" else f"color {form.fill}"
    described = {
        "stretch": f"resized to {form.height}×{form.width}",
        "pad": f"scaled to fit into {form.height}×{form.width} with their aspect ratio, and padded with {fill}",
        "crop": f"scaled to cover {form.height}×{form.width} with their aspect ratio, and cut to their middle",
    }[form.fit]
    on_canvas = (form.height, form.width) != (height, width)
    return f"{described}, and placed in the middle of a black canvas of {height}×{width}" if on_canvas else described


def _describe_distortion(meta: DatasetMeta) -> str:
    """Return ``, distorted …``; empty without a distortion."""
    distortion = meta.distortion
    if "protocol" in distortion:
        return f", distorted by the protocol {distortion['protocol']}"
    if not distortion["rotation"] and not distortion["shift"] and distortion["scale"] == [1.0, 1.0]:
        return ""
    low, high = distortion["scale"]
    return (
        f", distorted (rotation to ±{distortion['rotation']:g}°, scale {low:g} to {high:g}, "
        f"shift to ±{distortion['shift']:.0%})"
    )
