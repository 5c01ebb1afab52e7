"""The prepared data set as the stage prepare left it, for the stages after it."""

from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from pipelines.errors import UserError
from pipelines.state import read_json

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
