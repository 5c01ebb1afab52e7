"""The model card: every figure in it is that of the version, and links lead into its run."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.outputs.trained_models import Trained
from pipelines.registry.model_card import model_card, version_card

META = {
    "dataset": "mine", "source": "flowers.zip", "digest": "0123456789abcdef", "classes": ["cat", "dog", "eel", "fox"],
    "image_shape": [3, 32, 32], "counts": {"train": 9000, "validation": 1000, "test": 2000},
    "distortion": {"rotation": 30.0, "scale": [0.5, 1.0], "shift": 0.1},
}  # fmt: skip
LINK = "#/experiments/4/runs/abc"


def values(accuracy: float, parameters: int, seeds: int) -> dict[str, Any]:
    return {
        "chosen_test_accuracy": accuracy, "test_accuracy": accuracy - 0.01, "test_accuracy_std": 0.0123,
        "calibration_error": accuracy / 10,
        "seeds": {str(seed): {} for seed in range(seeds)}, "parameters": parameters, "multiply_adds": parameters * 10,
        "class_accuracy": {"cat": 0.9, "dog": 0.5, "eel": 0.7, "fox": 0.6},
        "robustness": {"rotation": accuracy / 2, "scale": accuracy / 4, "shift": accuracy / 5},
    }  # fmt: skip


def card(variant: str, seeds: int = 3, meta: dict | None = None, without: str = "") -> str:
    transformer = {"transform": "affine", "padding_mode": "border", "parallel": 1} if variant != "plain" else None
    metrics = {
        "variants": {"plain": values(0.8, 12345, seeds), "stn": values(0.9, 23456, seeds)},
        "pairs": {"stn vs plain": {"difference": 0.1, "low": 0.08, "high": 0.12, "p_value": 0.00123}},
    }
    metrics["variants"].pop(without, None)
    settings = {"transformer": transformer, "classifier": {"channels": [8], "hidden": [9, 7]}}
    model = cast(Trained, SimpleNamespace(variant=variant, seed=2, record={"variant": settings}))
    return version_card("stn-mine", "7", model, meta or META, metrics, LINK)


def row(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_it_says_what_was_measured_beside_plain():
    text = card("stn")
    assert row(text, "on 2,000 test images") == ["stn", "plain"]
    assert row(text, "test accuracy of the chosen") == ["90.00%", "80.00%"]
    assert row(text, "calibration error") == ["9.00%", "8.00%"]
    assert row(text, "test accuracy over training seeds") == ["89.00 ± 1.23 %", "79.00 ± 1.23 %"]
    assert row(text, "mean over rotation -90 to 90 °") == ["45.00%", "40.00%"]
    assert row(text, "mean over shift") == ["18.00%", "16.00%"]
    assert row(text, "parameters") == ["23,456", "12,345"]
    assert "+10.00 points, interval +8.00 to +12.00, McNemar's exact p = 0.0012" in text
    assert "dog 50.0%, fox 60.0%, eel 70.0%" in text
    assert "before 1 convolution and 3 linear layers." in text
    assert "9,000 training" in text and "rotation to ±30°, scale 0.5 to 1, shift to ±10%" in text
    assert f"({LINK}/artifacts/evaluation/robustness.png)" in text and f"({LINK}/artifacts/theta/grids.png)" in text
    assert 'load_model("models:/stn-mine/7")' in text and "make provenance MODEL=stn-mine VERSION=7" in text
    assert len(text) < 5000, "longer than the column of a database"


def test_plain_is_held_against_nothing():
    text = card("plain", seeds=1)
    assert row(text, "on 2,000") == ["plain"] and row(text, "test accuracy over") == ["one seed"]
    assert "Against" not in text and "theta/grids" not in text and "without a spatial transformer" in text


def test_where_plain_was_not_trained():
    text = card("stn", without="plain")
    assert row(text, "on 2,000") == ["stn"]


@pytest.mark.parametrize(("rotation", "said"), [(0.0, False), (1.0, True)])
def test_distortion_is_told_where_there_is_one(rotation, said):
    meta = META | {"distortion": {"rotation": rotation, "scale": [1.0, 1.0], "shift": 0.0}}
    assert ("distorted" in card("stn", meta=meta)) == said
    meta["distortion"]["protocol"] = "RTS"
    assert "distorted by the protocol RTS." in card("stn", meta=meta)


def test_the_card_of_a_model_of_many_classes_stays_short():
    text = model_card("stn-mine", META | {"classes": [f"class {i}" for i in range(1000)]}, "| a table |")
    assert "class 11, …)" in text and "class 12" not in text
    assert text.endswith("| a table |") and "models:/stn-mine@champion" in text
