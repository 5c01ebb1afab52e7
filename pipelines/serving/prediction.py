"""Predictions of a registered model for image files.

Images are converted to the form of the training images as in the stage prepare. If the training images have a canvas
(protocols RTS and TC), each image is placed in the middle of one.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import mlflow.pyfunc
import numpy as np
import torch
from PIL import Image
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from pipelines.preparation.images import open_image, to_mode, to_pixels
from pipelines.preparation.pixel_range import PixelRange
from pipelines.registry.model_metadata import ModelMetadata
from pipelines.registry.versions import HOW_TO_REGISTER, fetch_files, find_version
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import replace_atomically
from pipelines.serving.rectification import parse_theta, rectify, to_shown, view_of
from pipelines.tracking.client import connect
from stn.transforms import Affine, Transform


class RankedClass(NamedTuple):
    """A class and its probability in [0, 1]."""

    name: str
    probability: float


class ThetaSummary(NamedTuple):
    """θ in readable numbers, see :meth:`stn.transforms.Transform.describe`: rotation in degrees, scale, shift."""

    rotation: float
    scale: float
    shift_x: float
    shift_y: float


class Prediction(NamedTuple):
    """Prediction for one image.

    Args:
        path: file of the image.
        first, second: the two classes with the highest probabilities.
        theta: θ; None without a transformer or with parallel heads.
        rectified: file of the rectified image; None without a transformer, and if it could not be written.
    """

    path: Path
    first: RankedClass
    second: RankedClass
    theta: ThetaSummary | None
    rectified: Path | None


class Predictions(NamedTuple):
    """Predictions of one version.

    Args:
        title: names the version and its variant.
        rows: one for each image.
        not_written: why a rectified image could not be written; None if all were.
    """

    title: str
    rows: list[Prediction]
    not_written: OSError | None = None


def predict(name: str, version: str, files: Sequence[str], out: Path | None = None) -> Predictions:
    """Classify image files, and write each rectified image as ``<name>.rectified.png``.

    A folder that cannot be written costs no prediction: the result names it.

    Args:
        name: registered model.
        version: its number or an alias.
        files: paths of image files.
        out: folder of the rectified images, created if missing; by default each lies next to its file.

    Raises:
        UserError: the registry has no such model or version, a file is not a readable image, or ``out`` is no folder.
        ExternalError: files of the version are missing or differ from the registered ones.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"OUT: {str(out)!r} given; it is a file, expected a folder")
    images = read_images(files)
    found = find_version(connect(), name, version)
    with tempfile.TemporaryDirectory() as folder:
        model = mlflow.pyfunc.load_model(str(fetch_files(found, Path(folder) / "model")))
        if not model.metadata.metadata:
            raise ExternalError(
                f"version {found.version} of {name} is too old: it does not name its classes; {HOW_TO_REGISTER}"
            )
        metadata = ModelMetadata.from_json(model.metadata.metadata)
        images = {path: _to_mode(path, image, metadata) for path, image in images.items()}
        outputs = model.predict(_input_pixels(images.values(), metadata))

    summaries: list[ThetaSummary | None] = [None] * len(images)
    rectified: list[Path | None] = [None] * len(images)
    not_written = None
    if "theta" in outputs:
        transform, theta = parse_theta(outputs["theta"])
        pictures = _rectify_each(images, transform, theta, metadata)
        rectified, not_written = _write_pictures(pictures, name_pictures(list(images), out))
        if transform.heads == 1:
            summaries = [*_summarize(images.values(), transform, theta, metadata)]
    ranked = (_rank(probabilities, metadata.classes) for probabilities in outputs["probabilities"])
    rows = [
        Prediction(path, first, second, summary, target)
        for path, (first, second), summary, target in zip(images, ranked, summaries, rectified, strict=True)
    ]
    return Predictions(f"{name}, version {found.version} ({metadata.variant})", rows, not_written)


def read_images(files: Sequence[str]) -> dict[Path, Image.Image]:
    """Decode image files.

    Raises:
        UserError: a file is missing or is not a readable image.
    """
    images = {}
    for path in map(Path, files):
        try:
            images[path] = open_image(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"IMAGES: {str(path)!r} given; there is no such file") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"IMAGES: {str(path)!r} given; not a readable image ({reason})") from None
    return images


def _to_mode(path: Path, image: Image.Image, metadata: ModelMetadata) -> Image.Image:
    """Convert an image to the channels of the training images, with their range of pixels.

    Raises:
        UserError: its pixels do not fit the range.
    """
    pixel_range = None if metadata.pixel_range is None else PixelRange(*metadata.pixel_range)
    try:
        return to_mode(image, metadata.image_shape[0], pixel_range)
    except ValueError as error:
        raise UserError(f"IMAGES: {str(path)!r} given; {error}") from None


def make_table(predictions: Predictions) -> Table:
    """Return predictions as a table with one row per image."""
    table = Table(title=escape(predictions.title), title_justify="left")
    headers = ["image", "class", "probability", "next", "probability"]
    if any(row.theta for row in predictions.rows):
        headers += ["rotation", "scale", "shift"]
        table.caption = "θ of the sampling grid: rotation clockwise, scale below 1 zooms in, shift in half images"
        table.caption_justify = "left"
    if any(row.rectified for row in predictions.rows):
        headers.append("rectified")
    for header in headers:
        is_text = header in ("image", "class", "next", "rectified")
        table.add_column(header, justify="left" if is_text else "right", overflow="fold")
    for row in predictions.rows:
        cells = [str(row.path)]
        for ranked in (row.first, row.second):
            cells += [ranked.name, f"{ranked.probability:.1%}"]
        if (theta := row.theta) is not None:
            cells += [f"{theta.rotation:+.0f}°", f"{theta.scale:.2f}", f"{theta.shift_x:+.2f} {theta.shift_y:+.2f}"]
        if row.rectified is not None:
            cells.append(str(row.rectified))
        table.add_row(*map(escape, cells))  # names in brackets are no markup
    return table


def _input_pixels(images: Iterable[Image.Image], metadata: ModelMetadata) -> np.ndarray:
    """Return images as the model's input, uint8 (B, C, H, W)."""
    pixels = torch.from_numpy(np.stack([to_pixels(image, metadata.form) for image in images]))
    return metadata.distortion.onto_canvas(pixels).numpy()


def _rank(probabilities: np.ndarray, classes: Sequence[str]) -> tuple[RankedClass, RankedClass]:
    """Return the two most probable classes."""
    order = np.argsort(-probabilities, kind="stable")
    first, second = (RankedClass(classes[int(i)], float(probabilities[i])) for i in order[:2])
    return first, second


def _summarize(
    images: Iterable[Image.Image], transform: Transform, theta: Tensor, metadata: ModelMetadata
) -> Iterator[ThetaSummary]:
    """Yield a summary of each θ in ``theta`` (B, P), in the coordinates of the image's rectified picture."""
    for image, own in zip(images, theta[:, None], strict=True):
        view = view_of(image.width, image.height, metadata.form, metadata.distortion)
        size = round(view.shown.height), round(view.shown.width)
        described = Affine().describe(to_shown(transform, own, view), *size)
        yield ThetaSummary(*(described[key].item() for key in ThetaSummary._fields))


def _rectify_each(
    images: Mapping[Path, Image.Image], transform: Transform, theta: Tensor, metadata: ModelMetadata
) -> Iterator[Image.Image]:
    """Yield each image as the transformer samples it; ``theta`` is (B, P)."""
    assert metadata.padding_mode is not None
    for i, image in enumerate(images.values()):
        yield rectify(
            image, transform, theta[i : i + 1], metadata.mean,
            padding_mode=metadata.padding_mode, form=metadata.form, distortion=metadata.distortion,
        )  # fmt: skip


def name_pictures(paths: Sequence[Path], out: Path | None = None) -> list[Path]:
    """A different file for each image's rectified image, in ``out`` or next to the image.

    It is named after the image's stem; if several would have one name, after the full name, then also by a number.
    """
    stems = Counter((out or path.parent, path.stem) for path in paths)
    named: dict[Path, None] = {}
    for path in paths:
        folder = out or path.parent
        stem = path.stem if stems[folder, path.stem] == 1 else path.name
        names = (f"{stem}{number}.rectified.png" for number in ("", *(f".{i}" for i in range(2, len(paths) + 2))))
        named[next(folder / name for name in names if folder / name not in named)] = None
    return list(named)


def _write_pictures(
    pictures: Iterable[Image.Image], targets: Sequence[Path]
) -> tuple[list[Path | None], OSError | None]:
    """Write pictures; returns the written files, None for each one that failed, and the first error."""
    written: list[Path | None] = []
    first: OSError | None = None
    for picture, target in zip(pictures, targets, strict=True):
        try:
            with replace_atomically(target) as temporary:
                picture.save(temporary)
            written.append(target)
        except OSError as error:
            written.append(None)
            first = first or error
    return written, first
