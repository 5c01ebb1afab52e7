"""Predictions of trained models on the test images, and the results that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix

from pipelines.evaluation.alignment import AlignmentMeasurements, summarize
from pipelines.evaluation.calibration import calibration_error, reliability_bins
from pipelines.evaluation.class_scores import score_classes, score_predictions
from pipelines.evaluation.layer_table import layers
from pipelines.evaluation.robustness import Curves, area, choose_images
from pipelines.evaluation.theta_symptoms import measure_symptoms
from pipelines.outputs.alignment_results import ThetaResults
from pipelines.outputs.class_results import ClassScores
from pipelines.outputs.evaluation_results import ReliabilityBin, SeedResults, VariantResults
from pipelines.outputs.motions import MOTIONS
from pipelines.outputs.prepared_data import DatasetMeta, Labeled
from pipelines.outputs.trained_models import Trained, best_on_validation
from pipelines.runtime.progress import track
from pipelines.settings.metric import Metric
from pipelines.settings.params import EvaluateParams
from stn.batches import limit_batch
from stn.classifiers import INPUT
from stn.theta_trouble import Symptoms
from stn.training import default_device, predict

SAMPLE = 100  # test images that are rectified to find images of one color


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model on the test images.

    Args:
        model: the model, on :func:`~stn.training.default_device`.
        classes: names of all classes, in the order of the labels.
        truth, predicted: actual and predicted labels (N,).
        confidences: probability of the predicted class (N,), in [0, 1].
        losses: cross-entropy (N,).
        symptoms: signs of trouble in θ; None without a transformer.
    """

    model: Trained
    classes: Sequence[str]
    truth: np.ndarray
    predicted: np.ndarray
    confidences: np.ndarray
    losses: np.ndarray
    symptoms: Symptoms | None = None

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is correct, boolean (N,)."""
        return self.predicted == self.truth

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return float(self.losses.mean())

    @property
    def reliability(self) -> list[ReliabilityBin]:
        """Bins of the reliability diagram."""
        return reliability_bins(self.confidences, self.correct)

    @cached_property
    def class_scores(self) -> list[ClassScores]:
        """Scores of each class."""
        return score_classes(self.truth, self.predicted, self.classes)

    @cached_property
    def scores(self) -> dict[Metric, float]:
        """Each metric, in [0, 1]."""
        return score_predictions(self.truth, self.predicted)

    @property
    def confusion(self) -> np.ndarray:
        """Images by actual class (row) and predicted class (column), (classes, classes)."""
        return confusion_matrix(self.truth, self.predicted, labels=range(len(self.classes)))


def predict_test_images(
    models: Mapping[str, Sequence[Trained]], test: Labeled, meta: DatasetMeta, settings: EvaluateParams
) -> dict[str, list[Predictions]]:
    """Classify the test images with all models of all variants. Moves the models to the default device.

    Args:
        models: variant → its models.
    """
    batches = meta.ordered_batches(test, default_device())
    sample, _ = next(meta.batches(choose_images(test, SAMPLE), default_device()).ordered(SAMPLE))
    predictions: dict[str, list[Predictions]] = {variant: [] for variant in models}
    all_models = [model for trained in models.values() for model in trained]
    for model in track("evaluate", all_models, len(all_models)):
        network = model.network.to(default_device())
        logits, labels, thetas = predict(network, batches.ordered(limit_batch(batches, settings.batch_size)))
        losses = F.cross_entropy(logits, labels, reduction="none")
        confidences, predicted = logits.softmax(1).max(1)
        arrays = (values.cpu().numpy() for values in (labels, predicted, confidences, losses))
        symptoms = measure_symptoms(network, thetas.get(INPUT), sample)
        predictions[model.variant].append(Predictions(model, meta.classes, *arrays, symptoms=symptoms))
    return predictions


def choose(of_seeds: Sequence[Predictions], metric: Metric) -> Predictions:
    """Select the predictions of the chosen model, see :func:`~pipelines.outputs.trained_models.best_on_validation`."""
    best = best_on_validation([predictions.model for predictions in of_seeds], metric)
    return next(predictions for predictions in of_seeds if predictions.model is best)


def measure_variant(
    of_seeds: Sequence[Predictions],
    curves: Curves,
    meta: DatasetMeta,
    alignment: AlignmentMeasurements | None,
    settings: EvaluateParams,
) -> VariantResults:
    """Compute the results of one variant from the measurements of its training seeds.

    Args:
        of_seeds: predictions of the model of each seed.
        curves: their robustness.
        alignment: what their transformers undo; None without a transformer.
        settings: the metric that chooses the model, and the confidence level of intervals.
    """
    chosen = choose(of_seeds, settings.metric)
    table = layers(chosen.model.network, meta.image_shape)
    return VariantResults(
        **_over_seeds(of_seeds),
        test_loss=float(np.mean([predictions.loss for predictions in of_seeds])),
        calibration_error=float(np.mean([calibration_error(predictions.reliability) for predictions in of_seeds])),
        seeds={predictions.model.seed: _seed_results(predictions, alignment) for predictions in of_seeds},
        final_fit=chosen.model.record.train.final_fit,
        chosen_seed=chosen.model.seed,
        chosen_test_accuracy=chosen.scores[Metric.ACCURACY],
        classes=chosen.class_scores,
        parameters=sum(layer.parameters for layer in table),
        multiply_adds=sum(layer.multiply_adds for layer in table),
        robustness={
            motion.name: float(np.mean([area(motion.amounts, curve) for curve in curves[motion].values()]))
            for motion in MOTIONS
        },
        alignment=None if alignment is None else summarize(alignment, settings.confidence),
    )


def _over_seeds(of_seeds: Sequence[Predictions]) -> dict[str, Any]:
    """Each metric over training seeds: mean and standard deviation on the test images, mean on validation."""
    values: dict[str, Any] = {}
    for metric in Metric:
        on_test = [predictions.scores[metric] for predictions in of_seeds]
        values[f"test_{metric}"] = float(np.mean(on_test))
        values[f"test_{metric}_std"] = float(np.std(on_test, ddof=1)) if len(on_test) > 1 else None
        histories = [predictions.model.validation for predictions in of_seeds]
        measured = [history[metric.on_validation] for history in histories if metric.on_validation in history]
        values[metric.on_validation] = float(np.mean(measured)) if len(measured) == len(histories) else None
    return values


def _seed_results(predictions: Predictions, alignment: AlignmentMeasurements | None) -> SeedResults:
    theta = None
    if alignment is not None and predictions.symptoms is not None:
        theta = ThetaResults(alignment.undone_of(predictions.model.seed), *predictions.symptoms)
    return SeedResults(
        **{f"test_{metric}": value for metric, value in predictions.scores.items()},
        test_loss=predictions.loss,
        never_right=[scores.name for scores in predictions.class_scores if scores.recall == 0],
        theta=theta,
    )
