"""The report, rendered from small inputs: it shows the results and loads nothing."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from pipelines.outputs import tuning_results
from pipelines.outputs.alignment_results import ThetaResults
from pipelines.outputs.evaluation_results import (
    Difference,
    EvaluationResults,
    write_results,
)
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.runtime.files import write_json
from pipelines.visualization.animation import write_animation
from pipelines.visualization.report import render_report
from tests.results import seed_results, variant_results

CHARTS = ("curves-accuracy", "curves-loss", "robustness", "reliability")
CONFUSIONS = ("confusion-plain", "confusion-stn")
THETA_PICTURES = ("rectified", "grids", "worst", "theta", "means", "filmstrip")


@pytest.mark.parametrize(
    ("distortion", "text"),
    [
        ({"protocol": "RTS"}, "protocol RTS"),
        ({"rotation": 30.0, "scale": [0.7, 1.0], "shift": 0.1}, "rotation up to ±30°, scale 0.7–1.0"),
        ({"rotation": 0.0, "scale": [1.0, 1.0], "shift": 0.0}, None),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_report_shows_the_results(distortion, text, seeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meta = DatasetMeta(
        dataset="mine", source="/data/mine", classes=["cat", "dog"], image_shape=(1, 8, 8),
        counts={"train": 300, "validation": 50, "test": 100}, mean=[0.5], std=[0.25], distortion=distortion,
        duplicates={}, broken={}, digest="0123456789abcdef",
    )  # fmt: skip
    lost = {0: seed_results(0.83, 0.4321, ThetaResults(0.0, 0.9, 0.0, 0.0, 0.1), ["dog"])}
    stn = variant_results(0.83, seeds)
    variants = {"plain": variant_results(0.83, seeds), "stn": replace(stn, seeds={**stn.seeds, **lost})}
    write_results(EvaluationResults(variants, {"stn vs plain": Difference(0.07, 0.0012, 0.1398, 3, 10, 0.0923)}))
    study = {"study": "study-1", "finished": 9, "pruned": 5, "failed": 1, "finalists": {"a": 0.9}, "winner": "a"}
    write_json(tuning_results.METRICS, study)
    pictures = {
        name: Path(f"{name}.png") for name in (*CHARTS, *CONFUSIONS, *(f"stn/{name}" for name in THETA_PICTURES))
    }
    pictures |= {"stn/epochs": Path("stn/epochs.png"), "tune/history": Path("tune-history.png")}
    Path("stn").mkdir()
    for picture in pictures.values():
        frames = [Image.new("RGB", (4, 4), color) for color in ("white", "black")]
        write_animation(frames, picture)
    best: Any = {name: SimpleNamespace(seed=0, run_id=f"run-of-{name}") for name in variants}

    html = render_report(meta, best, pictures)
    assert "stn vs plain: +7.00 points (interval +0.12 to\n+13.98)" in html
    assert ("83.00 ± 1.23 %" in html) == (seeds > 1) and "90.50 %" in html and "12,345" in html
    assert f"over {seeds} training seed(s)" in html
    head = html.split("<h2>")[0]
    assert "<strong>Trouble</strong>: stn, training seed 0: θ looks outside" in head and head.count("Trouble") == 1
    told = "stn, training seed 0: no test image of 1 of 2 classes is classified correctly: dog."
    assert f"<strong>No right answer</strong>: {told}" in head
    assert f"74.70{' ± 1.23' if seeds > 1 else ''} %" in html and f"66.40{' ± 1.23' if seeds > 1 else ''} %" in html
    assert ("distorted" in html.split("<h2>")[0]) == (text is not None) and (text or "mine") in html
    assert "run-of-stn" in html and "run-of-plain" not in html, "plain has no transformer to show"
    assert "study-1" in html and "a 90.00 %" in html
    # All pictures, and the last frame of the animation.
    assert html.count("data:image/png;base64,") == len(pictures) + 1
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", html) and "<script" not in html
