"""Results of one variant, checked against predictions whose accuracy is known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from pipelines.evaluation.alignment import AlignmentMeasurements, Undone
from pipelines.evaluation.measurements import Predictions, choose, measure_variant
from pipelines.outputs.alignment_results import ThetaResults
from pipelines.outputs.evaluation_results import SeedResults
from pipelines.outputs.motions import MOTIONS, UNDONE_MOTIONS
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.outputs.trained_models import Trained
from stn.classifiers import build_network
from stn.settings import NetworkSettings
from stn.theta_trouble import Symptoms, Trouble

META = DatasetMeta(
    dataset="mine", source="/data/mine", classes=["cat", "dog"], image_shape=(1, 20, 20),
    counts={"train": 300, "validation": 50, "test": 4}, mean=[0.5], std=[0.25], distortion={}, duplicates={},
    broken={}, digest="0",
)  # fmt: skip
TRUTH = np.array([0, 0, 0, 1])


def predictions(seed: int, predicted: list[int], validation_accuracy: float, final_fit: bool = False) -> Predictions:
    record: Any = SimpleNamespace(train=SimpleNamespace(final_fit=final_fit))
    history = [{"validation_accuracy": validation_accuracy, "validation_loss": 1.0}]
    model = Trained("plain", seed, build_network(NetworkSettings((1, 20, 20), 2)), f"run-{seed}", history, record)
    return Predictions(model, TRUTH, np.array(predicted), np.full(4, 0.75), np.full(4, 0.5 + seed))


@pytest.mark.parametrize("final_fit", [False, True])
def test_results_of_a_variant_with_two_seeds(final_fit):
    of_seeds = [predictions(0, [0, 0, 1, 1], 0.6, final_fit), predictions(1, [0, 0, 0, 0], 0.8, final_fit)]
    curves = {motion: {0: [0.5] * len(motion.amounts), 1: [0.7] * len(motion.amounts)} for motion in MOTIONS}
    results = measure_variant(of_seeds, curves, META, None, 0.95)
    assert (results.test_accuracy, results.test_accuracy_std) == (0.75, 0.0)
    assert (results.test_loss, results.calibration_error, results.validation_accuracy) == (1.0, 0.0, 0.7)
    assert results.seeds == {0: SeedResults(0.75, 0.5), 1: SeedResults(0.75, 1.5)} and results.alignment is None
    # After a final fit validation accuracies are not comparable, and the first seed is chosen.
    assert (results.final_fit, results.chosen_seed) == (final_fit, 0 if final_fit else 1)
    assert results.class_accuracy == ({"cat": 2 / 3, "dog": 1.0} if final_fit else {"cat": 1.0, "dog": 0.0})
    assert results.robustness == pytest.approx({"rotation": 0.6, "scale": 0.6, "shift": 0.6})
    network = of_seeds[0].model.network
    assert results.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_each_seed_has_the_results_of_its_theta():
    of_seed = replace(predictions(0, [0, 0, 0, 1], 0.6), symptoms=Symptoms(0.6, 0.0, 0.1, 0.2))
    amounts = {motion: torch.zeros(len(motion.amounts), 4) for motion in UNDONE_MOTIONS}
    errors = torch.tensor([1.0, 2.0, 3.0, 40.0])
    alignment = AlignmentMeasurements({0: Undone(amounts, errors, 2 * errors)})
    curves = {motion: {0: [1.0] * len(motion.amounts)} for motion in MOTIONS}
    results = measure_variant([of_seed], curves, META, alignment, 0.95)
    assert results.seeds[0].theta == ThetaResults(0.5, 0.6, 0.0, 0.1, 0.2)
    assert results.seeds[0].trouble == [Trouble.OUTSIDE]
    assert results.alignment is not None and results.alignment.undone == 0.5


def test_a_single_seed_has_no_standard_deviation():
    only = predictions(0, [0, 0, 0, 1], 0.6)
    results = measure_variant(
        [only], {motion: {0: [1.0] * len(motion.amounts)} for motion in MOTIONS}, META, None, 0.95
    )
    assert (results.test_accuracy, results.test_accuracy_std, results.chosen_test_accuracy) == (1.0, None, 1.0)
    assert choose([only]) is only


def test_the_confusion_matrix_is_that_of_scikit_learn():
    of_seed = predictions(0, [1, 0, 2, 1], 0.6)
    expected = confusion_matrix(of_seed.truth, of_seed.predicted, labels=range(4))
    assert of_seed.confusion(4).tolist() == expected.tolist()
