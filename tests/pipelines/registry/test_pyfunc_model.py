"""The code of registered models: the device that it runs on.

There may be no GPU here. torch's device ``meta`` is one on which an operation fails that mixes it with the CPU.
"""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.export.passes import move_to_device_pass

from pipelines.registry import export
from stn.classifiers import RawClassifier, build_network
from stn.settings import ClassifierSettings, NetworkSettings, Normalization, TransformerSettings

SHAPE = (1, 28, 28)


def save_program(path: Path, family: str = "affine") -> torch.export.ExportedProgram:
    classifier = ClassifierSettings((4,), (3,))
    network = build_network(NetworkSettings(SHAPE, 3, TransformerSettings((family,), antialias=2), classifier))
    raw = RawClassifier(network, Normalization([0.4], [0.3])).eval()
    example = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    program = torch.export.export(raw, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    return torch.export.load(path)


@pytest.mark.parametrize("family", ["affine", "projective", "tps"])
def test_an_exported_program_moves_as_a_whole(tmp_path, family):
    program = move_to_device_pass(save_program(tmp_path / "network.pt2", family), "meta")
    outputs = program.module()(torch.zeros(5, *SHAPE, dtype=torch.uint8, device="meta"))
    assert outputs.keys() == {"class", "probabilities", "theta"}
    assert {(value.device.type, len(value)) for value in outputs.values()} == {("meta", 5)}


def load(tmp_path) -> Any:
    """The loaded model, as MLflow loads it: from its file of code."""
    path = Path(export.__file__).with_name("pyfunc_model.py")
    spec = importlib.util.spec_from_file_location("stored_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.ExportedNetwork()
    model.load_context(SimpleNamespace(artifacts={"network": str(tmp_path / "network.pt2")}))
    return model


def test_without_a_gpu_it_runs_on_the_cpu(tmp_path, monkeypatch):
    save_program(tmp_path / "network.pt2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = load(tmp_path)
    assert model.device == "cpu"
    outputs = model.predict(None, torch.zeros(3, *SHAPE, dtype=torch.uint8).numpy())
    assert outputs["probabilities"].shape == (3, 3)


def test_with_a_gpu_the_program_is_moved_there(tmp_path, monkeypatch):
    save_program(tmp_path / "network.pt2")
    moved = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        "torch.export.passes.move_to_device_pass", lambda program, device: moved.append(device) or program
    )
    assert load(tmp_path).device == "cuda" and moved == ["cuda"]
