"""promote, from the registry to the alias: real versions in a real store, of which each answers as the test wants."""

import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines import champion, tracking
from pipelines.errors import UserError, WorldError
from pipelines.params import Params, load_params, set_value
from pipelines.prepared import Labeled, load_split
from pipelines.promote import promote, turn
from pipelines.state import write_json

ROOT = Path(__file__).resolve().parents[2]
NAME, CLASSES, COUNT = "stn-mine", ["cat", "dog", "eel", "fox"], 200
TRUTH = np.arange(COUNT) % 4
# Which of the 200 test images each version gets right.
RIGHT = {
    "1 champion": np.arange(COUNT) < 150,
    "2 better": np.arange(COUNT) < 165,
    "3 equal": np.arange(COUNT) >= 50,
    "4 worse": np.arange(COUNT) < 120,
    "5 biased": (TRUTH != 2) | (np.arange(COUNT) >= 120),
}


class Answers(nn.Module):
    """Answers by a table, looked up by the first pixel, which numbers the test images."""

    def __init__(self, right: np.ndarray):
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", torch.from_numpy(np.where(right, TRUTH, (TRUTH + 1) % 4)))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        answer = self.table[images[:, 0, 0, 0].long()]
        return {"class": answer, "probabilities": nn.functional.one_hot(answer, 4).float()}


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Path:
    """A folder with prepared data and a store with the five versions, the first one champion."""
    folder = tmp_path_factory.mktemp("registry")
    for split in ("train", "validation", "test"):
        images = torch.zeros(COUNT, 1, 8, 8, dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.arange(COUNT)
        images[:, 0, 2:6, 2:4] = 200
        (folder / "data/prepared").mkdir(parents=True, exist_ok=True)
        labels = torch.from_numpy(TRUTH)
        save_file({"images": images, "labels": labels}, folder / f"data/prepared/{split}.safetensors")
    meta = {"dataset": "mine", "digest": "d1", "classes": CLASSES, "image_shape": [1, 8, 8]}
    write_json(folder / "data/prepared/meta.json", meta)
    for file in ("params.yaml", "variants/plain.yaml", "variants/seed.yaml"):
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / file, folder / file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        client = tracking.connect()
        experiment = tracking.experiment_id(client, NAME)
        example = np.zeros((2, 1, 8, 8), dtype=np.uint8)
        for number, right in RIGHT.items():
            answers = Answers(right).eval()
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(answers, (torch.from_numpy(example),), dynamic_shapes=shapes)
            torch.export.save(program, folder / "network.pt2")
            outputs = {key: value.numpy() for key, value in answers(torch.from_numpy(example)).items()}
            run_id = client.create_run(experiment).info.run_id
            tags = {"variant": "seed", "parameters": "100", "data_digest": "d1", "number": number}
            tracking.register_network(NAME, "seed", run_id, folder / "network.pt2", example, outputs, tags)
        client.set_registered_model_alias(NAME, "champion", "1")
    return folder


class Store:
    """The registry, as the test finds it and can change it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.client = tracking.connect()

    def params(self, *settings: str) -> Params:
        for setting in settings:
            set_value(setting)
        return load_params()

    def promote(self, version: str, *settings: str, **options) -> champion.Decision:
        outcome = promote(NAME, self.params(*settings), version, **options)
        assert outcome is not None
        return outcome.decision

    @property
    def champion(self) -> str:
        return tracking.aliases(self.client, NAME)["champion"]


@pytest.fixture
def store(registry, tmp_path, monkeypatch) -> Store:
    """A copy of the store's database and of the settings, to be changed at will."""
    for file in ("params.yaml", "variants"):
        copy = shutil.copytree if (registry / file).is_dir() else shutil.copyfile
        copy(registry / file, tmp_path / file)
    (tmp_path / "state").mkdir()
    shutil.copyfile(registry / "state/mlflow.db", tmp_path / "state/mlflow.db")
    shutil.copytree(registry / "data", tmp_path / "data")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path)


@pytest.mark.parametrize(
    ("version", "outcome"),
    [("2", champion.PROMOTED), ("3", champion.REFUSED), ("4", champion.REFUSED), ("5", champion.REFUSED)],
    ids=["better", "equal", "worse", "biased"],
)
def test_each_challenger_gets_the_right_answer(store, version, outcome):
    decision = store.promote(version)
    assert decision.outcome == outcome
    assert store.champion == (version if outcome == champion.PROMOTED else "1")
    if version == "5":
        assert decision.gates.startswith("level passed") and "class_level refused: eel -34.0 points" in decision.gates


def test_the_biased_one_passes_where_no_gate_looks_at_classes(store):
    assert store.promote("5", "promote.class_level=none").outcome == champion.PROMOTED


def test_what_is_recorded(store):
    store.promote("2")
    (decision,) = champion.history(store.client, NAME)
    assert (decision.before, decision.after) == ("1", "2") and "level passed: +7.50 points" in decision.gates
    tags = store.client.get_model_version(NAME, "2").tags
    assert tags["promotion"] == champion.PROMOTED and tags["previous_champion"] == "1"
    run = store.client.get_run(tags["promotion_run"])
    expected = {"challenger_test_accuracy": 0.825, "champion_test_accuracy": 0.75, "difference": 0.075, "passed": 1.0}
    assert {key: run.data.metrics[key] for key in expected} == pytest.approx(expected)
    assert run.data.metrics["low"] < 0.075 < run.data.metrics["high"] and run.data.metrics["challenger_latency_ms"] > 0
    report = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/promotion.md")  # pyright: ignore[reportPrivateImportUsage]
    assert "| challenger | 2 | seed | 100 | 82.50% |" in report and "| level |" in report


def test_a_dry_run_leaves_no_trace(store):
    assert store.promote("2", dry_run=True).outcome == champion.PROMOTED
    assert store.champion == "1" and not champion.history(store.client, NAME)
    assert "promotion" not in store.client.get_model_version(NAME, "2").tags


def test_force_overrides_and_says_why(store):
    assert store.promote("4", force="the fair is tomorrow").outcome == champion.FORCED
    assert store.champion == "4" and champion.history(store.client, NAME)[0].reason == "the fair is tomorrow"
    assert store.promote("1", force="over").outcome == champion.PROMOTED, "what passes needs no force"


def test_the_challenger_is_taken_where_no_version_is_given(store):
    with pytest.raises(UserError, match="no challenger"):
        promote(NAME, store.params())
    store.client.set_registered_model_alias(NAME, "challenger", "2")
    assert promote(NAME, store.params()) is not None and store.champion == "2"
    assert promote(NAME, store.params()) is None, "it is the champion already"


def test_without_a_champion_the_first_to_pass_becomes_it(store):
    store.client.delete_registered_model_alias(NAME, "champion")
    assert store.promote("4", "promote.minimum_accuracy=0.7").outcome == champion.REFUSED
    assert store.promote("4", "promote.minimum_accuracy=0.6").outcome == champion.PROMOTED
    assert store.champion == "4"


def test_what_the_user_gets_wrong(store):
    with pytest.raises(UserError, match=r"'stn-other' given.*stn-mine"):
        promote("stn-other", store.params())
    with pytest.raises(UserError, match="VERSION: '9' given; stn-mine has the versions 1, 2, 3, 4, 5"):
        store.promote("9")


def test_versions_made_from_other_data_are_not_compared(store):
    meta = Path("data/prepared/meta.json")
    meta.write_text(meta.read_text().replace('"d1"', '"d2"'))
    with pytest.raises(UserError, match="version 2 of stn-mine was made from data d1, data/prepared holds d2"):
        store.promote("2", force="I insist")
    assert store.champion == "1"


@pytest.mark.parametrize("file", ["network.pt2", "registered_model.py", "MLmodel"])
@pytest.mark.parametrize("how", ["gone", "altered"])
def test_a_version_whose_files_are_not_those_registered_is_not_loaded(store, registry, monkeypatch, file, how):
    source = store.client.get_model_version(NAME, "2").source.rsplit("/", 1)[-1]
    (place,) = (path for path in (registry / "state/artifacts").rglob(file) if source in path.parts)
    kept = place.read_bytes()
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda *_: pytest.fail("loaded all the same"))
    try:
        if how == "gone":
            place.unlink()
        else:
            place.write_bytes(kept + b"\n")
        with pytest.raises(WorldError, match=rf"version 2 of {NAME}: its file"):
            store.promote("2")
    finally:
        place.write_bytes(kept)
    assert store.champion == "1"


def test_the_area_over_rotations_is_asked_for_by_its_gate(store):
    """Turned images have no number in their first pixel: both versions answer them as they answer image 0."""
    assert store.promote("2", "promote.rotation_margin=0.0").outcome == champion.PROMOTED
    metrics = store.client.get_run(store.client.get_model_version(NAME, "2").tags["promotion_run"]).data.metrics
    # Thirteen angles, of which only that of 0 tells the two apart; the first pixel of a turned image is black.
    assert metrics["challenger_rotation_area"] - metrics["champion_rotation_area"] == pytest.approx(0.075 / 12)


@pytest.mark.parametrize("quarter_turns", [-1, 1])
def test_a_quarter_turn(quarter_turns, store):
    """Clockwise by 90 degrees is what rot90 does the other way around."""
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    turned = turn(Labeled(images, torch.zeros(5)), 90 * quarter_turns)
    np.testing.assert_array_equal(turned, torch.rot90(images, -quarter_turns, (2, 3)).numpy())
    assert not np.array_equal(turn(load_split("test"), 15), load_split("test").images.numpy())
