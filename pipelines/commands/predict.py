"""predict: classify images with a version of a registered model, and write the rectified images.

python -m pipelines.commands.predict stn-cifar10 cat.png dog.jpg
"""

import argparse
import shlex
from pathlib import Path

from rich.console import Console

from pipelines.runtime.errors import ExternalError, UserError, describe_os_error, run_main


def split_names(text: str) -> list[str]:
    """The files that one text names, as make's IMAGES does.

    A file with spaces in its name can stand alone, or in quotes among others. Patterns such as ``*.png`` are expanded.
    """
    if not text.strip() or Path(text).exists():
        return [text] if text.strip() else []
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is not closed belongs to a name
        words = text.split()
    return [name for word in words for name in _match(word)]


def _match(word: str) -> list[str]:
    """The files that match a pattern; the word itself if it names a file, or if nothing matches."""
    try:
        path = Path(word).expanduser()
        matches = [] if path.exists() else Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    except (RuntimeError, ValueError, NotImplementedError):  # an unknown ~user, no valid pattern
        return [word]
    return sorted(map(str, matches)) or [str(path)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.predict", description="Classify images with a version of a registered model."
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("images", nargs="*", help="image files of any format, size and mode")
    parser.add_argument("--list", default="", help="more image files, in one text; names with spaces in quotes")
    parser.add_argument("--version", default="champion", help="number or alias of the version; default: champion")
    parser.add_argument("--out", type=Path, help="folder of the rectified images; default: that of each image")
    arguments = parser.parse_args()
    images = [*arguments.images, *split_names(arguments.list)]
    if not images:
        raise UserError("IMAGES: none given; expected image files, such as IMAGES=\"a.png 'my cat.png'\"")

    from pipelines.serving.prediction import make_table, predict
    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("nothing was changed"):
        predictions = predict(arguments.model, arguments.version, images, arguments.out)
    width = None if Console().is_terminal else 1000  # a file or a pipe has no width; each row stays on one line
    Console(width=width, highlight=False).print(make_table(predictions))
    if predictions.not_written is not None:
        reason = describe_os_error(predictions.not_written) or predictions.not_written
        raise ExternalError(f"rectified images were not written: {reason}, or name another folder: OUT=folder")


if __name__ == "__main__":
    run_main(main)
