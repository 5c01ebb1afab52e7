"""What the stage tune writes beside variants/tuned.yaml."""

from pathlib import Path

METRICS = Path("metrics/tune.json")
PICTURES = Path("plots/tune")
