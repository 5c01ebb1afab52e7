"""Files for other programs: the same outputs as the model's, or nothing is written."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from pipelines.registry.model_metadata import ModelMetadata
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.serving import portable
from pipelines.serving.portable import Preprocessing, compare, export_version, run_onnx, run_program, to_onnx
from stn.classifiers import RawClassifier, build_network
from stn.settings import ClassifierSettings, LocalizationSettings, NetworkSettings, Normalization, TransformerSettings

NAME, ROOT = "stn-mine", Path(__file__).resolve().parents[3]
SHAPE = (1, 12, 10)
TEXTS = {"variant": "stn"}


def export_program(model: nn.Module, shape=SHAPE) -> torch.export.ExportedProgram:
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    return torch.export.export(model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def images(count: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


# Each family with each antialias setting once, and with each padding mode at least once among them.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "padding_mode", "antialias", "parallel"),
    [
        ("affine", "zeros", 1, 1), ("affine", "border", 2, 2), ("similarity", "reflection", 1, 1),
        ("attention", "reflection", 2, 1), ("projective", "border", 1, 1), ("projective", "zeros", 2, 1),
        ("tps", "zeros", 2, 1), ("tps", "reflection", 1, 1),
    ],
)  # fmt: skip
def test_onnx_gives_the_outputs_of_the_network(family, padding_mode, antialias, parallel):
    torch.manual_seed(0)
    localization = LocalizationSettings((4,), (3,), (8,))
    transformer = TransformerSettings(
        (family,), parallel, padding_mode=padding_mode, antialias=antialias, localization=localization
    )
    network = build_network(NetworkSettings(SHAPE, 3, transformer, ClassifierSettings((4,), (3,))))
    with torch.no_grad():
        for parameter in network.parameters():  # also those of the layer of θ, which start at zero
            parameter.add_(0.1 * torch.randn_like(parameter))
    program = export_program(RawClassifier(network, Normalization([0.4], [0.3])))
    expected = run_program(program, images())
    content = to_onnx(program, list(expected), TEXTS)
    differences = compare(expected, run_onnx(content, images()), "it")
    assert np.ptp(expected["theta"], 0).max() > 1e-3, "θ is the same for all images"
    assert differences.keys() == {"probabilities", "theta"} and max(differences.values()) < 1e-5
    model = onnx.load_model_from_string(content)
    assert [opset.version for opset in model.opset_import] == [18]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


class Svd(nn.Module):
    def forward(self, images):
        return {"class": torch.linalg.svdvals(images.float()).argmax(-1)}


def test_what_onnx_lacks_is_named():
    program = export_program(Svd())
    with pytest.raises(ExternalError, match=r"stn: the network cannot be exported to ONNX: .*svd.*FORMAT=pt2"):
        to_onnx(program, ["class"], TEXTS)


def outputs(**changes) -> dict[str, np.ndarray]:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.5001, 0.4999, 0.0]])
    values = {"class": np.array([0, 0]), "probabilities": probabilities, "theta": np.zeros((2, 2, 3))}
    return values | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theta": np.full((2, 2, 3), 0.01)}, "theta of the file differs .* by up to 0.01"),
        ({"theta": np.full((2, 2, 3), np.nan)}, "theta of the file differs"),
        ({"probabilities": outputs()["probabilities"] + 0.002}, "probabilities of the file"),
        ({"class": np.array([1, 0])}, "gives 1 images another class"),
    ],
)
def test_differences_are_refused(changes, message):
    with pytest.raises(ExternalError, match=message):
        compare(outputs(), outputs(**changes), "it")
    with pytest.raises(ExternalError, match="has the outputs class"):
        compare(outputs(), {"class": np.array([0, 0])}, "it")


def test_images_that_are_equally_near_to_two_classes_may_differ():
    assert compare(outputs(), outputs(**{"class": np.array([0, 1])}), "it") == {"probabilities": 0.0, "theta": 0.0}


def test_the_example_of_the_documents_classifies_an_image(store, tmp_path, monkeypatch):
    """With the example's own packages alone: the project is not imported."""
    monkeypatch.chdir(store.folder)
    exported = export_version(NAME, "2", "onnx", tmp_path / "new/model.onnx")
    assert exported.differences == {"probabilities": 0.0, "theta": 0.0} and exported.images == 200
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[0, 0] = 165  # version 2 is wrong there
    Image.fromarray(pixels).save(tmp_path / "new/cat.png")
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.DOTALL)
        if "model.onnx" in block
    ]  # fmt: skip
    assert len(example.strip().splitlines()) <= 12
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path / "new", capture_output=True, text=True)
    assert done.stdout.split()[0] == "eel", done.stderr
    texts = {entry.key: entry.value for entry in onnx.load_model(tmp_path / "new/model.onnx").metadata_props}
    assert json.loads(texts["classes"]) == ["cat", "dog", "eel", "fox"]
    assert (texts["model"], texts["version"], texts["variant"]) == (NAME, "2", "stn")


def test_a_pt2_file_loads_with_its_metadata(store, tmp_path, monkeypatch):
    monkeypatch.chdir(store.folder)
    exported = export_version(NAME, "champion", "pt2", None)
    assert exported.path == Path("stn-mine-1.pt2")
    extra = {"metadata.json": ""}
    network = torch.export.load(io.BytesIO(exported.path.read_bytes()), extra_files=extra).module()
    assert json.loads(extra["metadata.json"])["version"] == "1"
    assert network(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))["class"].tolist() == [0, 0, 0]


def test_a_file_that_differs_is_not_written(store, tmp_path, monkeypatch):
    monkeypatch.chdir(store.folder)
    run = portable.run_pt2
    monkeypatch.setattr(portable, "run_pt2", lambda *a: {**run(*a), "theta": run(*a)["theta"] + 0.1})
    with pytest.raises(ExternalError, match=r"theta of the file differs from the model's by up to 0\.1; nothing"):
        export_version(NAME, "1", "pt2", tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


def test_without_test_images_nothing_is_written(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(UserError, match=r"MODEL: version 1 .* the test images of the data d1, which are"):
        export_version(NAME, "1", "pt2", tmp_path / "model.pt2")


def test_the_preprocessing_names_size_and_canvas():
    metadata = ModelMetadata("mine", ["a"], (3, 42, 42), [0.0] * 3, "stn", None, canvas=1.5)
    assert Preprocessing.of(metadata) == Preprocessing("RGB", (28, 28), (42, 42))
