"""evaluate: every trained model on the test images, and the variants against each other.

Two different things are said, and which is which: mean ± std over training seeds (does the transformer pay?), and a
paired test between two models on the same images (is this model better than that one?). And beside both how much of
its accuracy each keeps on images that are turned, scaled and shifted.
"""

from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import run
from pipelines.params import EvaluateParams, load_params

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix

from pipelines import tracking
from pipelines.calibration import Bin, calibration_error, reliability
from pipelines.comparison import compare
from pipelines.prepared import Labeled, load_meta, load_split
from pipelines.progress import track
from pipelines.robustness import MOTIONS, area
from pipelines.state import write_json, write_text
from pipelines.trained import Trained, best_on_validation, device, load_trained
from stn.batches import Batches
from stn.layers import layers
from stn.training import predict

METRICS = Path("metrics/evaluate.json")
PLOTS = Path("plots/evaluate")
REPORT = Path("reports/comparison.md")


class Result(NamedTuple):
    """A model and its answers on the test images: classes, their probabilities and the cross-entropy, (N,) each."""

    model: Trained
    predicted: np.ndarray
    confidences: np.ndarray
    losses: np.ndarray


# Of one variant: motion → training seed → accuracy at each of the motion's amounts.
Curves = dict[str, dict[int, list[float]]]


def evaluate(variants: list[str], settings: EvaluateParams) -> dict:
    """Evaluate all models of all variants and write metrics, plots and the table; returns the metrics."""
    meta, test = load_meta(), load_split("test")
    batches = Batches(test.images, test.labels, meta["mean"], meta["std"], device())
    models = [model for variant in variants for model in load_trained(variant, meta)]
    results: dict[str, list[Result]] = {variant: [] for variant in variants}
    for model in track("evaluate", models, len(models)):
        network = model.network.to(device())
        logits, labels, _ = predict(network, batches.ordered(settings.batch_size))
        losses = F.cross_entropy(logits, labels, reduction="none")
        confidences, predicted = logits.softmax(1).max(1)
        answers = (values.cpu().numpy() for values in (predicted, confidences, losses))
        results[model.variant].append(Result(model, *answers))

    truth = test.labels.numpy()
    metrics: dict = {"variants": {}, "pairs": {}}
    chosen: dict[str, Result] = {}
    for variant, of_variant in results.items():
        best = best_on_validation([result.model for result in of_variant])
        chosen[variant] = next(result for result in of_variant if result.model is best)
        metrics["variants"][variant] = _variant_metrics(of_variant, chosen[variant], truth, meta)
    curves = _robustness(results, test, meta, settings)
    for variant, of_variant in curves.items():
        metrics["variants"][variant]["robustness"] = {
            motion.name: float(np.mean([area(motion.amounts, seed) for seed in of_variant[motion.name].values()]))
            for motion in MOTIONS
        }
    for first, second in combinations(variants, 2):
        right = (chosen[first].predicted == truth, chosen[second].predicted == truth)
        metrics["pairs"][f"{second} vs {first}"] = compare(*right, settings)._asdict()

    write_json(METRICS, metrics)
    _write_plots(chosen, truth, meta["classes"])
    _write_curves(curves)
    write_text(REPORT, comparison_table(metrics, meta, settings))
    _log(results, curves, truth, meta)
    return metrics


def _robustness(
    results: dict[str, list[Result]], test: Labeled, meta: dict, settings: EvaluateParams
) -> dict[str, Curves]:
    """The accuracies of all models on test images moved by each amount of each motion."""
    # Drawn from all of the test set, whose order may be by class.
    chosen = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))[: settings.robustness_images]
    images, labels = test.images[chosen], test.labels[chosen]
    curves: dict[str, Curves] = {
        variant: {motion.name: {result.model.seed: [] for result in of_variant} for motion in MOTIONS}
        for variant, of_variant in results.items()
    }
    work = [(motion, amount) for motion in MOTIONS for amount in motion.amounts]
    for motion, amount in track("robustness", work, len(work)):
        moved = motion.apply(images, amount)
        batches = Batches(moved, labels, meta["mean"], meta["std"], device())
        for variant, of_variant in results.items():
            for result in of_variant:
                logits, truth, _ = predict(result.model.network, batches.ordered(settings.batch_size))
                accuracy = (logits.argmax(1) == truth).double().mean().item()
                curves[variant][motion.name][result.model.seed].append(accuracy)
    return curves


def _bins(result: Result, truth: np.ndarray) -> list[Bin]:
    return reliability(result.confidences, result.predicted == truth)


def _variant_metrics(results: list[Result], chosen: Result, truth: np.ndarray, meta: dict) -> dict:
    accuracies = [float((result.predicted == truth).mean()) for result in results]
    validation = [result.model.validation["validation_accuracy"] for result in results]
    table = layers(chosen.model.network, tuple(meta["image_shape"]))
    return {
        "test_accuracy": float(np.mean(accuracies)),
        "test_accuracy_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        "test_loss": float(np.mean([result.losses.mean() for result in results])),
        "calibration_error": float(np.mean([calibration_error(_bins(result, truth)) for result in results])),
        "validation_accuracy": float(np.mean(validation)),
        "seeds": {
            str(result.model.seed): {"test_accuracy": accuracy, "test_loss": float(result.losses.mean())}
            for result, accuracy in zip(results, accuracies, strict=True)
        },
        "final_fit": chosen.model.record["train"]["final_fit"],
        "chosen_seed": chosen.model.seed,
        "chosen_test_accuracy": float((chosen.predicted == truth).mean()),
        "class_accuracy": _class_accuracy(chosen.predicted, truth, meta["classes"]),
        "parameters": sum(layer.parameters for layer in table),
        "multiply_adds": sum(layer.multiply_adds for layer in table),
    }


def _class_accuracy(predicted: np.ndarray, truth: np.ndarray, classes: list[str]) -> dict[str, float]:
    return {name: float((predicted[truth == i] == i).mean()) for i, name in enumerate(classes)}


def comparison_table(metrics: dict, meta: dict, settings: EvaluateParams) -> str:
    """The comparison as Markdown: a table over variants, and a line for each pair of them."""
    seeds = len(next(iter(metrics["variants"].values()))["seeds"])
    spread = " (mean ± std)" if seeds > 1 else ""
    lines = [
        f"{meta['dataset']}: {meta['counts']['test']} test images, {seeds} training seed(s){spread}.",
        "",
        "| variant | parameters | multiply-adds | validation accuracy | test accuracy | test loss |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, values in metrics["variants"].items():
        std = f" ± {values['test_accuracy_std'] * 100:.2f}" if seeds > 1 else ""
        lines.append(
            f"| {name} | {values['parameters']:,} | {values['multiply_adds']:,} | {values['validation_accuracy']:.2%} "
            f"| {values['test_accuracy'] * 100:.2f}{std} % | {values['test_loss']:.4f} |"
        )
    lines += [
        "",
        "Mean accuracy over a range of motions of the same images; and how far confidence is off (calibration error):",
        "",
        f"| variant | {' | '.join(str(motion) for motion in MOTIONS)} | calibration error |",
        f"|---|{'---:|' * (len(MOTIONS) + 1)}",
    ]
    for name, values in metrics["variants"].items():
        means = [f"{values['robustness'][motion.name]:.2%}" for motion in MOTIONS]
        lines.append(f"| {name} | {' | '.join(means)} | {values['calibration_error']:.2%} |")
    if any(values["final_fit"] for values in metrics["variants"].values()):
        lines += ["", "Trained on the validation images, too (train.final_fit): their accuracy says nothing."]
    if metrics["pairs"]:
        lines += ["", "On the same test images, each variant's model that is best on validation:", ""]
    for pair, d in metrics["pairs"].items():
        lines.append(
            f"- {pair}: {d['difference'] * 100:+.2f} points, {settings.confidence * 100:g}% interval "
            f"{d['low'] * 100:+.2f} to {d['high'] * 100:+.2f}; McNemar's exact p = {d['p_value']:.2g} "
            f"({d['only_second']} images right in the first alone, {d['only_first']} in the second alone)"
        )
    return "\n".join(lines) + "\n"


def _write_plots(chosen: dict[str, Result], truth: np.ndarray, classes: list[str]) -> None:
    """Data of DVC's plots, a file for each variant and plot: every image's actual and predicted class, each class's
    accuracy, and accuracy by confidence.
    """
    for variant, result in chosen.items():
        pairs = [{"actual": classes[t], "predicted": classes[p]} for t, p in zip(truth, result.predicted, strict=True)]
        write_json(PLOTS / "confusion" / f"{variant}.json", pairs)
        accuracies = _class_accuracy(result.predicted, truth, classes)
        rows = [{"class": name, "accuracy": accuracy} for name, accuracy in accuracies.items()]
        write_json(PLOTS / "classes" / f"{variant}.json", rows)
        write_json(PLOTS / "reliability" / f"{variant}.json", [b._asdict() for b in _bins(result, truth)])


def _write_curves(curves: dict[str, Curves]) -> None:
    """Data of DVC's plots and of the stage visualize: of each motion and variant the accuracy by the amount of it."""
    for variant, of_variant in curves.items():
        for motion in MOTIONS:
            seeds = of_variant[motion.name]
            header = ["amount", "accuracy", *(f"seed_{seed}" for seed in seeds)]
            table = zip(motion.amounts, *seeds.values(), strict=True)
            rows = [[amount, np.mean(values), *values] for amount, *values in table]
            lines = [",".join(map(str, row)) for row in (header, *rows)]
            write_text(PLOTS / motion.name / f"{variant}.csv", "\n".join(lines) + "\n")


def _log(results: dict[str, list[Result]], curves: dict[str, Curves], truth: np.ndarray, meta: dict) -> None:
    """Put each model's figures into its own run."""
    client = tracking.connect()
    for result in (result for of_variant in results.values() for result in of_variant):
        if tracking.run_exists(client, result.model.run_id):
            accuracy = float((result.predicted == truth).mean())
            figures = {"test_accuracy": accuracy, "test_loss": float(result.losses.mean())}
            figures["test_calibration_error"] = calibration_error(_bins(result, truth))
            for motion in MOTIONS:
                accuracies = curves[result.model.variant][motion.name][result.model.seed]
                figures[f"test_accuracy_over_{motion.name}"] = area(motion.amounts, accuracies)
            tracking.log_metrics(client, result.model.run_id, figures)
            matrix = confusion_matrix(truth, result.predicted, labels=range(len(meta["classes"])))
            evaluation = {
                "classes": meta["classes"],
                "class_accuracy": _class_accuracy(result.predicted, truth, meta["classes"]),
                "confusion": {"rows": "actual", "columns": "predicted", "counts": matrix.tolist()},
            }
            client.log_dict(result.model.run_id, evaluation, "evaluation.json")


def main() -> None:
    params = load_params()
    with tracking.needed("the models are evaluated anew"):
        evaluate(params.variants, params.evaluate)
    print(REPORT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main)
