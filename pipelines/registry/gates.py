"""The promotion gates: criteria that a challenger must meet to become champion."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.evaluation.significance import (
    Difference,
    better_p_value,
    compare,
    holm_rejections,
    mcnemar_p_value,
)
from pipelines.outputs.class_results import list_names
from pipelines.registry.theta_tags import NO_TRANSFORMER, ThetaTags
from pipelines.settings.params import EvaluateParams, PromoteParams


class Candidate(NamedTuple):
    """Measurements of a registered version.

    Args:
        version: its number.
        variant: its variant.
        parameters: number of learned parameters.
        predicted: predicted label of each test image, (N,).
        rotation_area: mean accuracy over rotations in [0, 1]; None if no gate needs it.
        latency_ms: median time of a prediction for one image, in milliseconds.
        theta: what its θ does on the test images, as measured by the stage evaluate.
    """

    version: str
    variant: str
    parameters: int
    predicted: np.ndarray
    rotation_area: float | None
    latency_ms: float
    theta: ThetaTags = ThetaTags(has_transformer=None)


class GroundTruth(NamedTuple):
    """Labels (N,) of the test images, as indices into the class names ``classes``."""

    labels: np.ndarray
    classes: Sequence[str]


class Gate(NamedTuple):
    """Result of one gate: name of its setting, the requirement, the measurement, and whether the challenger passed."""

    name: str
    wanted: str
    found: str
    passed: bool


class Verdict(NamedTuple):
    """Results of all gates, and the challenger's difference to the champion (None without a champion)."""

    gates: list[Gate]
    difference: Difference | None

    @property
    def passed(self) -> bool:
        """Whether all gates passed."""
        return all(gate.passed for gate in self.gates)


def check_gates(
    settings: PromoteParams,
    evaluate: EvaluateParams,
    challenger: Candidate,
    champion: Candidate | None,
    truth: GroundTruth,
) -> Verdict:
    """Check the challenger against all enabled gates. Gates that compare with the champion need one.

    Args:
        settings: section ``promote`` of params.yaml.
        evaluate: section ``evaluate``, for the confidence interval of the difference.
        challenger: version to be checked.
        champion: current champion, if there is one.
        truth: labels of the test images.
    """
    gates = _check_alone(settings, challenger, truth)
    if champion is None:
        return Verdict(gates, None)
    models = truth.labels, champion.predicted, challenger.predicted
    difference, metric = compare(*models, evaluate), evaluate.metric.label
    if settings.margin != "none":
        wanted = (
            f"{evaluate.confidence:.0%} interval of the difference in {metric} not below "
            f"{-100 * settings.margin:+g} points"
        )
        found = f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
        gates.append(Gate("margin", wanted, found, difference.low >= -settings.margin))
    if settings.level != "none":
        p_value = better_p_value(*models, evaluate)
        found = f"{100 * difference.difference:+.2f} points, p = {p_value:.2g}"
        gates.append(
            Gate("level", f"better in {metric}, p at most {settings.level:g}", found, p_value <= settings.level)
        )
    if settings.class_level != "none":
        gates.append(_check_classes(settings.class_level, challenger, champion, truth))
    if settings.rotation_margin != "none":
        assert challenger.rotation_area is not None and champion.rotation_area is not None
        loss = champion.rotation_area - challenger.rotation_area
        wanted = f"at most {100 * settings.rotation_margin:g} points lost of the mean over rotations"
        found = f"{challenger.rotation_area:.2%}, champion: {champion.rotation_area:.2%}"
        gates.append(Gate("rotation_margin", wanted, found, loss <= settings.rotation_margin))
    return Verdict(gates, difference)


def _check_alone(settings: PromoteParams, challenger: Candidate, truth: GroundTruth) -> list[Gate]:
    """Check the gates that need no champion."""
    gates = []
    accuracy = float((challenger.predicted == truth.labels).mean())
    if settings.minimum_accuracy != "none":
        wanted = f"at least {settings.minimum_accuracy:.2%}"
        gates.append(Gate("minimum_accuracy", wanted, f"{accuracy:.2%}", accuracy >= settings.minimum_accuracy))
    if settings.max_parameters != "none":
        passed = challenger.parameters <= settings.max_parameters
        wanted = f"at most {settings.max_parameters:,}"
        gates.append(Gate("max_parameters", wanted, f"{challenger.parameters:,}", passed))
    if settings.minimum_alignment != "none":
        wanted, undone = f"at least {settings.minimum_alignment:.0%} of a motion undone", challenger.theta.undone
        passed = undone >= settings.minimum_alignment
        gates.append(_theta_gate("minimum_alignment", wanted, f"{undone:.1%}", passed, challenger.theta))
    if settings.maximum_outside != "none":
        wanted, outside = f"at most {settings.maximum_outside:.0%} of the grid outside", challenger.theta.outside
        passed = outside <= settings.maximum_outside
        gates.append(_theta_gate("maximum_outside", wanted, f"{outside:.1%}", passed, challenger.theta))
    if settings.variants != "any":
        passed = challenger.variant in settings.variants
        gates.append(Gate("variants", f"one of {', '.join(settings.variants)}", challenger.variant, passed))
    return gates


def _theta_gate(name: str, wanted: str, found: str, passed: bool, theta: ThetaTags) -> Gate:
    """A gate on θ. Versions without a transformer pass; versions whose θ was not measured do not."""
    if theta.has_transformer is None:
        return Gate(name, wanted, "not measured when it was registered", False)
    return Gate(name, wanted, found, passed) if theta.has_transformer else Gate(name, wanted, NO_TRANSFORMER, True)


def _check_classes(level: float, challenger: Candidate, champion: Candidate, truth: GroundTruth) -> Gate:
    """Check that no class is significantly worse: one paired test per class, with Holm's correction."""
    after, before = (candidate.predicted == truth.labels for candidate in (challenger, champion))
    masks = [truth.labels == label for label in range(len(truth.classes))]
    p_values = [mcnemar_p_value(after[mask], before[mask]) for mask in masks]
    worse = [
        f"{name} {100 * (after[mask].mean() - before[mask].mean()):+.1f} points"
        for name, mask, rejected in zip(truth.classes, masks, holm_rejections(p_values, level), strict=True)
        if rejected
    ]
    return Gate("class_level", f"no class worse at {level:g}", list_names(worse) or "none", not worse)
