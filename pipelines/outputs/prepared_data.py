"""The forms of a data set: as it was read, and as the stage prepare left it; and whether it can be trained on."""

import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import MAKE_ANEW, read_json, write_json
from stn.distortions import make_distortion

PREPARED = Path("data/prepared")
UNDISTORTED = "validation-undistorted"  # the same images, as the training images are stored


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


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped.

    Raises:
        ExternalError: it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ExternalError(f"{path}: cut off or damaged ({error}); {MAKE_ANEW}") from None


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


def write_prepared(splits: dict[str, Labeled], meta: dict, folder: Path) -> None:
    """Write all beside ``folder`` and move it there whole; where that fails the folder is as it was."""
    beside, before = (folder.with_name(f".{folder.name}{ending}") for ending in ("", "-before"))
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        for name, split in splits.items():
            save_file({"images": split.images.contiguous(), "labels": split.labels}, beside / f"{name}.safetensors")
        write_json(beside / "meta.json", meta)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    # Moved away whole, since a folder that was being deleted when the power failed still looks like prepared data.
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    beside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def digest_of_splits(splits: dict[str, Labeled], meta: dict) -> str:
    """SHA-256 over every pixel and label and what gives them meaning, whatever file they came from."""
    digest = hashlib.sha256(repr([meta[key] for key in ("classes", "image_shape", "distortion")]).encode())
    for split in splits.values():
        digest.update(split.images.contiguous().numpy().data)
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()
