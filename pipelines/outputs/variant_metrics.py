"""The few figures of each variant that DVC shows as metrics: ``metrics/variants/<variant>.json``.

``dvc metrics show`` prints one row for each file, and ``dvc exp show`` one column for each figure, so that these files
hold no more than a table needs. All results are in ``metrics/evaluate.json``, an output that is no metric for DVC.
"""

from collections.abc import Mapping
from pathlib import Path

from pipelines.outputs.evaluation_results import VariantResults
from pipelines.runtime.files import write_json

FOLDER = Path("metrics/variants")


def write_variant_metrics(variants: Mapping[str, VariantResults]) -> None:
    """Write one file for each variant; figures that are None are left out."""
    for name, results in variants.items():
        figures = {
            "test_accuracy": results.test_accuracy,
            "test_accuracy_std": results.test_accuracy_std,
            "test_balanced_accuracy": results.test_balanced_accuracy,
            "test_macro_f1": results.test_macro_f1,
            "test_loss": results.test_loss,
            "calibration_error": results.calibration_error,
            "parameters": results.parameters,
            "undone": None if results.alignment is None else results.alignment.undone,
        }
        write_json(FOLDER / f"{name}.json", {name: value for name, value in figures.items() if value is not None})
