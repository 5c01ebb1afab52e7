"""Made-up results of the stage evaluate, for tests of what shows them."""

from collections.abc import Sequence
from typing import Any

from pipelines.outputs.alignment_results import ThetaResults
from pipelines.outputs.class_results import ClassScores
from pipelines.outputs.evaluation_results import SeedResults, VariantResults

STD = 0.0123
BALANCED, MACRO_F1 = 0.9, 0.8  # factors of the accuracy


def class_scores(**f1: float | None) -> list[ClassScores]:
    """Scores of 10 images a class, from their F1; a class with None has no images."""
    return [
        ClassScores(name, 0 if value is None else 10, value, value and value / 2, value) for name, value in f1.items()
    ]


def seed_results(
    accuracy: float, loss: float = 0.5, theta: ThetaResults | None = None, never_right: Sequence[str] = ()
) -> SeedResults:
    """Results of one training seed."""
    return SeedResults(accuracy, BALANCED * accuracy, MACRO_F1 * accuracy, loss, list(never_right), theta)


def variant_results(accuracy: float, number: int = 1, **changes: Any) -> VariantResults:
    """Results of one variant with ``number`` training seeds of this accuracy; ``changes`` replace fields."""
    std = STD if number > 1 else None
    values: dict[str, Any] = {
        "test_accuracy": accuracy, "test_accuracy_std": std, "test_balanced_accuracy": BALANCED * accuracy,
        "test_balanced_accuracy_std": std, "test_macro_f1": MACRO_F1 * accuracy, "test_macro_f1_std": std,
        "test_loss": 0.4321, "calibration_error": 0.025, "validation_accuracy": 0.905,
        "validation_balanced_accuracy": 0.805, "validation_macro_f1": 0.705,
        "seeds": {seed: seed_results(accuracy, 0.4321) for seed in range(number)}, "final_fit": False, "chosen_seed": 0,
        "chosen_test_accuracy": accuracy, "classes": class_scores(cat=accuracy, dog=accuracy), "parameters": 12345,
        "multiply_adds": 23456, "robustness": {"rotation": accuracy / 2, "scale": accuracy / 3, "shift": accuracy / 4},
    }  # fmt: skip
    return VariantResults(**{**values, **changes})
