"""A trained model as a self-contained program with its MLflow signature."""

import hashlib
import tempfile
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor

from pipelines.outputs.trained_models import Trained
from pipelines.runtime.files import write_bytes
from stn.classifiers import RawClassifier


def export(model: Trained, meta: dict, images: Tensor, path: Path) -> dict[str, Tensor]:
    """Write a model as a self-contained program, normalization inside; returns its outputs for ``images``.

    Args:
        images: uint8 (2, C, H, W). With a batch of one the batch dimension would be frozen at one.
    """
    raw = RawClassifier(model.network, meta["mean"], meta["std"]).eval()
    program = torch.export.export(raw, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = BytesIO()  # to a file, torch ends the whole process where a disk is full
    torch.export.save(program, buffer)
    write_bytes(path, buffer.getvalue())
    with torch.inference_mode():
        outputs, expected = torch.export.load(path).module()(images), raw(images)
    for name, values in expected.items():
        torch.testing.assert_close(outputs[name], values)
    return outputs


def digest_of(tensors: dict[str, Tensor], meta: dict) -> str:
    """SHA-256 over what makes a model: its tensors, and the mean and std it normalizes by. Never over archive bytes."""
    digest = hashlib.sha256(repr([meta["mean"], meta["std"], meta["classes"]]).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


DIGEST_TAG = "sha256_"  # and a file's name: its digest, on a version


def register_network(
    name: str,
    variant: str,
    run_id: str,
    program: Path,
    example: np.ndarray,
    outputs: dict,
    about: dict[str, Any],
    tags: dict[str, str],
) -> ModelVersion:
    """Log an exported network (a ``.pt2`` file) to its run and register it as a new version of ``name``.

    ``example`` and ``outputs`` are a batch of images and what the network answers: the model's signature. ``about`` is
    what its users need to know, such as the classes' names; a loaded model has it as ``metadata.metadata``.
    """
    code = Path(__file__).with_name("pyfunc_model.py")
    free = {key: TensorSpec(value.dtype, (-1, *value.shape[1:]), key) for key, value in outputs.items()}
    signature = ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]), outputs=Schema(list(free.values()))
    )
    files = {f"{DIGEST_TAG}{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in (program, code)}
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        logged = mlflow.pyfunc.log_model(
            name=variant,
            python_model=str(code),
            artifacts={"network": str(program)},
            signature=signature,
            input_example=example,
            metadata=about,
            pip_requirements=[
                f"{package}=={metadata.version(package).split('+')[0]}" for package in ("torch", "numpy", "mlflow")
            ],
            tags=tags,
        )
        with tempfile.TemporaryDirectory() as folder:  # what names the code that is run on loading
            described = Path(download_artifacts(logged.model_uri, dst_path=folder)) / "MLmodel"
            files[f"{DIGEST_TAG}{described.name}"] = hashlib.sha256(described.read_bytes()).hexdigest()
    # The run's context manager never swallows an exception, though its type would allow it to.
    return mlflow.register_model(logged.model_uri, name, tags=tags | files)  # pyright: ignore[reportPossiblyUnboundVariable]
