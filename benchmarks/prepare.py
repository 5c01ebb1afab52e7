"""Claim: reading an archive of class folders takes no longer than a plain PIL loop over its files.

Both sides read the same archive into uint8 pixels of one size, alternately, in separate processes with one thread each.
Our side is the part of the stage prepare before the splits. It also reads all names first, checks for encrypted and
damaged files and for paths outside the archive, applies the EXIF orientation, handles transparency and 16 bits, and
detects a source that changes. The plain loop opens each file, converts it to RGB and resizes it.

    python -m benchmarks.prepare data/cifar10.zip --size 32 --repeats 5
"""

import argparse
import io
import tarfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import report, start_process
from pipelines.preparation.images import ENDINGS
from pipelines.preparation.sources import read_source
from pipelines.runtime.errors import run_main
from pipelines.settings.data_params import DataParams, DistortionParams


def measure_ours(path: str, size: int) -> tuple[float, int]:
    """Read an archive with our code; return images per second and the number of images."""
    distortion = DistortionParams(rotation=0, scale=[1.0, 1.0], shift=0, padding_mode="zeros")
    data = DataParams(dataset="mine", source=path, size=size, channels=3, skip_broken=False, distortion=distortion)
    started = time.perf_counter()
    source = read_source(data)
    seconds = time.perf_counter() - started
    images = len(source.labels)
    return images / seconds, images


def measure_plain_loop(path: str, size: int) -> tuple[float, int]:
    """Read an archive with a plain PIL loop; return images per second and the number of images."""
    started = time.perf_counter()
    pixels = []
    for content in read_files(path):
        image = Image.open(io.BytesIO(content)).convert("RGB")
        pixels.append(np.asarray(image if image.size == (size, size) else image.resize((size, size))))
    images = len(np.stack(pixels))
    return images / (time.perf_counter() - started), images


def read_files(path: str) -> Iterator[bytes]:
    """Yield the content of each image file of an archive, in the order of the archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if Path(name).suffix.lower() in ENDINGS:
                    yield archive.read(name)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if Path(member.name).suffix.lower() in ENDINGS and (file := archive.extractfile(member)):
                yield file.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help="a zip or tar of class folders; the plain loop does not support tar.zst")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    metrics: dict[str, list[float]] = defaultdict(list)
    with start_process() as ours, start_process() as plain:
        for number in range(arguments.repeats):
            our_speed, count = ours.submit(measure_ours, arguments.archive, arguments.size).result()
            plain_speed, plain_count = plain.submit(measure_plain_loop, arguments.archive, arguments.size).result()
            assert count == plain_count, f"{count} images were read, but {plain_count} by the plain loop"
            metrics["ours, images/s"].append(our_speed)
            metrics["plain PIL loop, images/s"].append(plain_speed)
            metrics["ours / plain PIL loop"].append(our_speed / plain_speed)
            print(f"repeat {number + 1} of {arguments.repeats}: {our_speed:,.0f} / {plain_speed:,.0f}", flush=True)
    report("prepare", dict(metrics))


if __name__ == "__main__":
    run_main(main)
