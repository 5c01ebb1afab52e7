"""Claim: reading images takes no longer than a plain PIL loop, and all cores take part where that pays.

All sides read the same folder or archive of class folders into uint8 pixels of one size, alternately, in processes of
their own. Our side is the part of the stage prepare before the splits: with one process, and with one on each core. It
also reads all names first, checks for encrypted and damaged files and for paths outside the archive, applies the EXIF
orientation, handles transparency and 16 bits, detects a source that changes, hashes each image for duplicates, and
writes the pixels to a file. The plain loop opens each file, converts it to RGB and resizes it.

    python -m benchmarks.prepare cifar10.zip --size 32 --repeats 5
"""

import argparse
import io
import tarfile
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pipelines.runtime.errors import run_main

SIDES = ("one process", "all cores", "plain PIL loop")


def measure_ours(path: str, size: int, side: str) -> tuple[float, int]:
    """Read a source with our code; return images per second and the number of images."""
    # Imported here, so that the processes that decode do not import torch.
    from pipelines.preparation import decoder_pool
    from pipelines.preparation.decoding import read_images
    from pipelines.preparation.sources import list_images
    from pipelines.runtime.cores import Cores
    from pipelines.settings.data_params import DataParams, DistortionParams

    if side == "one process":
        decoder_pool.usable_cores = lambda: Cores(1)
    distortion = DistortionParams(rotation=0, scale=[1.0, 1.0], shift=0, padding_mode="zeros")
    data = DataParams(dataset="mine", source=path, size=size, channels=3, skip_broken=False, distortion=distortion)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        images = len(read_images(data, list_images(data), Path(folder)).labels)
        return images / (time.perf_counter() - started), images


def measure_plain_loop(path: str, size: int, side: str) -> tuple[float, int]:
    """Read a source with a plain PIL loop; return images per second and the number of images. ``side`` is not used."""
    import numpy as np
    from PIL import Image

    started = time.perf_counter()
    pixels = []
    for content in read_files(Path(path)):
        image = Image.open(io.BytesIO(content)).convert("RGB")
        pixels.append(np.asarray(image if image.size == (size, size) else image.resize((size, size))))
    images = len(np.stack(pixels))
    return images / (time.perf_counter() - started), images


def read_files(path: Path) -> Iterator[bytes]:
    """Yield the content of each image file of a folder or an archive, in the order in which they are found."""
    from pipelines.preparation.images import ENDINGS

    if path.is_dir():
        yield from (file.read_bytes() for file in path.rglob("*") if file.suffix.lower() in ENDINGS)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if Path(name).suffix.lower() in ENDINGS:
                    yield archive.read(name)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if Path(member.name).suffix.lower() in ENDINGS and (file := archive.extractfile(member)):
                    yield file.read()


def main() -> None:
    from benchmarks.measure import report, start_process  # imports torch, like the functions above

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a folder, zip or tar of class folders; the plain loop does not support tar.zst")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    metrics: dict[str, list[float]] = defaultdict(list)
    for number in range(arguments.repeats):
        speeds, counts = {}, {}
        for side in SIDES:
            measure = measure_plain_loop if side == "plain PIL loop" else measure_ours
            with start_process() as process:
                speeds[side], counts[side] = process.submit(measure, arguments.source, arguments.size, side).result()
        assert len(set(counts.values())) == 1, counts
        for side, speed in speeds.items():
            metrics[f"{side}, images/s"].append(speed)
        metrics["all cores / one process"].append(speeds["all cores"] / speeds["one process"])
        metrics["one process / plain PIL loop"].append(speeds["one process"] / speeds["plain PIL loop"])
        shown = " / ".join(f"{speed:,.0f}" for speed in speeds.values())
        print(f"repeat {number + 1} of {arguments.repeats}: {shown}", flush=True)
    report("prepare", dict(metrics))


if __name__ == "__main__":
    run_main(main)
