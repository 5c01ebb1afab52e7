"""provenance: from a version to what made it and back, on runs described as the stage train describes them."""

import sys
from pathlib import Path

import pytest

from pipelines.commands import provenance
from pipelines.registry import champion
from pipelines.registry.versions import find_version
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.tracking.client import DIFF, TrainingRun, experiment_id
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
    """The store, with version 2 made by a training on record, whose variant comes from a study."""
    client = store.client
    experiment = experiment_id(client, NAME)
    with Outbox(client, "some") as delivery:
        trained = TrainingRun(delivery, experiment, "some-key", "seed-5")
        trained.describe_training("stn", 5, RECORD, RECORD["data"])
        trained.describe(tags={"device": "cpu", "precision": "bfloat16"})
        trained.log_summary_metrics({"test_accuracy": 0.75, "loss_of_no_interest": 1.0})
        study = TrainingRun(delivery, experiment, "stn-mine-abc", "tune-mine")
        study.describe(tags={"study": "stn-mine-abc"})
        trial = TrainingRun(delivery, experiment, "stn-mine-abc/trial-7", "trial-7")
    tags = {"variant": "stn", "seed": "5", "parameters": "1234", "model_digest": "m2", "data_digest": "d1" * 32}
    tags |= {"git_commit": RECORD["git_commit"], "git_dirty": "true"}
    version = client.create_model_version(NAME, "runs:/x/stn", trained.run_id, tags)
    champion.record(client, NAME, champion.decide(champion.FORCED, "1", str(version.version), "why not"))
    store.version, store.run_ids = str(version.version), (trained.run_id, study.run_id, trial.run_id)
    return store


def test_everything_that_made_a_version(described):
    made = provenance.provenance(described.client, NAME, "champion")
    trained, study, trial = described.run_ids
    assert made["version"]["aliases"] == "champion" and made["version"]["parameters"] == "1,234"
    assert made["code"]["git_commit"] == RECORD["git_commit"] and made["code"]["subject"] == "not in this repository"
    assert made["code"]["diff"].startswith("of 2 file(s)") and made["code"]["diff"].endswith(DIFF)
    assert made["data"]["digest"] == "d1" * 32 and made["data"]["source"] == "flowers.zip"
    assert made["data"]["images"] == "9 train, 3 test" and made["data"]["shape"] == "1×8×8"
    assert made["run"]["id"] == trained and made["metrics"] == {"test_accuracy": "0.7500"}
    assert made["train"] == {"epochs": "12", "lr": "0.1"}
    assert made["variant"]["transformer.localization.channels"] == "[4]" and "origin" not in str(made["variant"])
    assert made["machine"] == {
        "workers": "2", "threads": "3", "gpu": "False", "device": "cpu", "precision": "bfloat16",
    }  # fmt: skip
    assert made["libraries"] == RECORD["libraries"]
    assert made["study"] == {"study": "stn-mine-abc", "trial": 7, "study_run": study, "trial_run": trial}
    (decision,) = made["decisions"].values()
    assert decision.startswith(f"forced: 1 → {described.version}")


def test_the_record_and_the_difference_can_be_had_back(described):
    version = find_version(described.client, NAME, described.version)
    assert provenance.record_of(described.client, version) == RECORD
    diff = described.client.download_artifacts(described.run_ids[0], DIFF)
    assert Path(diff).read_text() == RECORD["git_diff"]


def test_a_version_whose_run_has_no_record(store):
    with pytest.raises(ExternalError, match=r"version 2 of stn-mine: run .* has no record of its training"):
        provenance.provenance(store.client, NAME, "2")


def test_back_from_a_commit_or_data(described, monkeypatch, capsys):
    def ask(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["provenance", *arguments])
        provenance.main()
        return capsys.readouterr().out.splitlines()

    (line,) = ask("--commit", "c0ffee")
    assert line.startswith(f"{NAME} version {described.version}: seed, commit c0ffee0000, with uncommitted changes")
    assert [line.split(":")[0] for line in ask("--data", "d1")] == [
        f"{NAME} version {number}" for number in range(1, 7)
    ]
    assert ask(NAME, "--data", "d1d1") == [line]
    for wrong in (("--commit", "ffee"), ("--data", ""), ("another", "--commit", "c0ffee"), ()):
        with pytest.raises(UserError, match=r"given"):
            ask(*wrong)
