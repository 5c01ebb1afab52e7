"""The gates that a challenger has to pass before it becomes champion: each a question with a measured answer."""

from typing import NamedTuple

import numpy as np

from pipelines.evaluation.significance import Difference, compare, holm, p_better
from pipelines.settings.params import EvaluateParams, PromoteParams


class Candidate(NamedTuple):
    """What was measured of a registered version: which test images it got right, boolean (N,), and more.

    ``rotation_area`` is the mean accuracy over rotations, None where no gate asks for it; ``latency_ms`` the median
    time of an answer for one image.
    """

    version: str
    variant: str
    parameters: int
    right: np.ndarray
    rotation_area: float | None
    latency_ms: float


class Gate(NamedTuple):
    """One gate: the setting that asks for it, what it wants, what was found, and whether that passes."""

    name: str
    wanted: str
    found: str
    passed: bool


class Verdict(NamedTuple):
    """All gates, and the difference to the champion (None where there is no champion)."""

    gates: list[Gate]
    difference: Difference | None

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)


def judge(
    asked: PromoteParams,
    settings: EvaluateParams,
    challenger: Candidate,
    champion: Candidate | None,
    truth: np.ndarray,
    classes: list[str],
) -> Verdict:
    """Put the challenger to every gate that is asked for; those of a comparison need a champion.

    Args:
        asked: the section ``promote`` of params.yaml.
        settings: how the interval of the difference is made.
        truth: labels (N,) of the test images, indices into ``classes``.
    """
    gates = []
    accuracy = float(challenger.right.mean())
    if asked.minimum_accuracy != "none":
        passed = accuracy >= asked.minimum_accuracy
        gates.append(Gate("minimum_accuracy", f"at least {asked.minimum_accuracy:.2%}", f"{accuracy:.2%}", passed))
    if asked.max_parameters != "none":
        passed = challenger.parameters <= asked.max_parameters
        found = f"{challenger.parameters:,}"
        gates.append(Gate("max_parameters", f"at most {asked.max_parameters:,}", found, passed))
    if asked.variants != "any":
        passed = challenger.variant in asked.variants
        gates.append(Gate("variants", f"one of {', '.join(asked.variants)}", challenger.variant, passed))
    if champion is None:
        return Verdict(gates, None)

    difference = compare(champion.right, challenger.right, settings)
    if asked.margin != "none":
        wanted = f"{settings.confidence:.0%} interval of the difference not below {-100 * asked.margin:+g} points"
        found = f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
        gates.append(Gate("margin", wanted, found, difference.low >= -asked.margin))
    if asked.level != "none":
        p_value = p_better(champion.right, challenger.right)
        found = f"{100 * difference.difference:+.2f} points, p = {p_value:.2g}"
        gates.append(Gate("level", f"better, p at most {asked.level:g}", found, p_value <= asked.level))
    if asked.class_level != "none":
        gates.append(_no_class_worse(asked.class_level, challenger.right, champion.right, truth, classes))
    if asked.rotation_margin != "none":
        assert challenger.rotation_area is not None and champion.rotation_area is not None
        lost = champion.rotation_area - challenger.rotation_area
        wanted = f"at most {100 * asked.rotation_margin:g} points lost of the mean over rotations"
        found = f"{challenger.rotation_area:.2%}, the champion's {champion.rotation_area:.2%}"
        gates.append(Gate("rotation_margin", wanted, found, lost <= asked.rotation_margin))
    return Verdict(gates, difference)


def _no_class_worse(
    level: float, challenger: np.ndarray, champion: np.ndarray, truth: np.ndarray, classes: list[str]
) -> Gate:
    """No class surely worse: a paired test for each, Holm's correction over all."""
    of_class = [truth == label for label in range(len(classes))]
    p_values = [p_better(challenger[images], champion[images]) for images in of_class]
    worse = [
        f"{name} {100 * (challenger[images].mean() - champion[images].mean()):+.1f} points"
        for name, images, rejected in zip(classes, of_class, holm(p_values, level), strict=True)
        if rejected
    ]
    return Gate("class_level", f"no class worse at {level:g}", ", ".join(worse) or "none", not worse)
