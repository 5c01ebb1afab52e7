"""Claim: reading an archive of class folders takes no longer than a plain PIL loop over its files does.

Both sides read the same archive into uint8 pixels of one size, in turn, in processes of their own on one thread each.
Ours is what the stage prepare does before it splits: names first, checks of what is encrypted, damaged or leaves the
archive, turning upright, transparency, 16 bits, and a source that changes. The loop opens each file, converts it to RGB
and resizes it.

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

from benchmarks.measure import report, side
from pipelines.preparation.images import ENDINGS
from pipelines.preparation.sources import read_source
from pipelines.runtime.errors import run
from pipelines.settings.params import DataParams, DistortionParams


def ours(path: str, size: int) -> tuple[float, int]:
    """Images a second, and how many there are."""
    still = DistortionParams(rotation=0, scale=[1.0, 1.0], shift=0, padding_mode="zeros")
    data = DataParams(dataset="mine", source=path, size=size, channels=3, skip_broken=False, distortion=still)
    started = time.perf_counter()
    source = read_source(data)
    seconds = time.perf_counter() - started
    images = len(source.train.labels) + (len(source.test.labels) if source.test else 0)
    return images / seconds, images


def plain_loop(path: str, size: int) -> tuple[float, int]:
    """As :func:`ours`."""
    started = time.perf_counter()
    pixels = []
    for content in contents(path):
        image = Image.open(io.BytesIO(content)).convert("RGB")
        pixels.append(np.asarray(image if image.size == (size, size) else image.resize((size, size))))
    images = len(np.stack(pixels))
    return images / (time.perf_counter() - started), images


def contents(path: str) -> Iterator[bytes]:
    """Each image file of an archive, in its own order."""
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
    parser.add_argument("archive", help="a zip or tar of class folders; tar.zst is none that the plain loop reads")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    figures: dict[str, list[float]] = defaultdict(list)
    with side() as we, side() as they:
        for number in range(arguments.repeats):
            mine, count = we.submit(ours, arguments.archive, arguments.size).result()
            theirs, others = they.submit(plain_loop, arguments.archive, arguments.size).result()
            assert count == others, f"{count} images were read, by the plain loop {others}"
            figures["ours, images a second"].append(mine)
            figures["a plain PIL loop, images a second"].append(theirs)
            figures["ours / the plain loop"].append(mine / theirs)
            print(f"repeat {number + 1} of {arguments.repeats}: {mine:,.0f} / {theirs:,.0f}", flush=True)
    report("prepare", dict(figures))


if __name__ == "__main__":
    run(main)
