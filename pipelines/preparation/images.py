"""Open image files, and convert them to uint8 pixels of one size and mode.

Prepare and predict open every image file with :func:`open_image`.
"""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

# Raster formats only. PIL also opens others, among them EPS, which it passes to Ghostscript to execute.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "ICO", "PCX", "QOI")
ENDINGS = frozenset(ending for ending, name in Image.registered_extensions().items() if name in FORMATS)
ORIENTATION = 0x0112  # EXIF tag; 1 is upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(content: bytes) -> Image.Image:
    """Read the content of an image file, turned upright by its EXIF orientation; of several frames the first is used.

    Nothing else in EXIF matters: where it is damaged, the pixels are taken as they are stored.

    Raises:
        ValueError: it is empty, cut off, damaged, in none of :data:`FORMATS`, or has more pixels than PIL opens.
    """
    if not content:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # PIL warns about harmless oddities in files
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
                return _turn_upright(image)
    except UnidentifiedImageError:
        raise ValueError("its content is no image") from None
    except Exception as error:  # decoders raise many types on damaged bytes: struct.error, IndexError, ...
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from None


def count_pixels(content: bytes) -> int:
    """Return the number of pixels that the header of an image file declares; 0 if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return image.width * image.height
    except Exception:  # as above; open_image says why
        return 0


def _turn_upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image. PIL's own function also writes the other tags again, and fails where one is not valid."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged bytes, as above
        turn = None
    return image if turn is None else image.transpose(turn)


def decode(content: bytes, size: int, channels: int) -> np.ndarray:
    """Decode the content of an image file to uint8 (channels, size, size).

    Raises:
        ValueError: as :func:`open_image`, or the pixels cannot be converted.
    """
    image = open_image(content)
    try:
        return to_pixels(image, size, channels)
    except Exception as error:
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from None


def to_pixels(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Convert a PIL image of any mode to uint8 (channels, size, size).

    Width and height are scaled independently, with PIL's antialiased bilinear filter. The mode is converted by
    :func:`to_mode`.
    """
    image = to_mode(image, channels)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """Convert a PIL image of any mode to gray (1 channel) or RGB (3 channels).

    Transparent parts become white, and 16-bit gray is scaled to 8 bits.
    """
    if image.mode.startswith(("I", "F")):
        array = np.asarray(image)
        sixteen_bit = image.mode.startswith("I;16") or array.max(initial=0) > 255
        white = 65535.0 if sixteen_bit else 255.0
        image = Image.fromarray(np.uint8(np.clip(array * (255.0 / white), 0, 255)))
    elif "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)
