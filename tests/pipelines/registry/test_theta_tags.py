"""Tags of θ: they are read back unchanged. A version without a transformer differs from one without tags."""

import pytest

from pipelines.outputs.alignment_results import ThetaResults
from pipelines.registry.theta_tags import ThetaTags


@pytest.mark.parametrize("outside", [0.25, 0.75])
def test_results_are_read_back(outside):
    tags = ThetaTags.from_results(ThetaResults(-0.125, outside, 0.6, 0.1, 0.2)).to_tags()
    trouble = "mirrored" if outside < 0.5 else "outside, mirrored"
    assert tags == {"theta_undone": "-0.1250", "theta_outside": f"{outside:.4f}", "theta_trouble": trouble}
    assert ThetaTags.from_tags(tags) == ThetaTags(True, -0.125, outside, trouble)


def test_a_version_without_a_transformer():
    tags = ThetaTags.from_results(None).to_tags()
    assert set(tags.values()) == {"no transformer"} and ThetaTags.from_tags(tags).has_transformer is False


def test_a_version_that_was_registered_before_theta_was_measured():
    assert ThetaTags.from_tags({"variant": "stn"}).has_transformer is None
