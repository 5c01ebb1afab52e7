"""evaluate: every trained model on the test images, and the variants against each other.

Two different things are said, and which is which: mean ± std over training seeds (does the transformer pay?), and a
paired test between two models on the same images (is this model better than that one?).
"""

from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import run
from pipelines.params import EvaluateParams, load_params

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

import numpy as np
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix

from pipelines import tracking
from pipelines.comparison import compare
from pipelines.prepared import load_meta, load_split
from pipelines.progress import track
from pipelines.state import write_json
from pipelines.trained import Trained, best_on_validation, device, load_trained
from stn.batches import Batches
from stn.layers import layers
from stn.training import predict

METRICS = Path("metrics/evaluate.json")
PLOTS = Path("plots/evaluate")
REPORT = Path("reports/comparison.md")


class Result(NamedTuple):
    """A model and its answers on the test images: predicted classes (N,) and each image's cross-entropy (N,)."""

    model: Trained
    predicted: np.ndarray
    losses: np.ndarray


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
        results[model.variant].append(Result(model, logits.argmax(1).cpu().numpy(), losses.cpu().numpy()))

    truth = test.labels.numpy()
    metrics: dict = {"variants": {}, "pairs": {}}
    chosen: dict[str, Result] = {}
    for variant, of_variant in results.items():
        best = best_on_validation([result.model for result in of_variant])
        chosen[variant] = next(result for result in of_variant if result.model is best)
        metrics["variants"][variant] = _variant_metrics(of_variant, chosen[variant], truth, meta)
    for first, second in combinations(variants, 2):
        right = (chosen[first].predicted == truth, chosen[second].predicted == truth)
        metrics["pairs"][f"{second} vs {first}"] = compare(*right, settings)._asdict()

    write_json(METRICS, metrics)
    _write_plots(chosen, truth, meta["classes"])
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(comparison_table(metrics, meta, settings), encoding="utf-8")
    _log(results, truth, meta)
    return metrics


def _variant_metrics(results: list[Result], chosen: Result, truth: np.ndarray, meta: dict) -> dict:
    accuracies = [float((result.predicted == truth).mean()) for result in results]
    validation = [result.model.validation["validation_accuracy"] for result in results]
    table = layers(chosen.model.network, tuple(meta["image_shape"]))
    return {
        "test_accuracy": float(np.mean(accuracies)),
        "test_accuracy_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        "test_loss": float(np.mean([result.losses.mean() for result in results])),
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
    """Data of DVC's plots, a file for each variant: every image's actual and predicted class, each class's accuracy."""
    for variant, result in chosen.items():
        pairs = [{"actual": classes[t], "predicted": classes[p]} for t, p in zip(truth, result.predicted, strict=True)]
        write_json(PLOTS / "confusion" / f"{variant}.json", pairs)
        accuracies = _class_accuracy(result.predicted, truth, classes)
        rows = [{"class": name, "accuracy": accuracy} for name, accuracy in accuracies.items()]
        write_json(PLOTS / "classes" / f"{variant}.json", rows)


def _log(results: dict[str, list[Result]], truth: np.ndarray, meta: dict) -> None:
    """Put each model's figures into its own run."""
    client = tracking.connect()
    for result in (result for of_variant in results.values() for result in of_variant):
        if tracking.run_exists(client, result.model.run_id):
            accuracy = float((result.predicted == truth).mean())
            tracking.log_metrics(
                client, result.model.run_id, {"test_accuracy": accuracy, "test_loss": float(result.losses.mean())}
            )
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
