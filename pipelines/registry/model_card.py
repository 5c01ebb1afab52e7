"""What a registered version is, for people: the description that MLflow's UI shows beside it, as Markdown."""

from pipelines.outputs.evaluation_results import MOTIONS
from pipelines.outputs.trained_models import Trained

PLAIN = "plain"  # the variant without a transformer, which every other is held against


def version_card(name: str, number: str, model: Trained, meta: dict, metrics: dict, run_link: str) -> str:
    """The card of one version.

    Args:
        metrics: what the stage evaluate wrote.
        run_link: address of the version's run within the UI, ``#/experiments/…/runs/…``.
    """
    of_all, transformer = metrics["variants"], model.record["variant"]["transformer"]
    own = of_all[model.variant]
    rivals = [model.variant] + ([PLAIN] if PLAIN in of_all and model.variant != PLAIN else [])
    over = {f"mean over {motion}": [of_all[v]["robustness"][motion.name] for v in rivals] for motion in MOTIONS}
    rows = {
        "test accuracy of the chosen model": [f"{of_all[v]['chosen_test_accuracy']:.2%}" for v in rivals],
        "calibration error": [f"{of_all[v]['calibration_error']:.2%}" for v in rivals],
        "test accuracy over training seeds": [_over_seeds(of_all[v]) for v in rivals],
        **{what: [f"{accuracy:.2%}" for accuracy in accuracies] for what, accuracies in over.items()},
        "parameters": [f"{of_all[v]['parameters']:,}" for v in rivals],
        "multiply-adds": [f"{of_all[v]['multiply_adds']:,}" for v in rivals],
    }
    table = [
        f"| on {meta['counts']['test']:,} test images | {' | '.join(rivals)} |",
        f"|---|{'---:|' * len(rivals)}",
        *(f"| {what} | {' | '.join(values)} |" for what, values in rows.items()),
    ]
    if (pair := metrics["pairs"].get(f"{model.variant} vs {PLAIN}")) is not None:
        table += [
            "",
            f"Against {PLAIN} on the same images: {pair['difference'] * 100:+.2f} points, interval "
            f"{pair['low'] * 100:+.2f} to {pair['high'] * 100:+.2f}, McNemar's exact p = {pair['p_value']:.2g}.",
        ]
    links = []
    if transformer is not None:
        links = [("what the transformer does", "theta/grids.png"), ("its worst mistakes", "theta/worst.png")]
    links += [
        ("accuracy under rotation, scale and shift", "evaluation/robustness.png"),
        ("reliability diagram", "evaluation/reliability.png"),
        ("comparison of all variants", "evaluation/comparison.md"),
        ("report", "evaluation/report.html"),
    ]
    shape = ", ".join(map(str, meta["image_shape"]))
    worst = sorted(own["class_accuracy"].items(), key=lambda item: item[1])[:3]
    lines = [
        f"{model.variant}, training seed {model.seed}: {own['chosen_test_accuracy']:.2%} of the test images are right. "
        f"{_what(transformer, model.record['variant']['classifier'])} "
        f"uint8 images (B, {shape}) go in; class, probabilities of {len(meta['classes'])} classes"
        f"{' and θ' if transformer else ''} come out.",
        "",
        f"**Data**: {meta['dataset']}, from {meta['source']}: {meta['counts']['train']:,} training, "
        f"{meta['counts']['validation']:,} validation and {meta['counts']['test']:,} test images{_distorted(meta)}. "
        f"Digest `{meta['digest'][:12]}`.",
        "",
        *table,
        "",
        "Pictures and tables, with the run: " + ", ".join(f"[{what}]({run_link}/artifacts/{at})" for what, at in links),
        "",
        f"**Limits**: images of another size must be resized to {meta['image_shape'][1]}×{meta['image_shape'][2]} as "
        f"in training (`make predict` does). Weakest classes on the test images: "
        + ", ".join(f"{label} {accuracy:.1%}" for label, accuracy in worst)
        + ". Nothing is known of images of other origin.",
        "",
        "**Use**: in an environment with mlflow, torch and numpy:",
        "",
        "```python",
        "import mlflow",
        f'model = mlflow.pyfunc.load_model("models:/{name}/{number}")',
        'answer = model.predict(images)  # names: model.metadata.metadata["classes"]',
        "```",
        "",
        f"**Origin**: `make provenance MODEL={name} VERSION={number}`.",
    ]
    return "\n".join(lines)


def model_card(name: str, meta: dict, comparison: str) -> str:
    """The card of a registered model as a whole; ``comparison`` is the table that the stage evaluate wrote."""
    return "\n".join(
        [
            f"Classifiers of {meta['dataset']} ({', '.join(meta['classes'][:12])}"
            f"{', …' if len(meta['classes']) > 12 else ''}), with and without a spatial transformer. The alias "
            f"`champion` is for use, `challenger` the best on validation of the last `dvc repro`; "
            f"`make promote MODEL={name}` puts it to the test.",
            "",
            "```python",
            "import mlflow",
            f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
            "```",
            "",
            comparison,
        ]
    )


def _what(transformer: dict | None, classifier: dict) -> str:
    layers = [(len(classifier["channels"]), "convolution"), (len(classifier["hidden"]) + 1, "linear layer")]
    classifies = " and ".join(f"{count} {name}{'s' * (count > 1)}" for count, name in layers if count)
    if transformer is None:
        return f"{classifies}, without a spatial transformer."
    families, heads = transformer["transform"], transformer["parallel"]
    kind = families if isinstance(families, str) else ", then ".join(families)
    number = "A spatial transformer" if heads == 1 else f"{heads} spatial transformers side by side"
    return f"{number} ({kind}; padding {transformer['padding_mode']}) before {classifies}."


def _over_seeds(values: dict) -> str:
    if len(values["seeds"]) < 2:
        return "one seed"
    return f"{values['test_accuracy'] * 100:.2f} ± {values['test_accuracy_std'] * 100:.2f} %"


def _distorted(meta: dict) -> str:
    distortion = meta["distortion"]
    if "protocol" in distortion:
        return f", distorted by the protocol {distortion['protocol']}"
    if not distortion["rotation"] and not distortion["shift"] and distortion["scale"] == [1.0, 1.0]:
        return ""
    low, high = distortion["scale"]
    return (
        f", distorted (rotation to ±{distortion['rotation']:g}°, scale {low:g} to {high:g}, "
        f"shift to ±{distortion['shift']:.0%})"
    )
