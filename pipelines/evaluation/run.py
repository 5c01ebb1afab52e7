"""Evaluates all models of all variants on the test images and writes the results."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from pipelines.evaluation.alignment import AlignmentMeasurements, measure_alignment, undone_curve
from pipelines.evaluation.calibration import calibration_error
from pipelines.evaluation.comparison_table import comparison_table
from pipelines.evaluation.measurements import Predictions, choose, measure_variant, predict_test_images
from pipelines.evaluation.robustness import Curves, area, measure_robustness
from pipelines.evaluation.significance import compare
from pipelines.outputs.alignment_results import write_undone
from pipelines.outputs.class_results import condense, write_class_scores, write_confusion
from pipelines.outputs.evaluation_results import (
    COMPARISON,
    EvaluationResults,
    write_curve,
    write_reliability,
    write_results,
)
from pipelines.outputs.motions import UNDONE_MOTIONS, Motion
from pipelines.outputs.prepared_data import load_meta, load_split
from pipelines.outputs.trained_models import load_trained
from pipelines.outputs.variant_metrics import write_variant_metrics
from pipelines.runtime.files import write_text
from pipelines.settings.params import EvaluateParams
from pipelines.tracking.client import connect, log_metrics, run_exists
from stn.training import default_device


def evaluate(variants: Sequence[str], settings: EvaluateParams) -> EvaluationResults:
    """Evaluate all models of all variants, write results, plots and comparison, and log to MLflow."""
    meta, test = load_meta(), load_split("test")
    models = {variant: load_trained(variant, meta) for variant in variants}
    print(f"{len(test.labels):,} test images, on {default_device().type}", flush=True)
    predictions = predict_test_images(models, test, meta, settings)
    curves = measure_robustness(models, test, meta, settings)
    alignment = measure_alignment(models, test, meta, settings)

    chosen = {variant: choose(predictions[variant], settings.metric) for variant in variants}
    results = EvaluationResults(
        variants={
            variant: measure_variant(predictions[variant], curves[variant], meta, alignment.get(variant), settings)
            for variant in variants
        },
        pairs={
            f"{second} vs {first}": compare(
                test.labels.numpy(), chosen[first].predicted, chosen[second].predicted, settings
            )
            for first, second in combinations(variants, 2)
        },
        metric=settings.metric,
    )

    write_results(results)
    write_variant_metrics(results.variants)
    for variant in variants:
        _write_plots(variant, chosen[variant], curves[variant])
    for motion in UNDONE_MOTIONS:
        write_undone(motion, {variant: undone_curve(motion, measured) for variant, measured in alignment.items()})
    write_text(COMPARISON, comparison_table(results, meta, settings.confidence))
    _log_to_runs(predictions, curves, alignment)
    return results


def _write_plots(variant: str, chosen: Predictions, curves: Curves) -> None:
    """Write the DVC plots of one variant."""
    write_confusion(variant, condense(chosen.confusion, chosen.classes))
    write_class_scores(variant, chosen.class_scores)
    write_reliability(variant, chosen.reliability)
    for motion, accuracies in curves.items():
        write_curve(motion, variant, accuracies)


def _log_to_runs(
    predictions: Mapping[str, Sequence[Predictions]],
    curves: Mapping[str, Curves],
    alignment: Mapping[str, AlignmentMeasurements],
) -> None:
    """Log each model's metrics and confusion matrix to the model's own run, if the store has it."""
    client = connect()
    for variant, of_seeds in predictions.items():
        for of_seed in of_seeds:
            run_id, seed = of_seed.model.run_id, of_seed.model.seed
            if run_exists(client, run_id):
                areas = {motion: area(motion.amounts, by_seed[seed]) for motion, by_seed in curves[variant].items()}
                metrics = _run_metrics(of_seed, areas)
                if variant in alignment:
                    metrics |= _alignment_metrics(alignment[variant], seed)
                log_metrics(client, run_id, metrics)
                if of_seed.symptoms is not None:
                    client.set_tag(run_id, "test_theta_trouble", ", ".join(of_seed.symptoms.trouble) or "none")
                client.log_dict(run_id, _run_artifact(of_seed), "evaluation.json")


def _run_metrics(predictions: Predictions, areas: Mapping[Motion, float]) -> dict[str, float]:
    """MLflow's metrics of one model. ``areas`` are its mean accuracies over the range of each motion."""
    return {
        **{f"test_{metric}": value for metric, value in predictions.scores.items()},
        "test_loss": predictions.loss,
        "test_calibration_error": calibration_error(predictions.reliability),
        **{f"test_accuracy_over_{motion.name}": accuracy for motion, accuracy in areas.items()},
    }


def _alignment_metrics(measured: AlignmentMeasurements, seed: int) -> dict[str, float]:
    """MLflow's metrics of what the transformer of one model undoes."""
    slopes = {f"test_undone_{motion.name}": of_images for motion, of_images in measured.slopes_of(seed).items()}
    return {
        "test_corner_error": float(np.median(measured.seeds[seed].errors.numpy())),
        **{name: of_images.quantile(0.5).item() for name, of_images in slopes.items()},
    }


def _run_artifact(predictions: Predictions) -> dict[str, Any]:
    """Content of the artifact ``evaluation.json`` of one model."""
    confusion = predictions.confusion
    return {
        "classes": list(predictions.classes),
        "class_scores": [asdict(scores) for scores in predictions.class_scores],
        "confusion": {
            "columns": ["actual", "predicted", "images"],
            "rows": [[*map(int, pair), int(confusion[tuple(pair)])] for pair in np.argwhere(confusion)],
        },
    }
