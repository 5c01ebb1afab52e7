"""The benchmark of overhead reads the timeline that the stage train prints."""

import pytest

from benchmarks.overhead import read_timeline
from pipelines.runtime.progress import Timeline


def test_the_timeline_of_the_stage_train_is_read():
    timeline = Timeline()
    start = timeline.last
    timeline.mark("imports", start + 2)
    timeline.mark("MLflow", start + 2.5)
    timeline.mark("epochs", start + 12.5)
    timeline.mark("end of Ray", start + 14)
    stage, phases = read_timeline(f"stn: 1 seed(s) × 5 epochs\nstn: {timeline}\nstn: validation accuracy 90.00%\n")
    assert stage == pytest.approx(14)
    assert phases == {"imports": 2.0, "MLflow": 0.5, "epochs": 10.0, "end of Ray": 1.5}
