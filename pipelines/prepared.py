"""The prepared data set as the stage prepare left it, for the stages after it, and whether it can be trained on."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.errors import UserError
from pipelines.params import Params, VariantParams
from pipelines.state import read_json
from stn.classifiers import build_network

PREPARED = Path("data/prepared")


class Labeled(NamedTuple):
    """Images uint8 (N, C, H, W) and labels int64 (N,)."""

    images: Tensor
    labels: Tensor


def load_meta(folder: Path = PREPARED) -> dict:
    """meta.json of the prepared data.

    Raises:
        UserError: nothing has been prepared.
    """
    if not (folder / "meta.json").exists():
        raise UserError(f"{folder}: no prepared data here; make it with: dvc repro prepare")
    return read_json(folder / "meta.json")


def load_split(name: str, folder: Path = PREPARED) -> Labeled:
    """One of ``train``, ``validation`` and ``test``, memory-mapped."""
    tensors = load_file(folder / f"{name}.safetensors")
    return Labeled(tensors["images"], tensors["labels"])


def load_arrays(folder: Path = PREPARED) -> dict[str, np.ndarray]:
    """``<split>_images`` and ``<split>_labels`` of ``train`` and ``validation``, as they are given to Ray."""
    splits = {split: load_split(split, folder) for split in ("train", "validation")}
    return {
        f"{split}_{kind}": getattr(value, kind).numpy() for split, value in splits.items() for kind in value._fields
    }


def check(name: str, params: Params, variant: VariantParams, meta: dict) -> None:
    """Refuse what cannot be trained before any work starts.

    Raises:
        UserError: kernels larger than the image, or a batch larger than the data.
    """
    if meta["dataset"] != params.data.dataset:
        raise UserError(
            f"data.dataset: {params.data.dataset} given, prepared is {meta['dataset']}; run: dvc repro prepare"
        )
    try:
        with torch.device("meta"):
            build_network(meta["image_shape"], len(meta["classes"]), variant.model_dump()["transformer"])
    except ValueError as error:
        raise UserError(f"variants/{name}.yaml: {error}") from None
    images = meta["counts"]["train"] + params.train.final_fit * meta["counts"]["validation"]
    smallest = min(meta["image_shape"][1:])
    if params.train.shift >= smallest:
        raise UserError(f"train.shift: {params.train.shift} given; images of {smallest} pixels can move by less")
    batch_size = params.train.batch_size
    if batch_size > images:
        raise UserError(f"train.batch_size: {batch_size} given; there are {images} training images")
