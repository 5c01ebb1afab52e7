"""The gates, each on its own, for models with made-up predictions."""

import numpy as np
import pytest

from pipelines.registry.gates import Candidate, GroundTruth, Verdict, check_gates
from pipelines.registry.theta_tags import ThetaTags
from pipelines.settings.params import EvaluateParams, PromoteParams

LABELS = np.arange(400) % 4
TRUTH = GroundTruth(LABELS, ["cat", "dog", "eel", "fox"])
EVALUATE = EvaluateParams(batch_size=100, resamples=2000, confidence=0.95, robustness_images=50)
NO_GATES = {
    "minimum_accuracy": "none", "margin": "none", "level": "none", "class_level": "none", "rotation_margin": "none",
    "minimum_alignment": "none", "maximum_outside": "none", "max_parameters": "none", "variants": "any",
}  # fmt: skip


def model(
    correct: np.ndarray | int, parameters=100, variant="stn", area=0.5, theta=ThetaTags(True, 0.5, 0.3)
) -> Candidate:
    """A model that classifies the given images correctly; a number stands for the first images."""
    if isinstance(correct, int):
        correct = np.arange(400) < correct
    predicted = np.where(correct, LABELS, (LABELS + 1) % 4)
    return Candidate("1", variant, parameters, predicted, area, 1.0, theta)


def verdict(challenger: Candidate, champion: Candidate | None, **gates) -> Verdict:
    return check_gates(PromoteParams.model_validate(NO_GATES | gates), EVALUATE, challenger, champion, TRUTH)


def test_without_gates_anything_passes():
    assert verdict(model(0), model(400)).passed and not verdict(model(0), model(400)).gates


def test_the_minimum_is_enough():
    assert verdict(model(300), None, minimum_accuracy=0.75).passed
    assert not verdict(model(299), None, minimum_accuracy=0.75).passed


def test_parameters():
    assert verdict(model(1, parameters=1000), None, max_parameters=1000).passed
    assert not verdict(model(1, parameters=1001), None, max_parameters=1000).passed


@pytest.mark.parametrize(
    ("gate", "enough", "refused"), [("minimum_alignment", 0.5, 0.51), ("maximum_outside", 0.3, 0.29)]
)
def test_gates_on_theta(gate, enough, refused):
    assert verdict(model(1), None, **{gate: enough}).passed
    assert not verdict(model(1), None, **{gate: refused}).passed
    assert verdict(model(1, theta=ThetaTags(has_transformer=False)), None, **{gate: refused}).passed
    (unknown,) = verdict(model(1, theta=ThetaTags(has_transformer=None)), None, **{gate: enough}).gates
    assert not unknown.passed and unknown.found == "not measured when it was registered"


def test_variants():
    assert verdict(model(1, variant="tuned"), None, variants=["stn", "tuned"]).passed
    assert not verdict(model(1, variant="plain"), None, variants=["stn", "tuned"]).passed


@pytest.mark.parametrize(("correct", "passes"), [(300, False), (301, False), (304, False), (305, True), (400, True)])
def test_better_at_the_level(correct, passes):
    """Five images gained and none lost have p = 1/32; four have p = 1/16."""
    assert verdict(model(correct), model(300), level=0.05).passed == passes


def test_the_margin_is_compared_with_the_lower_end_of_the_interval():
    """12 of 400 images lost are 3 points; the lower end of the interval is about 1.7 points below."""
    challenger, champion = model(288), model(300)
    assert verdict(challenger, champion, margin=0.06).passed
    assert not verdict(challenger, champion, margin=0.035).passed
    assert verdict(champion, champion, margin=0).passed


def test_a_better_model_that_is_worse_in_one_class_is_refused_for_that_class():
    champion = model(320)
    correct = np.ones(400, dtype=bool)
    correct[(LABELS == 2) & (np.arange(400) < 160)] = False  # 40 eels lost and 20 gained; 80 images gained in total
    challenger = model(correct)
    assert verdict(challenger, champion, level=0.05).passed
    refused = verdict(challenger, champion, level=0.05, class_level=0.05)
    assert [gate.passed for gate in refused.gates] == [True, False]
    assert "eel" in refused.gates[1].found and "cat" not in refused.gates[1].found


def test_the_area_over_rotations():
    champion = model(300, area=0.6)
    assert verdict(model(300, area=0.58), champion, rotation_margin=0.025).passed
    assert not verdict(model(300, area=0.57), champion, rotation_margin=0.025).passed


def test_without_a_champion_the_comparisons_are_omitted():
    first = verdict(model(300), None, minimum_accuracy=0.5, level=0.05, class_level=0.05, margin=0.0)
    assert [gate.name for gate in first.gates] == ["minimum_accuracy"] and first.difference is None


def test_one_refusing_gate_is_enough():
    found = verdict(model(400, parameters=9), model(300), level=0.05, max_parameters=8)
    assert {gate.name: gate.passed for gate in found.gates} == {"max_parameters": False, "level": True}
    assert not found.passed
