"""DVC's metrics: a few figures of each variant, all of them single numbers."""

from dataclasses import replace

from pipelines.outputs.alignment_results import Alignment, Slope
from pipelines.outputs.evaluation_results import SeedResults, VariantResults
from pipelines.outputs.variant_metrics import write_variant_metrics
from pipelines.runtime.files import read_json


def test_a_variant_has_a_few_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stn = VariantResults(
        test_accuracy=0.5, test_accuracy_std=0.1, test_balanced_accuracy=0.4, test_balanced_accuracy_std=0.1,
        test_macro_f1=0.3, test_macro_f1_std=0.1, test_loss=0.7, calibration_error=0.2, validation_accuracy=0.6,
        validation_balanced_accuracy=0.5, validation_macro_f1=0.5, seeds={4: SeedResults(0.5, 0.4, 0.3, 0.7)},
        final_fit=False, chosen_seed=4, chosen_test_accuracy=0.5, classes=[], parameters=10, multiply_adds=20,
        robustness={"rotation": 0.3},
        alignment=Alignment({"rotation": Slope(0.5, 0.4, 0.6, -0.25)}, 3.0, 9.0, 6.0, 12.0, 0.75),
    )  # fmt: skip
    write_variant_metrics({"stn": stn, "plain": replace(stn, test_accuracy_std=None, alignment=None)})
    expected = {
        "test_accuracy": 0.5, "test_balanced_accuracy": 0.4, "test_macro_f1": 0.3, "test_loss": 0.7,
        "calibration_error": 0.2, "parameters": 10,
    }  # fmt: skip
    assert read_json(tmp_path / "metrics/variants/plain.json") == expected
    written = read_json(tmp_path / "metrics/variants/stn.json")
    assert written == expected | {"test_accuracy_std": 0.1, "undone": 0.75}
