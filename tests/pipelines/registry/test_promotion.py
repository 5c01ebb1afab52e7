"""promote, from the registry to the alias: comparisons of the versions in the registry of conftest.py."""

from pathlib import Path

import mlflow
import pytest

from pipelines.registry.champion import Outcome, count_challengers, read_history
from pipelines.registry.promotion import promote
from pipelines.registry.rollback import rollback
from pipelines.registry.theta_tags import ThetaTags
from pipelines.runtime.errors import ExternalError, UserError

NAME = "stn-mine"


@pytest.mark.parametrize(
    ("version", "outcome"),
    [("2", Outcome.PROMOTED), ("3", Outcome.REFUSED), ("4", Outcome.REFUSED), ("5", Outcome.REFUSED)],
    ids=["better", "equal", "worse", "biased"],
)
def test_each_challenger_gets_the_correct_outcome(store, version, outcome):
    decision = store.promote(version)
    assert decision.outcome == outcome
    assert store.champion == (version if outcome == Outcome.PROMOTED else "1")
    if version == "5":
        assert decision.gates.startswith("level passed") and "class_level refused: eel -34.0 points" in decision.gates


def test_the_biased_version_passes_without_the_gate_for_classes(store):
    assert store.promote("5", "promote.class_level=none").outcome == Outcome.PROMOTED


def test_a_promotion_is_recorded(store):
    store.promote("2")
    (decision,) = read_history(store.client, NAME)
    assert (decision.before, decision.after) == ("1", "2") and "level passed: +7.50 points" in decision.gates
    tags = store.client.get_model_version(NAME, "2").tags
    assert tags["promotion"] == "promoted" and tags["previous_champion"] == "1"
    run = store.client.get_run(tags["promotion_run"])
    expected = {"challenger_test_accuracy": 0.825, "champion_test_accuracy": 0.75, "difference": 0.075, "passed": 1.0}
    assert {key: run.data.metrics[key] for key in expected} == pytest.approx(expected)
    assert run.data.metrics["low"] < 0.075 < run.data.metrics["high"] and run.data.metrics["challenger_latency_ms"] > 0
    report = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/promotion.md")  # pyright: ignore[reportPrivateImportUsage]
    assert "| challenger | 2 | stn | 100 | 82.50% |" in report and "| level |" in report


@pytest.mark.slow
def test_the_challengers_that_have_met_the_test_images_are_counted(store):
    """Of many challengers one passes by chance. A version counts once; a dry run and a rollback do not count."""

    def note(version: str, **options) -> str:
        return store.promote(version, **options).gates.partition("; challenger ")[2].partition(";")[0]

    assert note("2", dry_run=True) == note("4") == note("4") == "1 on these test images"
    assert note("3") == "2 on these test images"
    assert note("2") == "3 on these test images"
    store.promote("1", force="to see")
    rollback(NAME, "to see the next")
    assert note("5") == "5 on these test images"
    run = store.client.get_run(store.client.get_model_version(NAME, "5").tags["promotion_run"])
    assert run.data.metrics["challengers"] == 5 and run.data.tags["data_digest"] == "d1"
    # Decisions of earlier commits do not name their data, and other data count on their own.
    store.client.delete_tag(run.info.run_id, "data_digest")
    assert count_challengers(store.client, NAME, "d1", "1") == 5
    assert count_challengers(store.client, NAME, "d2", "1") == 1


def test_a_dry_run_leaves_no_trace(store):
    assert store.promote("2", dry_run=True).outcome == Outcome.PROMOTED
    assert store.champion == "1" and not read_history(store.client, NAME)
    assert "promotion" not in store.client.get_model_version(NAME, "2").tags


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_another_metric_decides_also_about_versions_of_earlier_code(store, metric):
    """These versions have no tags of any metric."""
    promotion = promote(NAME, store.params(f"evaluate.metric={metric}"), "2", dry_run=True)
    assert promotion is not None and promotion.decision.outcome == Outcome.PROMOTED
    label = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}[metric]
    assert f"better in {label}, p at most 0.05" in promotion.report and f"| test {label} |" in promotion.report
    promotion = promote(NAME, store.params("promote.margin=0.0"), "3", dry_run=True)
    assert promotion is not None and promotion.decision.outcome == Outcome.REFUSED
    assert f"interval of the difference in {label} not below" in promotion.report


def test_force_overrides_the_gates_and_records_the_reason(store):
    assert store.promote("4", force="the fair is tomorrow").outcome == Outcome.FORCED
    assert store.champion == "4" and read_history(store.client, NAME)[0].reason == "the fair is tomorrow"
    assert store.promote("1", force="over").outcome == Outcome.PROMOTED, "a version that passes is not forced"


def test_without_a_version_the_challenger_is_promoted(store):
    with pytest.raises(UserError, match="VERSION: 'challenger' given"):
        promote(NAME, store.params())
    store.client.set_registered_model_alias(NAME, "challenger", "2")
    assert promote(NAME, store.params()) is not None and store.champion == "2"
    assert promote(NAME, store.params()) is None, "it is already the champion"


def test_without_a_champion_the_first_version_that_passes_becomes_it(store):
    store.client.delete_registered_model_alias(NAME, "champion")
    assert store.promote("4", "promote.minimum_accuracy=0.7").outcome == Outcome.REFUSED
    assert store.promote("4", "promote.minimum_accuracy=0.6").outcome == Outcome.PROMOTED
    assert store.champion == "4"


def test_theta_is_checked_by_its_gates_and_trouble_is_in_the_report(store):
    gates = ("promote.minimum_alignment=0.3", "promote.maximum_outside=0.5")
    refused = store.promote("2", *gates)
    assert refused.outcome == Outcome.REFUSED and "minimum_alignment refused: not measured" in refused.gates
    for key, value in ThetaTags(True, 0.3, 0.6, "outside").to_tags().items():
        store.client.set_model_version_tag(NAME, "2", key, value)
    refused = store.promote("2", *gates)
    assert "minimum_alignment passed: 30.0%; maximum_outside refused: 60.0%" in refused.gates
    promotion = promote(NAME, store.params("promote.maximum_outside=0.6"), "2")
    assert promotion is not None and promotion.decision.outcome == Outcome.PROMOTED
    assert "Trouble of version 2: outside." in promotion.report


def test_an_unknown_model_or_version_is_refused(store):
    with pytest.raises(UserError, match=r"'stn-other' given.*stn-mine"):
        promote("stn-other", store.params())
    with pytest.raises(UserError, match="VERSION: '9' given; stn-mine has champion, 1, 2, 3, 4, 5"):
        store.promote("9")


def test_versions_trained_on_other_data_are_not_compared(store):
    meta = Path("data/prepared/meta.json")
    meta.write_text(meta.read_text().replace('"d1"', '"d2"'))
    with pytest.raises(UserError, match="version 2 of stn-mine was trained on data d1, which are neither in data/prep"):
        store.promote("2", force="I insist")
    store.client.set_model_version_tag(NAME, "2", "data_digest", "d2")
    try:
        with pytest.raises(UserError, match="was trained on data d2, the champion, version 1, on d1: a comparison"):
            store.promote("2", force="I insist")
    finally:
        store.client.set_model_version_tag(NAME, "2", "data_digest", "d1")
    assert store.champion == "1"


@pytest.mark.parametrize("file", ["network.pt2", "pyfunc_model.py", "MLmodel"])
@pytest.mark.parametrize("how", ["gone", "altered"])
def test_a_version_whose_files_are_not_those_registered_is_not_loaded(store, registry, monkeypatch, file, how):
    source = store.client.get_model_version(NAME, "2").source.rsplit("/", 1)[-1]
    (place,) = (path for path in (registry / "state/artifacts").rglob(file) if source in path.parts)
    kept = place.read_bytes()
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda *_: pytest.fail("the model was loaded"))
    try:
        if how == "gone":
            place.unlink()
        else:
            place.write_bytes(kept + b"\n")
        with pytest.raises(ExternalError, match=rf"version 2 of {NAME}: its file"):
            store.promote("2")
    finally:
        place.write_bytes(kept)
    assert store.champion == "1"


def test_the_area_over_rotations_is_measured_for_its_gate(store):
    """The first pixel of a rotated image is black, so both versions predict the class of image 0."""
    assert store.promote("2", "promote.rotation_margin=0.0").outcome == Outcome.PROMOTED
    metrics = store.client.get_run(store.client.get_model_version(NAME, "2").tags["promotion_run"]).data.metrics
    # The versions differ at one of thirteen angles, 0.
    assert metrics["challenger_rotation_area"] - metrics["champion_rotation_area"] == pytest.approx(0.075 / 12)
