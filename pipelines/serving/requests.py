"""Images in requests: their limits and their decoding."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from pipelines.preparation.images import count_pixels
from pipelines.serving.limits import Limits
from pipelines.serving.loaded_version import LoadedVersion

IMAGE_FILE = {"schema": {"type": "string", "format": "binary"}}  # in the OpenAPI description


class ImageFile(NamedTuple):
    """An image file of a request. ``name`` is for messages."""

    name: str
    content: bytes


async def read_image_files(request: Request, limits: Limits) -> list[ImageFile]:
    """Return the image files of a request: its body, or the files of a form.

    Raises:
        HTTPException: 400 for a form that is malformed, has no file, or has too many.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return [ImageFile("the body", await request.body())]
    async with request.form(max_files=limits.images, max_fields=limits.images) as form:
        files = []
        for field, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise HTTPException(400, f"{field!r} is a text, expected a file")
            files.append(ImageFile(value.filename or field, await value.read()))
    if not files:
        raise HTTPException(400, "the form has no file")
    return files


def decode_files(version: LoadedVersion, files: Sequence[ImageFile], limits: Limits) -> np.ndarray:
    """Decode image files to the input of a version, uint8 (B, C, H, W).

    Raises:
        HTTPException: 400 for a file that is not a readable image, 413 for too many pixels.
    """
    if sum(count_pixels(file.content) for file in files) > limits.pixels:
        raise HTTPException(413, f"the images of a request have at most {limits.pixels:,} pixels")
    images = []
    for file in files:
        try:
            images.append(version.decode(file.content))
        except ValueError as error:
            raise HTTPException(400, f"{file.name}: not a readable image ({error})") from None
    return np.stack(images)
