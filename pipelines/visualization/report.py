"""The report: one self-contained HTML file."""

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import jinja2
from PIL import Image

from pipelines.outputs import tuning_results
from pipelines.outputs.class_results import MOST_CLASSES, weakest
from pipelines.outputs.evaluation_results import read_results
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.outputs.trained_models import Trained
from pipelines.runtime.files import read_json
from pipelines.settings.metric import Metric

TEMPLATE = Path(__file__).with_name("report.html.j2")
ANIMATION = "epochs"  # name of the animation among the pictures of a variant


def render_report(meta: DatasetMeta, best: Mapping[str, Trained], pictures: Mapping[str, Path]) -> str:
    """Render the report as HTML with embedded pictures. It has no scripts and loads nothing.

    Args:
        best: variant → its best model on validation.
        pictures: name → PNG file. The names of a variant's pictures start with ``<variant>/``.
    """
    with_theta = [variant for variant in best if f"{variant}/grids" in pictures]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        meta=meta,
        results=read_results(),
        metrics=list(Metric),
        most_classes=MOST_CLASSES,
        weakest=weakest,
        tuning=read_json(tuning_results.METRICS),
        best=best,
        with_theta=with_theta,
        pictures={name: _to_data_url(file.read_bytes()) for name, file in pictures.items()},
        last_frames={variant: _last_frame(pictures[f"{variant}/{ANIMATION}"]) for variant in with_theta},
    )


def _to_data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _last_frame(animation: Path) -> str:
    """The last frame of an animation as a data URL, for readers who prefer reduced motion."""
    with Image.open(animation) as frames:
        frames.seek(frames.n_frames - 1)  # pyright: ignore[reportAttributeAccessIssue]
        stream = BytesIO()
        frames.convert("RGB").save(stream, format="PNG")
    return _to_data_url(stream.getvalue())
