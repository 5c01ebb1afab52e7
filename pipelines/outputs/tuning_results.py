"""Files that the stage tune writes beside ``variants/tuned.yaml``: its metrics and its pictures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.runtime.files import read_json, write_json
from pipelines.settings.metric import Metric

METRICS = Path("metrics/tune.json")
PICTURES = Path("plots/tune")


@dataclass(frozen=True, kw_only=True)
class TuningResults:
    """Outcome of a study; without trials only ``winner`` is set.

    Args:
        study: name of the study.
        finished, pruned, failed: numbers of trials by outcome.
        overhead_seconds: median over the trials of their time outside training.
        finalists: mean of ``metric`` on the validation images, in [0, 1], of each finalist after full-length training,
            by its name.
        metric: the objective of the study.
        winner: name of the best finalist.
    """

    study: str | None = None
    finished: int = 0
    pruned: int = 0
    failed: int = 0
    overhead_seconds: float | None = None
    finalists: Mapping[str, float] = field(default_factory=dict)
    metric: Metric = Metric.ACCURACY
    winner: str

    def to_json(self) -> dict[str, Any]:
        """Content of metrics/tune.json, without fields that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def read(cls, path: Path = METRICS) -> "TuningResults":
        """Read the results of the last study.

        Raises:
            ExternalError: the file is damaged.
        """
        values = read_json(path)
        return cls(**{**values, "metric": Metric(values["metric"])})

    def write(self, path: Path = METRICS) -> None:
        """Write the results as JSON."""
        write_json(path, self.to_json())
