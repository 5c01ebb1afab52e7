"""A small file with the JPEG images of CIFAR-10: one header, which all images share, and their scans, compressed by xz.

The file is an xz stream of JSON in one line (header, number of images, size of the images, digest of the pixels), then
for each split its labels (one byte each), lengths of scans (two bytes each) and scans.
"""

import hashlib
import io
import json
import lzma
from base64 import b64decode, b64encode
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FILE = Path(".gpu/cifar10.xz")
SPLITS = ("train", "test")
START_OF_SCAN = b"\xff\xda"


class Split(NamedTuple):
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,)."""

    images: Tensor
    labels: Tensor


def split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """Split a JPEG file into its header and its scan."""
    start = data.index(START_OF_SCAN)
    return data[:start], data[start:]


def decode(files: list[bytes]) -> np.ndarray:
    """Decode images: uint8 (N, H, W, 3)."""
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def write(path: Path, splits: dict[str, tuple[list[bytes], list[int]]]) -> None:
    """Write the JPEG files and labels of each split.

    Raises:
        ValueError: two images have different headers.
    """
    headers, body, counts, digest = set(), bytearray(), {}, hashlib.sha256()
    for name in SPLITS:
        files, labels = splits[name]
        scans = []
        for file in files:
            header, scan = split_jpeg(file)
            headers.add(header)
            scans.append(scan)
        digest.update(decode(files).tobytes())
        counts[name] = len(files)
        body += bytes(labels) + np.array([len(scan) for scan in scans], "<u2").tobytes() + b"".join(scans)
    if len(headers) != 1:
        raise ValueError(f"the images have {len(headers)} different headers; the format is for images that share one")
    first = {"header": b64encode(headers.pop()).decode(), "counts": counts, "sha256": digest.hexdigest()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(json.dumps(first).encode() + b"\n" + bytes(body), preset=6))


def read(path: Path, processes: int) -> dict[str, Split]:
    """Read and decode both splits in several processes.

    Raises:
        ValueError: the pixels are not those that were packed.
    """
    first, _, body = lzma.decompress(path.read_bytes()).partition(b"\n")
    about = json.loads(first)
    header, splits, place, digest = b64decode(about["header"]), {}, 0, hashlib.sha256()
    with ProcessPoolExecutor(processes) as pool:
        for name in SPLITS:
            count = about["counts"][name]
            labels = np.frombuffer(body, np.uint8, count, place)
            lengths = np.frombuffer(body, "<u2", count, place + count).tolist()
            place += 3 * count
            files = []
            for length in lengths:
                files.append(header + body[place : place + length])
                place += length
            parts = [files[start : start + 2000] for start in range(0, count, 2000)]
            pixels = np.concatenate(list(pool.map(decode, parts)))
            digest.update(pixels.tobytes())
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
            splits[name] = Split(images, torch.from_numpy(labels.astype(np.int64)))
    if digest.hexdigest() != about["sha256"]:
        raise ValueError(f"{path}: this machine decodes other pixels than those that were packed")
    return splits


def random_splits(counts: dict[str, int]) -> dict[str, Split]:
    """Random images, where no file is at hand: good for speed and checks, not for accuracies."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: Split(
            torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator), torch.arange(count) % 10
        )
        for name, count in counts.items()
    }
