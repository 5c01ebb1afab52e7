"""Images that are not square, from files to rectified photographs, through the functions of all stages."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pipelines.evaluation import alignment, robustness
from pipelines.evaluation.layer_table import layers
from pipelines.outputs.prepared_data import DatasetMeta, load_meta, load_split
from pipelines.outputs.trained_models import Trained
from pipelines.preparation.run import prepare_source
from pipelines.registry.export import export
from pipelines.registry.model_metadata import ModelMetadata
from pipelines.serving import prediction
from pipelines.serving.loaded_version import Identity, LoadedVersion
from pipelines.settings.data_params import DataParams, DistortionParams, PrepareParams
from pipelines.settings.params import EvaluateParams
from pipelines.visualization.theta import draw_theta
from stn.alignment_term import AlignmentTerm
from stn.augmentation import Augmentation
from stn.classifiers import build_network
from stn.optimizers import make_optimizer
from stn.settings import (
    AlignmentSettings,
    ClassifierSettings,
    LocalizationSettings,
    NetworkSettings,
    Recipe,
    TransformerSettings,
)
from stn.training import one_cycle, train_epoch

CPU = torch.device("cpu")
HEIGHT, WIDTH, FILL = 24, 60, 77
RECIPE = Recipe(1, 8, lr=0.01, shift=2, crop=(0.7, 1.0), alignment=AlignmentSettings(0.5, "upright"))


def draw_sign(kind: int, width: int, height: int) -> Image.Image:
    """A white image with a dark bar on the left or on the right."""
    image = Image.new("L", (width, height), 250)
    left = width // 8 if kind == 0 else width // 2
    ImageDraw.Draw(image).rectangle((left, height // 4, left + width // 4, height * 3 // 4), fill=20)
    return image


@pytest.fixture
def meta(tmp_path, monkeypatch) -> DatasetMeta:
    """Prepared data from photographs of many shapes, padded."""
    monkeypatch.chdir(tmp_path)
    for module in (alignment, robustness):
        monkeypatch.setattr(module, "default_device", lambda: CPU)
    random = np.random.default_rng(0)
    for kind, name in enumerate(("left", "right")):
        (Path("signs") / name).mkdir(parents=True)
        for i in range(24):
            width, height = (int(side) for side in random.integers(20, 120, 2))
            draw_sign(kind, width, height).save(f"signs/{name}/{i}.png")
    data = DataParams(
        dataset="signs", source="signs", size=[HEIGHT, WIDTH], channels=1, fit="pad", fill=FILL, skip_broken=False,
        distortion=DistortionParams(rotation=30, scale=[0.8, 1.0], shift=0.05, padding_mode="zeros"),
    )  # fmt: skip
    prepare_source(data, PrepareParams(validation=0.25, test=0.25, seed=0))
    return load_meta()


def train(meta: DatasetMeta) -> Trained:
    """Train a network with a similarity for one epoch."""
    torch.manual_seed(0)
    localization = LocalizationSettings(channels=(4,), kernel_sizes=(5,), hidden=(8,), input_size=(12, 30))
    transformer = TransformerSettings(("similarity",), localization=localization, output_size=(16, 40))
    network = build_network(NetworkSettings(meta.image_shape, 2, transformer, ClassifierSettings((4,), (5,), (8,))))
    augmentation = Augmentation(shift=RECIPE.shift, crop=RECIPE.crop, distortion=meta.make_distortion())
    batches = meta.batches(load_split("train"), CPU, augmentation)
    optimizer = make_optimizer(network, RECIPE)
    term = AlignmentTerm(network, batches, RECIPE).start(0, 0)
    scheduler = one_cycle(optimizer, len(batches) // RECIPE.batch_size, 0.2)
    shuffled = batches.shuffled(RECIPE.batch_size, 0, 0)
    train_epoch(network, shuffled, optimizer, scheduler, RECIPE, precision=torch.float32, alignment=term)
    no_record: Any = None
    return Trained("stn", 0, network.eval(), "run", [], no_record)


@pytest.mark.slow
def test_words_go_through_every_stage(meta, tmp_path, monkeypatch):
    assert meta.image_shape == (1, HEIGHT, WIDTH) and (meta.fit, meta.fill) == ("pad", FILL)
    training = load_split("train").images
    assert (training == FILL).flatten(1).any(1).float().mean() > 0.8, "most photographs are padded"
    model, test = train(meta), load_split("test")

    settings = EvaluateParams.model_construct(batch_size=100, robustness_images=8)
    curves = robustness.measure_robustness({"stn": [model]}, test, meta, settings)["stn"]
    assert all(0 <= accuracy <= 1 for curve in curves.values() for accuracy in curve[0])
    measured = alignment.measure_alignment({"stn": [model]}, test, meta, settings)["stn"]
    assert np.isfinite(alignment.summarize(measured, 0.95).corner_error)
    assert layers(model.network, meta.image_shape)[-1].output == (2,)
    for figure in draw_theta(model, meta, test, examples=6):
        figure.savefig(io.BytesIO())

    program = tmp_path / "network.pt2"
    export(model, meta, test.images[:2], program)
    exported = torch.export.load(program).module()
    front = SimpleNamespace(front=SimpleNamespace(padding_mode="zeros"))
    trained: Any = SimpleNamespace(variant="stn", record=SimpleNamespace(variant=front))
    received = []

    def answer(images: np.ndarray) -> dict[str, np.ndarray]:
        received.append(images)
        with torch.inference_mode():
            return {name: values.numpy() for name, values in exported(torch.from_numpy(images)).items()}

    metadata = ModelMetadata.from_trained(trained, meta).to_json()
    stored: Any = SimpleNamespace(predict=answer, unwrap_python_model=lambda: None)
    identity = Identity("stn-signs", "1", "digest", "data")
    loaded = LoadedVersion(*identity, ModelMetadata.from_json(metadata), stored)
    monkeypatch.setattr(prediction, "connect", lambda: None)
    monkeypatch.setattr(prediction, "load_version", lambda *_: loaded)
    sizes = {"tall.png": (30, 90), "wide.png": (200, 21), "small.png": (5, 4)}
    for name, size in sizes.items():
        draw_sign(0, *size).save(name)
    rows = prediction.predict("stn-signs", "1", list(sizes)).rows
    (images,) = received
    assert images.shape == (3, 1, HEIGHT, WIDTH)
    assert (images[0, 0, :, : WIDTH // 2 - 5] == FILL).all(), "a tall photograph is padded at its sides"
    assert (images[1, 0, : HEIGHT // 2 - 4] == FILL).all(), "a wide photograph is padded above and below"
    for row, size in zip(rows, sizes.values(), strict=True):
        assert row.rectified is not None and Image.open(row.rectified).size == size
        assert row.theta is not None and np.isfinite(row.theta).all()


def test_data_and_models_of_before_are_stretched(meta):
    values = meta.to_json()
    del values["fit"], values["fill"]
    earlier = DatasetMeta.from_json(values)
    assert (earlier.form.fit, earlier.form.shape) == ("stretch", (1, HEIGHT, WIDTH))
    assert DatasetMeta.from_json(meta.to_json()) == meta
    on_canvas = replace(earlier, image_shape=(1, 36, 90), distortion={"protocol": "RTS", "padding_mode": "zeros"})
    assert on_canvas.form.shape == (1, HEIGHT, WIDTH)
    metadata = ModelMetadata("signs", ["a"], (1, 36, 90), [0.5], "stn", "zeros", 1.5, "crop").to_json()
    assert ModelMetadata.from_json(metadata).form.fit == "crop"
    del metadata["fit"], metadata["fill"]
    assert ModelMetadata.from_json(metadata).form.fit == "stretch"
    assert ModelMetadata.from_json(metadata).form.shape == (1, HEIGHT, WIDTH)
