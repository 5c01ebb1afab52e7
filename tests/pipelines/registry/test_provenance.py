"""Provenance: from a version to its origin and back, for runs described as the stage train describes them."""

import sys
from pathlib import Path

import pytest

from pipelines.commands import provenance as command
from pipelines.registry.champion import Outcome, apply_decision, make_decision
from pipelines.registry.provenance import trace_version
from pipelines.registry.versions import find_version, record_of
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.settings.dotted_names import flatten
from pipelines.tracking.client import DIFF, Dataset, TrainingRun, experiment_id
from pipelines.tracking.outbox import Outbox

NAME = "stn-mine"
RECORD = {
    "variant": {
        "transformer": {"transform": "affine", "padding_mode": "zeros", "localization": {"channels": [4]}},
        "localization_lr": 0.3, "origin": {"study": "stn-mine-abc", "trial": 7},
    },
    "train": {"epochs": 12, "lr": 0.1, "seeds": [0, 5]},
    "data": {
        "dataset": "mine", "source": "flowers.zip", "digest": "d1" * 32, "counts": {"train": 9, "test": 3},
        "image_shape": [1, 8, 8], "classes": ["cat", "dog"], "distortion": {"rotation": 30},
    },
    "git_commit": "c0ffee" + 34 * "0", "git_dirty": "true",
    "git_diff": "diff --git a/x b/x\n+1\ndiff --git a/y b/y\n-2\n",
    "libraries": {"python": "3.12.1", "torch": "2.14.1"}, "workers": 2, "threads": 3, "gpu": False,
}  # fmt: skip


@pytest.fixture
def described(store):
    """The store with a sixth version, whose run has a training record and whose variant comes from a study."""
    client = store.client
    experiment = experiment_id(client, NAME)
    with Outbox(client, "some") as outbox:
        trained = TrainingRun(outbox, experiment, "some-key", "stn-5")
        params = flatten({"train": RECORD["train"], "variant": RECORD["variant"]})
        run_tags = {tag: str(RECORD[tag]) for tag in ("git_commit", "workers", "threads", "gpu")}
        dataset = Dataset("mine", "d1" * 32, "flowers.zip")
        trained.describe_now(params, {"variant": "stn", "seed": "5", **run_tags}, dataset, RECORD["git_diff"])
        trained.log_record(RECORD)
        trained.describe(tags={"device": "cpu", "precision": "bfloat16"})
        trained.log_summary_metrics({"test_accuracy": 0.75, "validation_accuracy": 0.5, "loss_of_no_interest": 1.0})
        study = TrainingRun(outbox, experiment, "stn-mine-abc", "tune-mine")
        study.describe(tags={"study": "stn-mine-abc"})
        trial = TrainingRun(outbox, experiment, "stn-mine-abc/trial-7", "trial-7")
    tags = {"variant": "stn", "seed": "5", "parameters": "1234", "model_digest": "m2", "data_digest": "d1" * 32}
    tags |= {"git_commit": RECORD["git_commit"], "git_dirty": "true"}
    version = client.create_model_version(NAME, "runs:/x/stn", trained.run_id, tags)
    apply_decision(client, NAME, make_decision(Outcome.FORCED, "1", str(version.version), reason="why not"))
    store.version, store.run_ids = str(version.version), (trained.run_id, study.run_id, trial.run_id)
    return store


def test_the_sections_of_a_version(described):
    made = {section.title: section.entries for section in trace_version(described.client, NAME, "champion")}
    trained, study, trial = described.run_ids
    assert made["version"]["aliases"] == "champion" and made["version"]["parameters"] == "1,234"
    assert made["code"]["git_commit"] == RECORD["git_commit"] and made["code"]["subject"] == "not in this repository"
    assert made["code"]["diff"].startswith("of 2 file(s)") and made["code"]["diff"].endswith(DIFF)
    assert made["data"]["digest"] == "d1" * 32 and made["data"]["source"] == "flowers.zip"
    assert (
        made["data"]["images"] == "9 train, 3 test"
        and made["data"]["shape"] == "1×8×8"
        and made["data"]["fit"] == "stretch"
    )
    assert made["run"]["id"] == trained and made["metrics"] == {
        "test_accuracy": "0.7500",
        "validation_accuracy": "0.5000",
    }
    assert made["train"] == {"epochs": "12", "lr": "0.1"}
    assert made["variant"]["transformer.localization.channels"] == "[4]" and "origin" not in str(made["variant"])
    assert made["machine"] == {
        "workers": "2", "threads": "3", "gpu": "False", "device": "cpu", "precision": "bfloat16",
    }  # fmt: skip
    assert made["libraries"] == RECORD["libraries"]
    assert made["study"] == {"study": "stn-mine-abc", "trial": "7", "study_run": study, "trial_run": trial}
    (decision,) = made["decisions"].values()
    assert decision.startswith(f"forced: 1 → {described.version}")


def test_the_record_and_the_uncommitted_changes_can_be_read_back(described):
    version = find_version(described.client, NAME, described.version)
    assert record_of(described.client, version) == RECORD
    diff = described.client.download_artifacts(described.run_ids[0], DIFF)
    assert Path(diff).read_text() == RECORD["git_diff"]


def test_a_version_without_a_record_is_refused(store):
    with pytest.raises(ExternalError, match=r"version 2 of stn-mine: run .* has no record of its training"):
        trace_version(store.client, NAME, "2")


def test_versions_are_listed_by_commit_or_data(described, monkeypatch, capsys):
    def run(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["provenance", *arguments])
        command.main()
        return capsys.readouterr().out.splitlines()

    (line,) = run("--commit", "c0ffee")
    assert line.startswith(f"{NAME} version {described.version}: stn, commit c0ffee0000, with uncommitted changes")
    assert [line.split(":")[0] for line in run("--data", "d1")] == [
        f"{NAME} version {number}" for number in range(1, 7)
    ]
    assert run(NAME, "--data", "d1d1") == [line]
    for wrong in (("--commit", "ffee"), ("--data", ""), ("another", "--commit", "c0ffee"), ()):
        with pytest.raises(UserError, match=r"given"):
            run(*wrong)
