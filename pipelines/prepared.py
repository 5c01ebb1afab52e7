"""The forms of a data set: as it was read, and as the stage prepare left it; and whether it can be trained on."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.errors import UserError, WorldError
from pipelines.params import Params
from pipelines.state import MAKE_ANEW, read_json
from pipelines.variants import VariantParams
from stn.classifiers import build_network
from stn.distortions import make_distortion

PREPARED = Path("data/prepared")
UNDISTORTED = "validation-undistorted"  # the same images, as the training images are stored


class Labeled(NamedTuple):
    """Images uint8 (N, C, H, W) and labels int64 (N,)."""

    images: Tensor
    labels: Tensor


class Source(NamedTuple):
    """What a source of images holds; ``test`` is None where it has no test images of its own."""

    train: Labeled
    test: Labeled | None
    classes: list[str]
    origin: str
    broken: Mapping[str, str] = MappingProxyType({})  # files that were left out, each with the reason


def load_meta(folder: Path = PREPARED) -> dict:
    """meta.json of the prepared data.

    Raises:
        UserError: nothing has been prepared.
    """
    if not (folder / "meta.json").exists():
        raise UserError(f"{folder}: no prepared data here; make it with: dvc repro prepare")
    return read_json(folder / "meta.json")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped.

    Raises:
        WorldError: it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WorldError(f"{path}: cut off or damaged ({error}); {MAKE_ANEW}") from None


def load_split(name: str, folder: Path = PREPARED) -> Labeled:
    """One of ``train``, ``validation`` and ``test``, memory-mapped, or UNDISTORTED where there is a distortion."""
    tensors = load_tensors(folder / f"{name}.safetensors")
    return Labeled(tensors["images"], tensors["labels"])


def load_arrays(final_fit: bool = False, folder: Path = PREPARED) -> dict[str, np.ndarray]:
    """``<split>_images`` and ``<split>_labels`` of ``train`` and ``validation``, as they are given to Ray.

    With ``final_fit`` the validation images are among the training images, too, and there undistorted like these.
    """
    splits = {split: load_split(split, folder) for split in ("train", "validation")}
    if final_fit:
        distorted = not make_distortion(**load_meta(folder)["distortion"]).is_identity
        more = load_split(UNDISTORTED, folder) if distorted else splits["validation"]
        splits["train"] = Labeled(*map(torch.cat, zip(splits["train"], more, strict=True)))
    return {
        f"{split}_{kind}": getattr(value, kind).numpy() for split, value in splits.items() for kind in value._fields
    }


def check_size(name: str, variant: VariantParams, image_shape: tuple[int, int, int]) -> None:
    """Refuse a network that images of this shape (C, H, W) are too small for.

    Raises:
        UserError: kernels larger than the image.
    """
    try:
        with torch.device("meta"):
            settings = variant.model_dump()
            build_network(image_shape, 2, settings["transformer"], classifier=settings["classifier"])
    except ValueError as error:
        raise UserError(f"variants/{name}.yaml: {error}") from None


def check(name: str, params: Params, variant: VariantParams, meta: dict) -> None:
    """Refuse what cannot be trained before any work starts.

    Raises:
        UserError: kernels larger than the image, or a batch larger than the data.
    """
    if meta["dataset"] != params.data.dataset:
        raise UserError(
            f"data.dataset: {params.data.dataset} given, prepared is {meta['dataset']}; run: dvc repro prepare"
        )
    check_size(name, variant, meta["image_shape"])
    images = meta["counts"]["train"] + params.train.final_fit * meta["counts"]["validation"]
    batch_size = params.train.batch_size
    if batch_size > images:
        raise UserError(f"train.batch_size: {batch_size} given; there are {images} training images")
