"""Export of trained models as self-contained programs, and their registration with MLflow."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from io import BytesIO
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor

from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.outputs.trained_models import Trained
from pipelines.registry.model_metadata import ModelMetadata
from pipelines.runtime.files import write_bytes
from stn.classifiers import RawClassifier
from stn.settings import Normalization

DIGEST_TAG = "sha256_"  # followed by a file name: tag of a version with the digest of that file


def export(model: Trained, meta: DatasetMeta, images: Tensor, path: Path) -> dict[str, Tensor]:
    """Export a model with its normalization as a self-contained program and return its outputs for ``images``.

    Args:
        model: trained model.
        meta: its data, for the normalization.
        images: uint8 (2, C, H, W). For a batch of one, the export would fix the batch size at one.
        path: ``.pt2`` file to write.
    """
    raw = RawClassifier(model.network, meta.normalization).eval()
    program = torch.export.export(raw, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = BytesIO()  # when torch writes to a file itself, a full disk aborts the process
    torch.export.save(program, buffer)
    write_bytes(path, buffer.getvalue())
    with torch.inference_mode():
        outputs, expected = torch.export.load(path).module()(images), raw(images)
    for name, values in expected.items():
        torch.testing.assert_close(outputs[name], values)
    return outputs


def digest_of(tensors: Mapping[str, Tensor], normalization: Normalization, classes: Sequence[str]) -> str:
    """Return the SHA-256 of a model: its tensors, its normalization and its class names.

    Files are not hashed, because equal models may be stored as different bytes.
    """
    parts = [list(normalization.mean), list(normalization.std), list(classes)]
    digest = hashlib.sha256(repr(parts).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class NewVersion:
    """An exported network to be registered.

    Args:
        name: registered model.
        variant: name of the logged model.
        run_id: run that the model is logged to.
        program: exported network, a ``.pt2`` file.
        example: example input, uint8 images (B, C, H, W).
        outputs: the network's outputs for ``example``. The model's signature follows from both.
        metadata: metadata for the model's users.
        tags: tags of the version and of the logged model.
    """

    name: str
    variant: str
    run_id: str
    program: Path
    example: np.ndarray
    outputs: Mapping[str, np.ndarray]
    metadata: ModelMetadata
    tags: Mapping[str, str]


def register_network(new: NewVersion) -> ModelVersion:
    """Log an exported network to its run and register it as a new version."""
    code = Path(__file__).with_name("pyfunc_model.py")
    outputs = [TensorSpec(values.dtype, (-1, *values.shape[1:]), key) for key, values in new.outputs.items()]
    inputs = [TensorSpec(new.example.dtype, (-1, *new.example.shape[1:]))]
    signature = ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))  # pyright: ignore[reportArgumentType]
    tags = dict(new.tags)
    with mlflow.start_run(run_id=new.run_id, log_system_metrics=False):
        logged = mlflow.pyfunc.log_model(
            name=new.variant,
            python_model=str(code),
            artifacts={"network": str(new.program)},
            signature=signature,
            input_example=new.example,
            metadata=new.metadata.to_json(),
            pip_requirements=[
                f"{package}=={installed_version(package).split('+')[0]}" for package in ("torch", "numpy", "mlflow")
            ],
            tags=tags,
        )
        with tempfile.TemporaryDirectory() as folder:
            # The file MLmodel names the code that is run on loading, so it has a digest as well.
            description = Path(download_artifacts(logged.model_uri, dst_path=folder)) / "MLmodel"
            digests = {f"{DIGEST_TAG}{file.name}": _sha256(file) for file in (new.program, code, description)}
    # The run's context manager never swallows an exception, though its type would allow it to.
    return mlflow.register_model(logged.model_uri, new.name, tags=tags | digests)  # pyright: ignore[reportPossiblyUnboundVariable]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
