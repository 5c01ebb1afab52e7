"""Versions of untrained networks in a registry of their own, for benchmarks of speed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from pipelines.registry.export import NewVersion, register_network
from pipelines.registry.model_metadata import ModelMetadata
from pipelines.tracking.client import connect, experiment_id
from stn.classifiers import RawClassifier, build_network
from stn.settings import NetworkSettings, Normalization, TransformerSettings

NAME = "stn-untrained"
SHAPE, CLASSES = (3, 32, 32), [f"class {i}" for i in range(10)]
MEAN, STD = [0.5] * 3, [0.25] * 3


def make_network(seed: int) -> RawClassifier:
    """Make the baseline network for CIFAR-10 with random weights, also in the layer that predicts θ."""
    torch.manual_seed(seed)
    network = build_network(NetworkSettings(SHAPE, len(CLASSES), TransformerSettings()))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return RawClassifier(network, Normalization(MEAN, STD)).eval()


@contextmanager
def registry(versions: int) -> Iterator[Path]:
    """Register untrained networks in a new store; version 1 is champion. Yields its folder, which is DVC_ROOT.

    Commands that the block starts use the same store.
    """
    before = os.environ.get("DVC_ROOT")
    with TemporaryDirectory() as folder:
        os.environ["DVC_ROOT"] = folder
        try:
            client = connect()
            experiment = experiment_id(client, NAME)
            for seed in range(versions):
                network, example = make_network(seed), np.zeros((2, *SHAPE), dtype=np.uint8)
                shapes = ({0: torch.export.Dim("batch")},)
                program = torch.export.export(network, (torch.from_numpy(example),), dynamic_shapes=shapes)
                torch.export.save(program, Path(folder) / "network.pt2")
                outputs = {name: value.detach().numpy() for name, value in network(torch.from_numpy(example)).items()}
                metadata = ModelMetadata("untrained", CLASSES, SHAPE, mean=MEAN, variant="stn", padding_mode="zeros")
                run = client.create_run(experiment).info.run_id
                tags = {"variant": "stn", "data_digest": "none", "model_digest": f"seed {seed}"}
                path = Path(folder) / "network.pt2"
                register_network(NewVersion(NAME, "stn", run, path, example, outputs, metadata, tags))
            client.set_registered_model_alias(NAME, "champion", "1")
            yield Path(folder)
        finally:
            os.environ.pop("DVC_ROOT")
            if before is not None:
                os.environ["DVC_ROOT"] = before
