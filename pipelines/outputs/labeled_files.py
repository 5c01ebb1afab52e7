"""Files of labeled images in the safetensors format, written in chunks and memory-mapped: they may exceed the memory.

A file holds ``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,).
"""

import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipelines.runtime.errors import ExternalError
from pipelines.runtime.files import RECREATE

DTYPES = {"I64": torch.int64, "U8": torch.uint8}
ALIGNMENT = 8  # bytes; the header is filled with spaces up to a multiple
# Linux otherwise refuses a private mapping that is larger than its memory. Nothing is ever written to it.
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0)


class Labeled(NamedTuple):
    """Images uint8 (N, C, H, W) and labels int64 (N,)."""

    images: Tensor
    labels: Tensor


def map_labeled(path: Path) -> Labeled:
    """Memory-map a file of labeled images. The pages are shared by all processes that map it.

    Raises:
        ExternalError: it is damaged.
    """
    try:
        with safe_open(path, "np"):  # checks the header against the size of the file
            pass
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            start = file.tell()
            mapped = mmap.mmap(
                file.fileno(), 0, mmap.MAP_PRIVATE | NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
            )  # fmt: skip
        return Labeled(*(_tensor(mapped, start, header[name]) for name in Labeled._fields))
    except (SafetensorError, KeyError) as error:
        raise ExternalError(f"{path}: truncated or damaged ({error}); {RECREATE}") from None


def _tensor(mapped: mmap.mmap, start: int, entry: dict) -> Tensor:
    first, end = entry["data_offsets"]
    dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
    if first == end:
        return torch.empty(shape, dtype=dtype)
    count = (end - first) // dtype.itemsize
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start + first).view(shape)


class LabeledWriter:
    """Writes a file of labeled images in chunks. The bytes are those that safetensors would write.

    Args:
        path: the file.
        labels: int64 (N,).
        image_shape: channels, height, width.
    """

    def __init__(self, path: Path, labels: Tensor, image_shape: Sequence[int]):
        first, end = 8 * len(labels), 8 * len(labels) + len(labels) * int(np.prod(image_shape))
        header = json.dumps(
            {
                "labels": {"dtype": "I64", "shape": [len(labels)], "data_offsets": [0, first]},
                "images": {"dtype": "U8", "shape": [len(labels), *image_shape], "data_offsets": [first, end]},
            },
            separators=(",", ":"),
        ).encode()
        header += b" " * (-len(header) % ALIGNMENT)
        self.file = path.open("wb")
        self.file.write(len(header).to_bytes(8, "little") + header)
        self.file.write(labels.contiguous().numpy().data)

    def write(self, images: Tensor) -> None:
        """Append images uint8 (n, C, H, W)."""
        self.file.write(images.contiguous().numpy().data)

    def __enter__(self) -> "LabeledWriter":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
