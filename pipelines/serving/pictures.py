"""Pictures in answers: PNG in base64."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipelines.registry.model_metadata import ModelMetadata
from pipelines.serving.rectification import parse_theta, rectify
from pipelines.settings.image_form import ImageForm


def encode(pixels: np.ndarray) -> str:
    """Return an image, uint8 (C, H, W), as PNG in base64."""
    return _encode_picture(_to_picture(pixels))


def encode_rectified(pixels: Sequence[np.ndarray] | np.ndarray, readable: np.ndarray, metadata: ModelMetadata) -> list:
    """Return inputs of the model, uint8 (B, C, H, W), as its transformer samples them by θ (B, …).

    Each is a PNG in base64.
    """
    channels, height, width = metadata.image_shape
    form = ImageForm(height, width, channels)
    transform, theta = parse_theta(readable)
    assert metadata.padding_mode is not None, "a model with θ has a transformer in front"
    return [
        _encode_picture(
            rectify(
                _to_picture(image), transform, theta[i : i + 1], metadata.mean,
                padding_mode=metadata.padding_mode, form=form,
            )
        )
        for i, image in enumerate(pixels)
    ]  # fmt: skip


def _to_picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _encode_picture(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
