"""The winner of a study, as variants/tuned.yaml."""

from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from pipelines.outputs.tuning_results import METRICS, PICTURES
from pipelines.runtime.files import write_json, write_text
from pipelines.settings.variants import TUNED, VariantParams, variant_file


def conclude(winner: VariantParams, story: list[str], metrics: dict[str, Any]) -> dict[str, Any]:
    """Write the winner, with its story as a comment above, and the metrics, which are returned."""
    yaml, text = YAML(), StringIO()
    yaml.default_flow_style = None  # lists in one line, mappings not
    yaml.dump(winner.model_dump(), text)
    lines = ["Written by the stage tune; edit the section tune of params.yaml, not this file.", *story]
    write_text(variant_file(TUNED), "".join(f"# {line}\n" for line in lines) + text.getvalue())
    PICTURES.mkdir(parents=True, exist_ok=True)
    write_json(METRICS, metrics)
    return metrics
