"""Decodes image files into a file of pixels, in this process or in a worker process. Imports no torch."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.preparation.folders import FileIn
from pipelines.preparation.images import decode, open_image
from pipelines.preparation.listing import Box
from pipelines.preparation.pixel_range import Extrema, PixelRange
from pipelines.runtime.errors import ExternalError
from pipelines.settings.image_form import ImageForm

Content = bytes | FileIn | Image.Image
"""An image: the content of its file, a file that is still to be read, or the decoded image."""


class Written(NamedTuple):
    """The pixels of a row are written.

    Args:
        hash: of the pixels, see :func:`hash_pixels`.
        fitted: whether the image has another aspect ratio than the form.
    """

    hash: int
    fitted: bool


Outcome = Written | Extrema | str
"""What became of a row: the pixels are written; they have more than 8 bits and are undefined; or the reason why there
are none."""


class Piece(NamedTuple):
    """A row of the file of pixels, and the part of an image that it shows; None for all of it."""

    row: int
    box: Box | None


Item = tuple[Content, Sequence[Piece]]
"""An image with its pieces."""


class Decoder(NamedTuple):
    """Decodes images into the rows of a file of pixels.

    Args:
        path: the file, uint8 (N, C, H, W) without a header.
        form: height, width and channels of the pixels.
        pixel_range: black and white of images with more than 8 bits; None if it is not known yet.
    """

    path: Path
    form: ImageForm
    pixel_range: PixelRange | None

    def decode(self, content: Content, pieces: Sequence[Piece]) -> list[Outcome]:
        """Decode an image for each of its pieces, and write their pixels.

        Raises:
            ExternalError: a file cannot be read, or there is too little memory for its image.
            OSError: the file of pixels cannot be written.
        """
        try:
            read = content.read() if isinstance(content, FileIn) else content
            image = read if isinstance(read, Image.Image) else open_image(read)
            return [self._decode_piece(image, piece) for piece in pieces]
        except ValueError as error:
            return [str(error)] * len(pieces)
        except MemoryError:
            name = f"{content.folder}: {content.name}" if isinstance(content, FileIn) else "prepare"
            raise ExternalError(
                f"{name}: too little memory to decode the image; fewer cores need less (taskset)"
            ) from None

    def _decode_piece(self, image: Image.Image, piece: Piece) -> Outcome:
        try:
            pixels = decode(image, self.form, piece.box, pixel_range=self.pixel_range)
        except ValueError as error:
            return str(error)
        if isinstance(pixels, Extrema):
            return pixels
        content = np.ascontiguousarray(pixels).data.cast("B")
        file = _open(self.path)
        written = os.pwrite(file, content, piece.row * len(content))
        while written < len(content):  # a signal or a nearly full disk may split a write
            written += os.pwrite(file, content[written:], piece.row * len(content) + written)
        width, height = image.size if piece.box is None else piece.box.size
        return Written(hash_pixels(content), not self.form.has_aspect_of(width, height))


_opened: dict[Path, int] = {}


def _open(path: Path) -> int:
    """The descriptor of a file of pixels, which this process keeps open for the next image."""
    if path not in _opened:
        close_files()
        _opened[path] = os.open(path, os.O_WRONLY)
    return _opened[path]


def close_files() -> None:
    """Close the file of pixels that this process writes."""
    while _opened:
        os.close(_opened.popitem()[1])


def hash_pixels(pixels: memoryview | bytes) -> int:
    """A 64-bit hash of the pixels of an image. A chance match among ten million images has a probability of 3e-6."""
    return int.from_bytes(hashlib.blake2b(pixels, digest_size=8).digest(), "little")


def decode_batch(decoder: Decoder, batch: list[Item]) -> list[list[Outcome]]:
    """Decode several images; runs in a worker process."""
    return [decoder.decode(content, pieces) for content, pieces in batch]


def start() -> None:
    """Prepare a worker process. It leaves Ctrl-C to the main process, and ends when that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = multiprocessing.parent_process()
    assert main is not None

    def watch() -> None:
        main.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
