"""Results of one variant, checked against predictions whose accuracy is known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.evaluation.alignment import AlignmentMeasurements, Undone
from pipelines.evaluation.measurements import Predictions, choose, measure_variant
from pipelines.outputs.alignment_results import ThetaResults
from pipelines.outputs.evaluation_results import SeedResults
from pipelines.outputs.motions import MOTIONS, UNDONE_MOTIONS
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.outputs.trained_models import Trained
from pipelines.runtime.errors import UserError
from pipelines.settings.metric import Metric
from pipelines.settings.params import EvaluateParams
from stn.classifiers import build_network
from stn.settings import NetworkSettings
from stn.theta_trouble import Symptoms, Trouble

META = DatasetMeta(
    dataset="mine", source="/data/mine", classes=["cat", "dog"], image_shape=(1, 20, 20),
    counts={"train": 300, "validation": 50, "test": 4}, mean=[0.5], std=[0.25], distortion={}, duplicates={},
    broken={}, digest="0",
)  # fmt: skip
TRUTH = np.array([0, 0, 0, 1])
EVALUATE = EvaluateParams(batch_size=100, resamples=200, confidence=0.95, robustness_images=50)


def predictions(seed: int, predicted: list[int], validation_accuracy: float, final_fit: bool = False) -> Predictions:
    record: Any = SimpleNamespace(train=SimpleNamespace(final_fit=final_fit))
    history = [{"validation_accuracy": validation_accuracy, "validation_loss": 1.0}]
    history[0] |= {"validation_balanced_accuracy": 1 - validation_accuracy, "validation_macro_f1": 0.5}
    model = Trained("plain", seed, build_network(NetworkSettings((1, 20, 20), 2)), f"run-{seed}", history, record)
    return Predictions(model, META.classes, TRUTH, np.array(predicted), np.full(4, 0.75), np.full(4, 0.5 + seed))


@pytest.mark.parametrize("final_fit", [False, True])
def test_results_of_a_variant_with_two_seeds(final_fit):
    of_seeds = [predictions(0, [0, 0, 1, 1], 0.6, final_fit), predictions(1, [0, 0, 0, 0], 0.8, final_fit)]
    curves = {motion: {0: [0.5] * len(motion.amounts), 1: [0.7] * len(motion.amounts)} for motion in MOTIONS}
    results = measure_variant(of_seeds, curves, META, None, EVALUATE)
    assert (results.test_accuracy, results.test_accuracy_std) == (0.75, 0.0)
    assert (results.test_loss, results.calibration_error, results.validation_accuracy) == (1.0, 0.0, 0.7)
    balanced, macro_f1 = (5 / 6, 0.5), (11 / 15, 3 / 7)  # by hand
    first, second = (
        SeedResults(0.75, balanced[0], macro_f1[0], test_loss=0.5, never_right=[]),
        SeedResults(0.75, balanced[1], macro_f1[1], test_loss=1.5, never_right=["dog"]),
    )
    for found, expected in ((results.seeds[0], first), (results.seeds[1], second)):
        assert found.on_test_by_name == pytest.approx(expected.on_test_by_name)
        assert (found.test_loss, found.never_right, found.theta) == (expected.test_loss, expected.never_right, None)
    assert results.alignment is None
    assert results.on_test(Metric.BALANCED_ACCURACY) == pytest.approx((np.mean(balanced), np.std(balanced, ddof=1)))
    assert results.on_test(Metric.MACRO_F1) == pytest.approx((np.mean(macro_f1), np.std(macro_f1, ddof=1)))
    assert results.on_validation(Metric.BALANCED_ACCURACY) == pytest.approx(0.3)
    # After a final fit validation accuracies are not comparable, and the first seed is chosen.
    assert (results.final_fit, results.chosen_seed) == (final_fit, 0 if final_fit else 1)
    recalls = {scores.name: scores.recall for scores in results.classes}
    assert recalls == ({"cat": 2 / 3, "dog": 1.0} if final_fit else {"cat": 1.0, "dog": 0.0})
    assert results.robustness == pytest.approx({"rotation": 0.6, "scale": 0.6, "shift": 0.6})
    network = of_seeds[0].model.network
    assert results.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_each_seed_has_the_results_of_its_theta():
    of_seed = replace(predictions(0, [0, 0, 0, 1], 0.6), symptoms=Symptoms(0.6, 0.0, 0.1, 0.2))
    amounts = {motion: torch.zeros(len(motion.amounts), 4) for motion in UNDONE_MOTIONS}
    errors = torch.tensor([1.0, 2.0, 3.0, 40.0])
    alignment = AlignmentMeasurements({0: Undone(amounts, errors, 2 * errors)})
    curves = {motion: {0: [1.0] * len(motion.amounts)} for motion in MOTIONS}
    results = measure_variant([of_seed], curves, META, alignment, EVALUATE)
    assert results.seeds[0].theta == ThetaResults(0.5, 0.6, 0.0, 0.1, 0.2)
    assert results.seeds[0].trouble == [Trouble.OUTSIDE]
    assert results.alignment is not None and results.alignment.undone == 0.5


def test_a_single_seed_has_no_standard_deviation():
    only = predictions(0, [0, 0, 0, 1], 0.6)
    results = measure_variant(
        [only], {motion: {0: [1.0] * len(motion.amounts)} for motion in MOTIONS}, META, None, EVALUATE
    )
    assert (results.test_accuracy, results.test_accuracy_std, results.chosen_test_accuracy) == (1.0, None, 1.0)
    assert choose([only], Metric.ACCURACY) is only


@pytest.mark.parametrize(("metric", "chosen"), [("accuracy", 1), ("balanced_accuracy", 0), ("macro_f1", 0)])
def test_the_metric_chooses_the_model_of_a_variant(metric, chosen):
    """Equal scores are ordered by loss, and of equal losses the first is chosen."""
    of_seeds = [predictions(0, [0, 0, 1, 1], 0.6), predictions(1, [0, 0, 0, 0], 0.8)]
    assert choose(of_seeds, Metric(metric)).model.seed == chosen


def test_a_model_of_earlier_code_that_lacks_the_metric_is_refused_in_one_line():
    earlier = predictions(0, [0, 0, 1, 1], 0.6)
    del earlier.model.history[0]["validation_macro_f1"]
    assert choose([earlier], Metric.ACCURACY) is earlier
    with pytest.raises(UserError, match=r"evaluate\.metric: macro_f1 given; .* run: dvc repro train@plain$"):
        choose([earlier], Metric.MACRO_F1)


def test_the_confusion_matrix_has_actual_classes_by_row():
    of_seed = replace(predictions(0, [1, 0, 2, 1], 0.6), classes=list("abcd"))
    assert of_seed.confusion.tolist() == [[1, 1, 1, 0], [0, 1, 0, 0], [0] * 4, [0] * 4]
