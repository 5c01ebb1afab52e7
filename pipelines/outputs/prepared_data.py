"""The prepared data: splits of uint8 tensors, and meta.json, which describes them.

``data/prepared`` holds ``train``, ``validation`` and ``test.safetensors``, each with ``images`` (N, C, H, W) and
``labels`` (N,). Training images are stored undistorted, because each epoch distorts them again. Validation and test
images are stored distorted. If there is a distortion, ``validation-undistorted.safetensors`` holds the validation
images undistorted.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.networks.backbones import Pretraining
from pipelines.networks.build import network_settings
from pipelines.outputs.labeled_files import Labeled, map_labeled
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import RECREATE, read_json
from pipelines.settings.image_form import Fill, Fit, ImageForm
from pipelines.settings.variants import VariantParams
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.classifiers import Network, build_network
from stn.distortions import Distortion, make_distortion
from stn.pixels import Residency
from stn.settings import NetworkSettings, Normalization

PREPARED = Path("data/prepared")
UNDISTORTED = "validation-undistorted"  # the validation images, stored like the training images


@dataclass(frozen=True)
class DatasetMeta:
    """The content of meta.json.

    Args:
        dataset, source: name of the data set, and a description of its source.
        classes: names, in the order of the labels.
        image_shape: channels, height, width; with a canvas, the shape of the canvas.
        counts: number of images in each split.
        mean, std: of each channel over the training images, for pixels scaled to [0, 1].
        distortion: the section ``data.distortion``, without its defaults.
        duplicates: for each split after the first, the number of images that are also in an earlier split.
        broken: each file that was skipped, with the reason.
        digest: SHA-256 of the pixels, the labels and their meaning, see :func:`start_digest`.
        fit, fill: how images of another aspect ratio were converted, see
            :class:`~pipelines.settings.image_form.ImageForm`. Earlier data were stretched.
        fitted: number of images with another aspect ratio.
        pixel_range: the values that are black and white in images with more than 8 bits; None without such images.
        groups: number of groups in each split; empty if images have no groups.
        shared_groups: for each split after the first, the number of groups that are also in an earlier split.
        left_alone: descriptions of the files of the source that are not used, with the reasons.
    """

    dataset: str
    source: str
    classes: Sequence[str]
    image_shape: tuple[int, int, int]
    counts: Mapping[str, int]
    mean: Sequence[float]
    std: Sequence[float]
    distortion: Mapping[str, Any]
    duplicates: Mapping[str, int]
    broken: Mapping[str, str]
    digest: str
    fit: Fit = "stretch"
    fill: Fill = 0
    fitted: int = 0
    pixel_range: Sequence[float] | None = None
    groups: Mapping[str, int] = field(default_factory=dict)
    shared_groups: Mapping[str, int] = field(default_factory=dict)
    left_alone: Sequence[str] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DatasetMeta":
        """Create it from the content of a meta.json, or from the record of a training."""
        return cls(**{**values, "image_shape": tuple(values["image_shape"])})

    def to_json(self) -> dict[str, Any]:
        """The content of meta.json as JSON values."""
        return {**asdict(self), "image_shape": list(self.image_shape)}

    @property
    def normalization(self) -> Normalization:
        """Mean and standard deviation of each channel."""
        return Normalization(self.mean, self.std)

    @property
    def form(self) -> ImageForm:
        """The form of the images before they were placed on a canvas."""
        channels, *size = self.image_shape
        height, width = self.make_distortion().frame(*size)
        return ImageForm(height, width, channels, self.fit, self.fill)

    def make_distortion(self) -> Distortion:
        """The distortion that each epoch applies to the training images."""
        return make_distortion(**self.distortion)

    def batches(
        self,
        split: Labeled | Sequence[Labeled],
        device: torch.device,
        augmentation: Augmentation = Augmentation(),
        residency: Residency = Residency(),
        *,
        sampler: str = "uniform",
    ) -> Batches:
        """Batches of a split, or of several splits as one. ``residency`` says where the images are kept."""
        parts = [split] if isinstance(split, Labeled) else split
        images, labels = [part.images for part in parts], torch.cat([part.labels for part in parts])
        return Batches(
            images, labels, self.normalization, device, augmentation, classes=len(self.classes), sampler=sampler,
            residency=residency,
        )  # fmt: skip

    def ordered_batches(self, split: Labeled, device: torch.device) -> Batches:
        """Batches of a split that are read in order only. Its images are copied to a GPU if it has room for them."""
        fits = device.type == "cuda" and 2 * split.images.numel() <= torch.cuda.mem_get_info(device)[0]
        return self.batches(split, device, residency=Residency(on_device=fits))

    def network_settings(
        self, variant: VariantParams, dropout: float = 0.0, load_weights: bool = False
    ) -> NetworkSettings:
        """The settings of a variant's network for these images, with or without its pretrained weights."""
        pretraining = Pretraining(self.normalization, load_weights)
        return network_settings(variant, self.image_shape, len(self.classes), dropout, pretraining)

    def network_builder(
        self, variant: VariantParams, dropout: float = 0.0, load_weights: bool = True
    ) -> "partial[Network]":
        """A picklable function without arguments that builds a variant's network for these images."""
        return partial(build_network, self.network_settings(variant, dropout, load_weights))


def load_meta(folder: Path = PREPARED) -> DatasetMeta:
    """Read the description of the prepared data.

    Raises:
        UserError: no data have been prepared.
        ExternalError: meta.json is damaged.
    """
    if not (folder / "meta.json").exists():
        raise UserError(f"{folder}: no prepared data here; make it with: dvc repro prepare")
    return DatasetMeta.from_json(read_json(folder / "meta.json"))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Memory-map the tensors of a safetensors file.

    Raises:
        ExternalError: it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ExternalError(f"{path}: truncated or damaged ({error}); {RECREATE}") from None


def load_split(name: str, folder: Path = PREPARED) -> Labeled:
    """Memory-map a split: ``train``, ``validation``, ``test`` or, if there is a distortion, :data:`UNDISTORTED`.

    Raises:
        ExternalError: its file is damaged.
    """
    return map_labeled(folder / f"{name}.safetensors")


class TrainingSplits(NamedTuple):
    """What a training reads. The training images are those of all parts, one after another."""

    training: Sequence[Labeled]
    validation: Labeled


def load_training(final_fit: bool = False, folder: Path = PREPARED) -> TrainingSplits:
    """Memory-map the training and validation split.

    Args:
        final_fit: the undistorted validation images follow the training images.

    Raises:
        ExternalError: a file is damaged.
    """
    training, validation = load_split("train", folder), load_split("validation", folder)
    if not final_fit:
        return TrainingSplits([training], validation)
    distorted = not load_meta(folder).make_distortion().is_identity
    return TrainingSplits([training, load_split(UNDISTORTED, folder) if distorted else validation], validation)


@contextmanager
def replace_prepared(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for new prepared data, which replaces ``folder`` at the end of the block.

    If the block fails, ``folder`` is unchanged. What a killed process left is deleted.
    """
    beside, before = (folder.with_name(f".{folder.name}{ending}") for ending in ("", "-before"))
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    # The old folder is renamed before it is deleted: if the power fails during deletion, a half-deleted folder would
    # otherwise still look like prepared data.
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    beside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def start_digest(
    classes: Sequence[str], image_shape: Sequence[int], distortion: Mapping[str, Any], form: ImageForm
) -> Any:
    """Start the SHA-256 of the class names, the image shape, the distortion, how images were fitted, and all images.

    Update the returned object of hashlib with the images and then the labels of each split.

    It does not depend on the form of the source: a folder and a zip of the same images have the same digest. Equal
    pixels that were fitted differently differ, because a model trained on them converts other images differently.
    """
    meaning: list[Any] = [list(classes), list(image_shape), dict(distortion)]
    if form.fitting:  # data that were prepared before there was a choice keep their digest
        meaning.append(form.fitting)
    return hashlib.sha256(repr(meaning).encode())
