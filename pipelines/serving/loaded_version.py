"""A registered version in memory, with what its users need: input from image files, and typed outputs."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import mlflow.pyfunc
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.pyfunc import PyFuncModel
from PIL import Image

from pipelines.preparation.images import open_image, to_mode, to_pixels
from pipelines.preparation.pixel_range import PixelRange
from pipelines.registry.model_metadata import ModelMetadata
from pipelines.registry.versions import HOW_TO_REGISTER, fetch_files, find_version
from pipelines.runtime.errors import ExternalError
from pipelines.tracking.store_requests import describe_store_error


class Outputs(NamedTuple):
    """Outputs for B images: probabilities (B, classes), and θ (B, …) of the transformer in front, or None."""

    probabilities: np.ndarray
    theta: np.ndarray | None

    def rows(self, start: int, end: int) -> "Outputs":
        """Return the outputs of some of the images."""
        return Outputs(self.probabilities[start:end], None if self.theta is None else self.theta[start:end])


class Identity(NamedTuple):
    """Which version a model is: the first four fields of :class:`LoadedVersion`."""

    name: str
    number: str
    digest: str
    data_digest: str

    @classmethod
    def of(cls, version: ModelVersion) -> "Identity":
        """Return the identity of a version of the registry."""
        digest, data_digest = (version.tags.get(tag, "unknown") for tag in ("model_digest", "data_digest"))
        return cls(version.name, str(version.version), digest, data_digest)


@dataclass(frozen=True)
class LoadedVersion:
    """A version of a registered model whose files were verified and loaded.

    Args:
        name: registered model.
        number: version.
        digest: digest of the model, from the version's tags: weights, normalization and class names.
        data_digest: digest of the prepared data that it was trained on.
        metadata: what MLflow stores with the model.
        model: the model as MLflow loads it.
    """

    name: str
    number: str
    digest: str
    data_digest: str
    metadata: ModelMetadata
    model: PyFuncModel

    @cached_property
    def device(self) -> str:
        """Device of the model: ``cpu`` or ``cuda``."""
        return str(getattr(self.model.unwrap_python_model(), "device", "cpu"))

    def __str__(self) -> str:
        return f"{self.name}, version {self.number} ({self.metadata.variant}), on {self.device}"

    def decode(self, content: bytes) -> np.ndarray:
        """Decode the content of an image file to the model's input, uint8 (C, H, W), as the stage prepare does.

        Raises:
            ValueError: as :meth:`open`.
        """
        return self.convert(self.open(content))

    def open(self, content: bytes) -> Image.Image:
        """Open an image with the channels and the range of pixels of the training images.

        Raises:
            ValueError: it is not a readable image, or its pixels do not fit the range.
        """
        metadata = self.metadata
        pixel_range = None if metadata.pixel_range is None else PixelRange(*metadata.pixel_range)
        return to_mode(open_image(content), metadata.image_shape[0], pixel_range)

    def convert(self, image: Image.Image) -> np.ndarray:
        """Convert an image of :meth:`open` to the model's input, uint8 (C, H, W).

        If the training images have a canvas, the image is placed in the middle of one.
        """
        pixels = torch.from_numpy(to_pixels(image, self.metadata.form).copy())
        return self.metadata.distortion.onto_canvas(pixels[None])[0].numpy()

    def predict(self, pixels: np.ndarray) -> Outputs:
        """Run the model on uint8 images (B, C, H, W)."""
        outputs = self.model.predict(pixels)
        return Outputs(outputs["probabilities"], outputs.get("theta"))

    def check(self) -> None:
        """Run the model on two black images.

        Raises:
            ExternalError: it fails, or its outputs are not probabilities of its classes.
        """
        try:
            outputs = self.predict(np.zeros((2, *self.metadata.image_shape), dtype=np.uint8))
        except Exception as error:  # any fault of a model that was made elsewhere
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ExternalError(f"{self}: it fails on a black image ({reason})") from error
        probabilities = outputs.probabilities
        finite = np.isfinite(probabilities).all() and (outputs.theta is None or np.isfinite(outputs.theta).all())
        if probabilities.shape != (2, len(self.metadata.classes)) or not finite:
            raise ExternalError(f"{self}: its outputs are not finite numbers for each of its classes")


def load_version(client: MlflowClient, name: str, wanted: str) -> LoadedVersion:
    """Load the version with this number, or the version that this alias points to.

    Raises:
        UserError: the registry has no such model, version or alias.
        ExternalError: files are missing or differ from the registered ones, or the model does not work.
    """
    return load_found(find_version(client, name, wanted))


def load_found(version: ModelVersion) -> LoadedVersion:
    """Load a version after its files were verified. Nothing of it stays on the disk.

    Raises:
        ExternalError: files are missing or differ from the registered ones, or the model does not work.
    """
    with tempfile.TemporaryDirectory() as folder:
        return load_fetched(fetch_files(version, Path(folder) / "model"), Identity.of(version))


def load_fetched(path: Path, identity: Identity) -> LoadedVersion:
    """Load a version from its files, which were verified.

    Raises:
        ExternalError: the model does not work, or is too old.
    """
    label = f"version {identity.number} of {identity.name}"
    try:
        model = mlflow.pyfunc.load_model(str(path))
    except Exception as error:  # the files of a version are code
        raise ExternalError(f"{label}: MLflow cannot load it ({describe_store_error(error)})") from error
    if not model.metadata.metadata:
        raise ExternalError(f"{label} is too old: it does not name its classes; {HOW_TO_REGISTER}")
    return LoadedVersion(*identity, ModelMetadata.from_json(model.metadata.metadata), model)


def describe(outputs: Outputs, classes: Sequence[str]) -> list[dict]:
    """Return JSON values for each image: ``class``, ``probabilities`` by class name, and ``theta`` if there is one."""
    rows = []
    thetas = [None] * len(outputs.probabilities) if outputs.theta is None else outputs.theta.tolist()
    for probabilities, theta in zip(outputs.probabilities.tolist(), thetas, strict=True):
        best = max(range(len(classes)), key=probabilities.__getitem__)
        row: dict = {"class": classes[best], "probabilities": dict(zip(classes, probabilities, strict=True))}
        rows.append(row if theta is None else row | {"theta": theta})
    return rows
