"""All models of all variants on the test images: metrics, plots, the comparison, MLflow."""

from itertools import combinations

import numpy as np
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix

from pipelines.evaluation.calibration import calibration_error
from pipelines.evaluation.comparison_table import comparison_table
from pipelines.evaluation.measurements import (
    Curves,
    Result,
    bins_of,
    class_accuracy,
    robustness_curves,
    variant_metrics,
)
from pipelines.evaluation.robustness import area
from pipelines.evaluation.significance import compare
from pipelines.outputs.evaluation_results import COMPARISON, METRICS, MOTIONS, write_curve, write_plot
from pipelines.outputs.prepared_data import load_meta, load_split
from pipelines.outputs.trained_models import best_on_validation, load_trained
from pipelines.runtime.files import write_json, write_text
from pipelines.runtime.progress import track
from pipelines.settings.params import EvaluateParams
from pipelines.tracking.client import connect, log_metrics, run_exists
from stn.batches import Batches
from stn.training import default_device, predict


def evaluate(variants: list[str], settings: EvaluateParams) -> dict:
    """Evaluate all models of all variants and write metrics, plots and the table; returns the metrics."""
    meta, test = load_meta(), load_split("test")
    batches = Batches(test.images, test.labels, meta["mean"], meta["std"], default_device())
    models = [model for variant in variants for model in load_trained(variant, meta)]
    results: dict[str, list[Result]] = {variant: [] for variant in variants}
    for model in track("evaluate", models, len(models)):
        network = model.network.to(default_device())
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
        metrics["variants"][variant] = variant_metrics(of_variant, chosen[variant], truth, meta)
    curves = robustness_curves(results, test, meta, settings)
    for variant, of_variant in curves.items():
        metrics["variants"][variant]["robustness"] = {
            motion.name: float(np.mean([area(motion.amounts, seed) for seed in of_variant[motion.name].values()]))
            for motion in MOTIONS
        }
    for first, second in combinations(variants, 2):
        right = (chosen[first].predicted == truth, chosen[second].predicted == truth)
        metrics["pairs"][f"{second} vs {first}"] = compare(*right, settings)._asdict()

    write_json(METRICS, metrics)
    _write_plots(chosen, curves, truth, meta["classes"])
    write_text(COMPARISON, comparison_table(metrics, meta, settings))
    _log(results, curves, truth, meta)
    return metrics


def _write_plots(chosen: dict[str, Result], curves: dict[str, Curves], truth: np.ndarray, classes: list[str]) -> None:
    for variant, result in chosen.items():
        pairs = [{"actual": classes[t], "predicted": classes[p]} for t, p in zip(truth, result.predicted, strict=True)]
        accuracies = class_accuracy(result.predicted, truth, classes)
        write_plot("confusion", variant, pairs)
        write_plot("classes", variant, [{"class": name, "accuracy": value} for name, value in accuracies.items()])
        write_plot("reliability", variant, [b._asdict() for b in bins_of(result, truth)])
        for motion in MOTIONS:
            write_curve(motion, variant, curves[variant][motion.name])


def _log(results: dict[str, list[Result]], curves: dict[str, Curves], truth: np.ndarray, meta: dict) -> None:
    """Put each model's figures into its own run."""
    client = connect()
    for result in (result for of_variant in results.values() for result in of_variant):
        if run_exists(client, result.model.run_id):
            accuracy = float((result.predicted == truth).mean())
            figures = {"test_accuracy": accuracy, "test_loss": float(result.losses.mean())}
            figures["test_calibration_error"] = calibration_error(bins_of(result, truth))
            for motion in MOTIONS:
                accuracies = curves[result.model.variant][motion.name][result.model.seed]
                figures[f"test_accuracy_over_{motion.name}"] = area(motion.amounts, accuracies)
            log_metrics(client, result.model.run_id, figures)
            matrix = confusion_matrix(truth, result.predicted, labels=range(len(meta["classes"])))
            evaluation = {
                "classes": meta["classes"],
                "class_accuracy": class_accuracy(result.predicted, truth, meta["classes"]),
                "confusion": {"rows": "actual", "columns": "predicted", "counts": matrix.tolist()},
            }
            client.log_dict(result.model.run_id, evaluation, "evaluation.json")
