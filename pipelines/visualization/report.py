"""The report: one self-contained HTML file."""

import base64
from io import BytesIO
from pathlib import Path

import jinja2
from PIL import Image

from pipelines.outputs.trained_models import Trained, best_on_validation
from pipelines.runtime.files import read_json

TEMPLATE = Path(__file__).with_name("report.html.j2")


ANIMATION = "epochs"  # in each variant's folder of pictures, as all


def render_report(meta: dict, models: dict[str, list[Trained]], files: dict[str, Path]) -> str:
    """The report: pictures inside, no script, nothing loaded from elsewhere."""
    encoded = {name: _encoded(file.read_bytes()) for name, file in files.items()}
    with_theta = [variant for variant in models if f"{variant}/grids" in files]
    stills = {variant: _still(files[f"{variant}/{ANIMATION}"]) for variant in with_theta}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        meta=meta,
        metrics=read_json(Path("metrics/evaluate.json")),
        tuning=read_json(Path("metrics/tune.json")),
        best={variant: best_on_validation(of_variant) for variant, of_variant in models.items()},
        with_theta=with_theta,
        pictures=encoded,
        stills=stills,
    )


def _encoded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _still(animation: Path) -> str:
    """The last picture of an animation, for readers who asked for less motion."""
    with Image.open(animation) as frames:
        frames.seek(frames.n_frames - 1)  # pyright: ignore[reportAttributeAccessIssue]
        stream = BytesIO()
        frames.convert("RGB").save(stream, format="PNG")
    return _encoded(stream.getvalue())
