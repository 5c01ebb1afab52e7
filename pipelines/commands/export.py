"""export: write a version of a registered model as one file for other programs, ONNX or pt2.

    python -m pipelines.commands.export stn-cifar10 --format onnx --out model.onnx

The file takes uint8 images (B, C, H, W) and gives class, probabilities and θ. It is compared with the model on test
images before it is written.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from pipelines.runtime.errors import UserError, run_main

FORMATS = ("onnx", "pt2")
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def check_format(file_format: str) -> None:
    """Check the format, and that its packages are installed.

    Raises:
        UserError: it is unknown, or packages are missing.
    """
    if file_format not in FORMATS:
        raise UserError(f"FORMAT: {file_format!r} given; expected {' or '.join(FORMATS)}")
    missing = [name for name in NEEDED if find_spec(name) is None] if file_format == "onnx" else []
    if missing:
        raise UserError(
            f"FORMAT: 'onnx' given; it needs {', '.join(missing)}: pip install 'stn-pipelines[export]', or FORMAT=pt2"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.export", description="Write a version of a registered model as one file."
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", default="champion", help="number or alias of the version; default: champion")
    parser.add_argument("--format", default="onnx", help="onnx or pt2; default: onnx")
    parser.add_argument("--out", type=Path, help="the file; default: <model>-<version>.<format>")
    arguments = parser.parse_args()
    check_format(arguments.format)
    if arguments.out is not None and arguments.out.is_dir():
        raise UserError(f"OUT: {str(arguments.out)!r} given; it is a folder, expected a file")

    from pipelines.serving.portable import export_version
    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("nothing was changed"):
        exported = export_version(arguments.model, arguments.version, arguments.format, arguments.out)
    differences = ", ".join(f"{name} {value:.1e}" for name, value in exported.differences.items())
    print(f"{exported.label}: {exported.path}, {exported.path.stat().st_size / 2**20:.1f} MiB")
    print(f"largest difference from the model on {exported.images} test images: {differences}")


if __name__ == "__main__":
    run_main(main)
