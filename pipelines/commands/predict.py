"""predict: what a version of a registered model says of images, as a table; rectified images are written beside them.

    python -m pipelines.commands.predict stn-cifar10 cat.png dog.jpg

Images are brought to the size and channels of training as the stage prepare does it, and where it has a canvas (the
protocols RTS and TC) they lie in its middle.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.table import Table

from pipelines.preparation.images import FORMATS, to_mode, to_pixels
from pipelines.registry.versions import MAKE_ONE, fetch_files, find_version
from pipelines.runtime.errors import ExternalError, UserError, run
from pipelines.runtime.files import replacing
from pipelines.serving.rectification import family_of, rectify
from pipelines.tracking.client import connect, store_errors_explained
from stn.distortions import Distortion


def read_images(names: list[str]) -> dict[Path, Image.Image]:
    """The images of these files, decoded.

    Raises:
        UserError: a file is missing or is no image that can be read.
    """
    images = {}
    for path in map(Path, names):
        try:
            images[path] = Image.open(path, formats=FORMATS)
            images[path].load()
        except FileNotFoundError:
            raise UserError(f"IMAGES: {str(path)!r} given; there is no such file") from None
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            raise UserError(f"IMAGES: {str(path)!r} given; not a readable image ({error})") from None
    return images


def predict(name: str, version: str, names: list[str]) -> Table:
    """Classify images, write the rectified ones as ``<name>.rectified.png`` beside them, and return a table of it all.

    Raises:
        UserError: no such model or version, or a file that is no image.
        ExternalError: the version's files are not those that were registered.
    """
    images = read_images(names)
    found = find_version(connect(), name, version)
    with tempfile.TemporaryDirectory() as folder:
        model = mlflow.pyfunc.load_model(str(fetch_files(found, Path(folder) / "model")))
        about = model.metadata.metadata
        if not about:
            raise ExternalError(f"version {found.version} of {name} is too old to know its classes; {MAKE_ONE}")
        channels, size, _ = about["image_shape"]
        images = {path: to_mode(image, channels) for path, image in images.items()}
        distortion = Distortion(canvas=about.get("canvas", 1.0))
        side, _ = distortion.frame(size, size)
        pixels = torch.from_numpy(np.stack([to_pixels(image, side, channels) for image in images.values()]))
        answer = model.predict(distortion.onto_canvas(pixels).numpy())

    table = Table(title=f"{name}, version {found.version} ({about['variant']})", title_justify="left")
    columns = ["image", "class", "probability", "next", "probability"]
    described, stems = {}, Counter(path.with_suffix("") for path in images)
    transform, theta = family_of(answer["theta"]) if "theta" in answer else (None, torch.empty(0))
    if transform is not None and transform.heads == 1:
        columns += ["rotation", "scale", "shift"]
        described = transform.describe(theta, size, size)
        table.caption = "θ of the sampling grid: rotation clockwise, scale below 1 zooms in, shift in half images"
        table.caption_justify = "left"
    columns += ["rectified"] if transform is not None else []
    for column in columns:
        words = column in ("image", "class", "next", "rectified")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    for i, (path, image) in enumerate(images.items()):
        probabilities = answer["probabilities"][i]
        first, second = np.argsort(-probabilities, kind="stable")[:2]
        row = [str(path)]
        for place in (first, second):
            row += [about["classes"][place], f"{probabilities[place]:.1%}"]
        if described:
            rotation, scale, x, y = (described[key][i].item() for key in ("rotation", "scale", "shift_x", "shift_y"))
            row += [f"{rotation:+.0f}°", f"{scale:.2f}", f"{x:+.2f} {y:+.2f}"]
        if transform is not None:
            alone = stems[path.with_suffix("")] == 1
            target = path.with_name(f"{path.stem if alone else path.name}.rectified.png")
            with replacing(target) as beside:
                rectified = rectify(
                    image, transform, theta[i : i + 1], about["mean"], about["padding_mode"], distortion
                )
                rectified.save(beside)
            row.append(str(target))
        table.add_row(*row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.predict", description="Classify images with a version of a registered model."
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("images", nargs="+", help="image files of any kind, size and mode")
    parser.add_argument("--version", default="champion", help="its number or an alias; champion if left out")
    arguments = parser.parse_args()
    console = Console()
    width = None if console.is_terminal else 1000  # a file or a pipe has no width: rows stay in one line
    with store_errors_explained("nothing was changed"):
        table = predict(arguments.model, arguments.version, arguments.images)
    Console(width=width, highlight=False).print(table)


if __name__ == "__main__":
    run(main)
