"""A registry with real versions in a real store, for tests that read it or move its aliases."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.params import set_value
from pipelines.registry.champion import Decision
from pipelines.registry.export import NewVersion, register_network
from pipelines.registry.model_metadata import ModelMetadata
from pipelines.registry.promotion import promote
from pipelines.registry.versions import aliases_of
from pipelines.runtime.files import write_json
from pipelines.settings.params import Params, load_params
from pipelines.tracking.client import connect, experiment_id

ROOT = Path(__file__).resolve().parents[2]
NAME, CLASSES, COUNT = "stn-mine", ["cat", "dog", "eel", "fox"], 200
QUARTER_TURN = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]  # θ as a matrix
TRUTH = np.arange(COUNT) % 4
META = DatasetMeta(
    dataset="mine", source="mine.zip", classes=CLASSES, image_shape=(1, 8, 8),
    counts={"train": COUNT, "validation": COUNT, "test": COUNT}, mean=[0.0], std=[1.0],
    distortion={"rotation": 0.0, "scale": [1.0, 1.0], "shift": 0.0}, duplicates={}, broken={}, digest="d1",
)  # fmt: skip
# Which of the 200 test images each version classifies correctly.
CORRECT = {
    "1 champion": np.arange(COUNT) < 150,
    "2 better": np.arange(COUNT) < 165,
    "3 equal": np.arange(COUNT) >= 50,
    "4 worse": np.arange(COUNT) < 120,
    "5 biased": (TRUTH != 2) | (np.arange(COUNT) >= 120),
}


class Answers(nn.Module):
    """Looks the class up in a table by the first pixel, which is the index of the test image; θ is a quarter turn."""

    def __init__(self, correct: np.ndarray):
        super().__init__()
        self.table: Tensor
        self.theta: Tensor
        self.register_buffer("table", torch.from_numpy(np.where(correct, TRUTH, (TRUTH + 1) % 4)))
        self.register_buffer("theta", torch.tensor([QUARTER_TURN]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        label = self.table[images[:, 0, 0, 0].long()]
        probabilities = 0.1 + 0.6 * nn.functional.one_hot(label, 4)
        return {"class": label, "probabilities": probabilities, "theta": self.theta.repeat(images.shape[0], 1, 1)}


@pytest.fixture(scope="session")
def new_store(tmp_path_factory) -> Path:
    """The database of an empty store, to be copied; MLflow needs a second or more to create one."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect()
    return folder / "state/mlflow.db"


@pytest.fixture(scope="session")
def registry(tmp_path_factory) -> Path:
    """A folder with prepared data and a store with five versions. The first is champion."""
    folder = tmp_path_factory.mktemp("registry")
    for split in ("train", "validation", "test"):
        images = torch.zeros(COUNT, 1, 8, 8, dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.arange(COUNT)
        images[:, 0, 2:6, 2:4] = 200
        (folder / "data/prepared").mkdir(parents=True, exist_ok=True)
        labels = torch.from_numpy(TRUTH)
        save_file({"images": images, "labels": labels}, folder / f"data/prepared/{split}.safetensors")
    write_json(folder / "data/prepared/meta.json", META.to_json())
    for file in ("params.yaml", "variants/plain.yaml", "variants/stn.yaml"):
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / file, folder / file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        client = connect()
        experiment = experiment_id(client, NAME)
        example = np.zeros((2, 1, 8, 8), dtype=np.uint8)
        metadata = ModelMetadata("mine", CLASSES, (1, 8, 8), mean=[0.0], variant="stn", padding_mode="zeros")
        for number, correct in CORRECT.items():
            answers = Answers(correct).eval()
            shapes = ({0: torch.export.Dim("batch")},)
            exported = torch.export.export(answers, (torch.from_numpy(example),), dynamic_shapes=shapes)
            torch.export.save(exported, folder / "network.pt2")
            outputs = {key: value.numpy() for key, value in answers(torch.from_numpy(example)).items()}
            run_id = client.create_run(experiment).info.run_id
            tags = {"variant": "stn", "parameters": "100", "data_digest": "d1", "number": number, "git_commit": "none"}
            program = folder / "network.pt2"
            register_network(NewVersion(NAME, "stn", run_id, program, example, outputs, metadata, tags))
        client.set_registered_model_alias(NAME, "champion", "1")
    return folder


class Store:
    """A copy of the registry and its settings, which a test may change."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.client = connect()

    def params(self, *settings: str) -> Params:
        for setting in settings:
            set_value(setting)
        return load_params()

    def promote(self, version: str, *settings: str, **options) -> Decision:
        promotion = promote(NAME, self.params(*settings), version, **options)
        assert promotion is not None
        return promotion.decision

    @property
    def champion(self) -> str:
        return aliases_of(self.client, NAME)["champion"]


@pytest.fixture
def store(registry, tmp_path, monkeypatch) -> Store:
    """A copy of the store's database, the settings and the prepared data."""
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
