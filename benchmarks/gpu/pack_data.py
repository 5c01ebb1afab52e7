"""Pack a zip of JPEG images in class folders, train/<class>/ and test/<class>/, into .gpu/cifar10.xz.

python -m benchmarks.gpu.pack_data cifar10.zip
"""

import argparse
import zipfile
from pathlib import Path, PurePosixPath

from benchmarks.gpu.packed_images import FILE, SPLITS, write


def pack(source: Path, target: Path) -> int:
    """Pack an archive; returns the size of the file in bytes. Classes are numbered by name."""
    with zipfile.ZipFile(source) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".jpeg")))
        classes = sorted({PurePosixPath(name).parent.name for name in names})
        splits = {}
        for split in SPLITS:
            chosen = [name for name in names if PurePosixPath(name).parent.parent.name == split]
            labels = [classes.index(PurePosixPath(name).parent.name) for name in chosen]
            splits[split] = [archive.read(name) for name in chosen], labels
    write(target, splits)
    return target.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    source = parser.parse_args().source
    if not source.is_file():
        parser.error(f"source: {source} given; there is no such file")
    print(f"{FILE}: {pack(source, FILE):,} bytes")


if __name__ == "__main__":
    main()
