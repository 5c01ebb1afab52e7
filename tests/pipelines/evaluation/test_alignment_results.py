"""Files of the alignment: what is written is read."""

import numpy as np

from pipelines.outputs.alignment_results import Alignment, Slope, UndoneCurve, read_undone, write_undone
from pipelines.outputs.motions import UNDONE_MOTIONS

ROTATION = UNDONE_MOTIONS[0]


def test_an_alignment_is_read_from_its_json():
    alignment = Alignment({"rotation": Slope(0.5, 0.4, 0.6, -0.25)}, 3.0, 9.0, 6.0, 12.0, 0.5)
    assert Alignment.from_json(alignment.to_json()) == alignment


def test_curves_are_read_by_variant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_undone(ROTATION, {})
    assert read_undone(ROTATION) == {}
    values = np.random.default_rng(0).random((3, len(ROTATION.amounts)))
    write_undone(ROTATION, {"stn": UndoneCurve(*values)})
    read = read_undone(ROTATION)
    assert list(read) == ["stn"] and np.array_equal(np.stack(read["stn"]), values)
