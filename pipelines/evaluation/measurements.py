"""What is measured of trained models on the test images."""

from typing import NamedTuple

import numpy as np
import torch

from pipelines.evaluation.calibration import Bin, calibration_error, reliability
from pipelines.evaluation.layer_table import layers
from pipelines.evaluation.robustness import move
from pipelines.outputs.evaluation_results import MOTIONS
from pipelines.outputs.prepared_data import Labeled
from pipelines.outputs.trained_models import Trained
from pipelines.runtime.progress import track
from pipelines.settings.params import EvaluateParams
from stn.batches import Batches
from stn.training import default_device, predict


class Result(NamedTuple):
    """A model and its answers on the test images: classes, their probabilities and the cross-entropy, (N,) each."""

    model: Trained
    predicted: np.ndarray
    confidences: np.ndarray
    losses: np.ndarray


# Of one variant: motion → training seed → accuracy at each of the motion's amounts.
Curves = dict[str, dict[int, list[float]]]


def robustness_curves(
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
        moved = move(images, motion, amount)
        batches = Batches(moved, labels, meta["mean"], meta["std"], default_device())
        for variant, of_variant in results.items():
            for result in of_variant:
                logits, truth, _ = predict(result.model.network, batches.ordered(settings.batch_size))
                accuracy = (logits.argmax(1) == truth).double().mean().item()
                curves[variant][motion.name][result.model.seed].append(accuracy)
    return curves


def bins_of(result: Result, truth: np.ndarray) -> list[Bin]:
    return reliability(result.confidences, result.predicted == truth)


def variant_metrics(results: list[Result], chosen: Result, truth: np.ndarray, meta: dict) -> dict:
    accuracies = [float((result.predicted == truth).mean()) for result in results]
    validation = [result.model.validation["validation_accuracy"] for result in results]
    table = layers(chosen.model.network, tuple(meta["image_shape"]))
    return {
        "test_accuracy": float(np.mean(accuracies)),
        "test_accuracy_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        "test_loss": float(np.mean([result.losses.mean() for result in results])),
        "calibration_error": float(np.mean([calibration_error(bins_of(result, truth)) for result in results])),
        "validation_accuracy": float(np.mean(validation)),
        "seeds": {
            str(result.model.seed): {"test_accuracy": accuracy, "test_loss": float(result.losses.mean())}
            for result, accuracy in zip(results, accuracies, strict=True)
        },
        "final_fit": chosen.model.record["train"]["final_fit"],
        "chosen_seed": chosen.model.seed,
        "chosen_test_accuracy": float((chosen.predicted == truth).mean()),
        "class_accuracy": class_accuracy(chosen.predicted, truth, meta["classes"]),
        "parameters": sum(layer.parameters for layer in table),
        "multiply_adds": sum(layer.multiply_adds for layer in table),
    }


def class_accuracy(predicted: np.ndarray, truth: np.ndarray, classes: list[str]) -> dict[str, float]:
    return {name: float((predicted[truth == i] == i).mean()) for i, name in enumerate(classes)}
