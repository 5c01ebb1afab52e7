"""The model card: its values are those of the version, and its links lead into the version's run."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.outputs.alignment_results import Alignment, Slope, ThetaResults
from pipelines.outputs.evaluation_results import Difference, EvaluationResults, VariantResults
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.outputs.trained_models import Trained
from pipelines.registry.model_card import VersionLinks, model_card, version_card
from pipelines.settings.metric import Metric
from pipelines.settings.variants import VariantParams
from tests.results import class_scores, seed_results, variant_results

META = DatasetMeta(
    dataset="mine", source="flowers.zip", digest="0123456789abcdef", classes=["cat", "dog", "eel", "fox"],
    image_shape=(3, 32, 32), counts={"train": 9000, "validation": 1000, "test": 2000}, mean=[0.5] * 3, std=[0.2] * 3,
    distortion={"rotation": 30.0, "scale": [0.5, 1.0], "shift": 0.1}, duplicates={}, broken={},
)  # fmt: skip
PLAIN = {"transformer": None, "classifier": {"channels": [8], "kernel_sizes": [5], "hidden": [9, 7]}}
LINKS = VersionLinks("stn-mine", "7", "#/experiments/4/runs/abc")


def results(accuracy: float, parameters: int, seeds: int) -> VariantResults:
    return variant_results(
        accuracy, seeds, test_accuracy=accuracy - 0.01, calibration_error=accuracy / 10, validation_accuracy=accuracy,
        classes=class_scores(cat=0.9, dog=0.5, eel=0.7, fox=0.6), parameters=parameters, multiply_adds=parameters * 10,
        robustness={"rotation": accuracy / 2, "scale": accuracy / 4, "shift": accuracy / 5},
    )  # fmt: skip


def card(variant: str, seeds: int = 3, meta: DatasetMeta = META, without: str = "", outside: float = 0.2) -> str:
    localization = {"channels": [8], "kernel_sizes": [7], "hidden": 32}
    transformer: dict[str, Any] = {"padding_mode": "border", "localization": localization}
    classifier = {"channels": [8], "kernel_sizes": [5], "hidden": [9, 7]}
    settings = VariantParams.model_validate(
        {"transformer": None if variant == "plain" else transformer, "classifier": classifier}
    )
    slopes = {name: Slope(0.5, 0.4, 0.6, -0.25) for name in ("rotation", "scale", "shift")}
    stn = replace(results(0.9, 23456, seeds), alignment=Alignment(slopes, 3.0, 9.0, 6.0, 12.0, 0.5))
    variants = {"plain": results(0.8, 12345, seeds), "stn": stn}
    variants.pop(without, None)
    if without != "stn":
        theta = ThetaResults(0.5, outside, mirrored=0.0, one_color=0.0, spread=0.1)
        variants["stn"] = replace(stn, seeds={**stn.seeds, seeds - 1: seed_results(0.9, 0.5, theta)})
    pairs = {"stn vs plain": Difference(0.1, 0.08, 0.12, only_first=10, only_second=210, p_value=0.00123)}
    model = cast(Trained, SimpleNamespace(variant=variant, seed=seeds - 1, record=SimpleNamespace(variant=settings)))
    return version_card(LINKS, model, meta, EvaluationResults(variants, pairs))


def make_model(seed: int) -> Trained:
    record = SimpleNamespace(variant=VariantParams.model_validate(PLAIN))
    return cast(Trained, SimpleNamespace(variant="plain", seed=seed, record=record))


def row(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_it_shows_the_results_next_to_those_of_plain():
    text = card("stn")
    assert row(text, "on 2,000 test images") == ["stn", "plain"]
    assert row(text, "test accuracy of the chosen") == ["90.00%", "80.00%"]
    assert row(text, "calibration error") == ["9.00%", "8.00%"]
    assert row(text, "test accuracy over training seeds") == ["89.00 ± 1.23 %", "79.00 ± 1.23 %"]
    assert row(text, "mean over rotation -90 to 90 °") == ["45.00%", "40.00%"]
    assert row(text, "mean over shift") == ["18.00%", "16.00%"]
    assert row(text, "parameters") == ["23,456", "12,345"]
    assert "+10.00 points, interval +8.00 to +12.00, McNemar's exact p = 0.0012" in text
    assert row(text, "test balanced accuracy of the chosen") == ["81.00%", "72.00%"]
    assert row(text, "test macro-F1 over training seeds") == ["72.00 ± 1.23 %", "64.00 ± 1.23 %"]
    assert row(text, "dog") == ["10", "50.0%", "25.0%", "50.0%"] and "(4 of 4 classes)" in text
    assert text.index("| dog") < text.index("| fox") < text.index("| eel") < text.index("| cat")
    assert "A spatial transformer (affine; padding border) before 1 convolution and 3 linear layers." in text
    assert "9,000 training" in text and "rotation to ±30°, scale 0.5 to 1, shift to ±10%" in text
    for file in ("evaluation/robustness.png", "theta/grids.png", "theta/means.png"):
        assert f"({LINKS.run}/artifacts/{file})" in text
    assert 'load_model("models:/stn-mine/7")' in text and "make provenance MODEL=stn-mine VERSION=7" in text
    assert len(text) < 5000, "longer than the column of a database"


def test_it_shows_what_the_transformer_undoes():
    text = card("stn")
    assert row(text, "share of rotation -30 to 30 ° that θ undoes") == ["0.50 (0.40 to 0.60)", "no transformer"]
    assert "share of" not in card("plain")


def test_it_names_trouble_of_the_registered_model():
    assert "**Trouble**: θ looks outside the image for more than half of its grid." in card("stn", outside=0.6)
    assert "Trouble" not in card("stn") and "Trouble" not in card("plain", outside=0.6)


def test_it_names_classes_without_a_right_answer_and_classes_without_test_images():
    assert "No right answer" not in card("stn") and "without test images" not in card("stn")
    plain = variant_results(
        0.8,
        seeds={2: seed_results(0.8, never_right=["dog"])},
        chosen_seed=2,
        classes=class_scores(cat=0.9, dog=0.0, eel=None),
    )
    model = SimpleNamespace(
        variant="plain", seed=2, record=SimpleNamespace(variant=VariantParams.model_validate(PLAIN))
    )
    text = version_card(LINKS, cast(Trained, model), META, EvaluationResults({"plain": plain}, {}))
    assert "**No right answer**: no test image of 1 of 3 classes is classified correctly: dog." in text
    assert "on classes without test images: eel." in text and "| eel" not in text


def test_with_many_classes_the_card_shows_the_weakest():
    names = [f"class {i} with a name that is much too long to be shown in a table" for i in range(1000)]
    classes = class_scores(**{name: i / 1000 for i, name in enumerate(names)})
    plain = variant_results(0.9, seeds={0: seed_results(0.9, never_right=names[:300])}, classes=classes)
    meta = replace(META, classes=names)
    text = version_card(LINKS, make_model(0), meta, EvaluationResults({"plain": plain}, {}))
    assert "(5 of 1000 classes)" in text and "300 of 1000 classes" in text and "and 290 more" in text
    assert len(text) < 5000


def test_plain_is_compared_with_nothing():
    text = card("plain", seeds=1)
    assert row(text, "on 2,000") == ["plain"] and row(text, "test accuracy over") == ["one seed"]
    assert "Against" not in text and "theta/grids" not in text and "without a spatial transformer" in text


def test_without_results_of_plain():
    text = card("stn", without="plain")
    assert row(text, "on 2,000") == ["stn"]


@pytest.mark.parametrize(("rotation", "distorted"), [(0.0, False), (1.0, True)])
def test_a_distortion_is_described(rotation, distorted):
    distortion = {"rotation": rotation, "scale": [1.0, 1.0], "shift": 0.0}
    assert ("distorted" in card("stn", meta=replace(META, distortion=distortion))) == distorted
    protocol = replace(META, distortion=distortion | {"protocol": "RTS"})
    assert "distorted by the protocol RTS." in card("stn", meta=protocol)


def test_the_card_of_a_model_with_many_classes_is_short():
    text = model_card(
        "stn-mine", replace(META, classes=[f"class {i}" for i in range(1000)]), "| a table |", Metric.MACRO_F1
    )
    assert "class 9 and 990 more)" in text and "class 10" not in text
    assert "the best model of the last `dvc repro` by validation macro-F1" in text
    assert text.endswith("| a table |") and "models:/stn-mine@champion" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "must be resized to 32×32, as in training"),
        ({"fit": "pad", "fill": [1, 2, 3], "image_shape": (3, 24, 94)}, "padded with color [1, 2, 3], as in training"),
        (
            {"fit": "pad", "fill": "edge"},
            "fit into 32×32 with their aspect ratio, and padded with the color of their edge",
        ),
        ({"fit": "crop", "image_shape": (3, 24, 94)}, "cover 24×94 with their aspect ratio, and cut to their middle"),
        (
            {"image_shape": (3, 48, 150), "distortion": {"protocol": "RTS", "padding_mode": "zeros"}},
            "must be resized to 32×100, and placed in the middle of a black canvas of 48×150",
        ),
    ],
)
def test_it_says_how_images_of_another_size_are_converted(changes, expected):
    assert expected in card("stn", meta=replace(META, **changes))
