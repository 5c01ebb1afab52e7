"""From an image file's bytes to uint8 pixels of one size and mode, whatever its format, mode or orientation."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Those that hold photographs and drawings. PIL opens more, among them EPS, which it hands to Ghostscript to run.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "ICO", "PCX", "QOI")
ENDINGS = frozenset(ending for ending, name in Image.registered_extensions().items() if name in FORMATS)
ORIENTATION = 0x0112  # EXIF's tag; 1 is upright


def decode(content: bytes, size: int, channels: int) -> np.ndarray:
    """An image file's content as uint8 (channels, size, size); of several frames the first.

    Raises:
        ValueError: it is empty, cut off, damaged, not of one of :data:`FORMATS`, or of more pixels than PIL opens.
    """
    if not content:
        raise ValueError("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return to_pixels(image, size, channels)
    except UnidentifiedImageError:
        raise ValueError("its content is no image") from None
    except Exception as error:  # what a decoder raises on damaged bytes is of any kind: struct.error, IndexError, ...
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from None


def to_pixels(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """A PIL image of any mode as uint8 (C, size, size).

    The side lengths are changed independently, by PIL's antialiased bilinear filter.
    """
    image = to_mode(image, channels)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def to_mode(image: Image.Image, channels: int) -> Image.Image:
    """A PIL image of any mode as gray (1 channel) or RGB (3).

    It is turned upright by its EXIF tag; transparent parts become white; 16-bit gray is scaled to 8.
    """
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        array = np.asarray(image)
        sixteen_bit = image.mode.startswith("I;16") or array.max(initial=0) > 255
        top = 65535.0 if sixteen_bit else 255.0
        image = Image.fromarray(np.uint8(np.clip(array * (255.0 / top), 0, 255)))
    elif "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)
