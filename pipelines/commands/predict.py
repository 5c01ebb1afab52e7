"""predict: classify images with a version of a registered model, and write the rectified images.

python -m pipelines.commands.predict stn-cifar10 cat.png dog.jpg
"""

import argparse
from pathlib import Path

from rich.console import Console

from pipelines.runtime.errors import ExternalError, describe_os_error, run_main


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.predict", description="Classify images with a version of a registered model."
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("images", nargs="+", help="image files of any format, size and mode")
    parser.add_argument("--version", default="champion", help="number or alias of the version; default: champion")
    parser.add_argument("--out", type=Path, help="folder of the rectified images; default: that of each image")
    arguments = parser.parse_args()

    from pipelines.serving.prediction import make_table, predict
    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("nothing was changed"):
        predictions = predict(arguments.model, arguments.version, arguments.images, arguments.out)
    width = None if Console().is_terminal else 1000  # a file or a pipe has no width; each row stays on one line
    Console(width=width, highlight=False).print(make_table(predictions))
    if predictions.not_written is not None:
        reason = describe_os_error(predictions.not_written) or predictions.not_written
        raise ExternalError(f"rectified images were not written: {reason}, or name another folder: OUT=folder")


if __name__ == "__main__":
    run_main(main)
