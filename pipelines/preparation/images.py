"""Open image files, and convert them to uint8 pixels of one form.

Prepare, predict, score and the server open every image file with :func:`open_image`.
"""

import io
import re
import warnings

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.IcoImagePlugin import IcoFile

from pipelines.preparation.listing import Box
from pipelines.preparation.pixel_range import Extrema, PixelRange, find_range, is_deep, measure, to_eight_bits
from pipelines.runtime.errors import first_line
from pipelines.settings.image_form import Fill, ImageForm

# Raster formats only. PIL also opens others, among them EPS, which it passes to Ghostscript to execute.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "ICO", "PCX", "QOI")
ICON = b"\0\0\1\0"  # first bytes of ICO files
HEIC = ("HEIF",)  # pillow-heif's, which is optional
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
ENDINGS = frozenset(ending for ending, name in Image.registered_extensions().items() if name in FORMATS)
ENDINGS |= {".heic", ".heif", ".hif"}
ORIENTATION = 0x0112  # EXIF tag; 1 is upright
# Where an AVIF file declares EXIF: name, version, number and protection of the box, and the type of the item.
# Orientation has boxes of its own in AVIF, and the decoder refuses images with damaged EXIF.
AVIF_EXIF = re.compile(rb"(infe.{8})Exif", re.DOTALL)
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
        ValueError: it is empty, cut off, damaged, in none of :data:`FORMATS`, or has more pixels than PIL opens; or it
            is HEIC, and pillow-heif is not installed.
        MemoryError: there is too little memory.
    """
    if not content:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # PIL warns about harmless oddities in files
            with _open(content) as image:
                deep_color = any(";16" in str(tile) for tile in image.tile) and not is_deep(image)
                image.load()
                if deep_color:
                    _check_brightness(image)
                return _turn_upright(image)
    except UnidentifiedImageError:
        raise ValueError("its content is no image") from None
    except MemoryError:  # the image may be whole
        raise
    except Exception as error:  # decoders raise many types on damaged bytes: struct.error, IndexError, ...
        raise ValueError(first_line(error)) from None


def _open(content: bytes) -> ImageFile.ImageFile:
    """Open an image file whose pixels are not decoded yet. Raises exceptions of many types."""
    if content[8:12] == b"avif":
        content = AVIF_EXIF.sub(rb"\1Skip", content)
    return Image.open(io.BytesIO(content), formats=FORMATS + _formats_of(content))


def _formats_of(content: bytes) -> tuple[str, ...]:
    """The formats of optional packages that a file needs.

    Raises:
        ValueError: the package is not installed.
    """
    if content[4:8] != b"ftyp" or content[8:12] not in HEIC_BRANDS:
        return ()
    if HEIC[0] not in Image.OPEN:
        try:
            import pillow_heif  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError('HEIC is read with: pip install "stn-pipelines[heic]"') from None
        pillow_heif.register_heif_opener()
    return HEIC


def _check_brightness(image: Image.Image) -> None:
    """Refuse a color image with 16 bits per channel that PIL's conversion to 8 bits makes black.

    Raises:
        ValueError: all values are below 4,096, as in images of 12-bit cameras.
    """
    brightest = max(int(np.asarray(image.getchannel(band)).max()) for band in image.getbands() if band != "A")
    if 0 < brightest < 16:
        raise ValueError("it has 16 bits per color, but no value above 4095, and would be black; convert it to 8 bits")


def count_pixels(content: bytes) -> int:
    """Return the number of pixels that the headers of an image file declare, before anything is decoded.

    It is 0 if the file cannot be read. If it declares more pixels than PIL opens, it is a number above that limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            with _open_icon(content) if content.startswith(ICON) else _open(content) as image:
                return image.width * image.height
    except Image.DecompressionBombError:
        return 2 * (Image.MAX_IMAGE_PIXELS or 0) + 1
    except Exception:  # as above; open_image says why
        return 0


def _open_icon(content: bytes) -> ImageFile.ImageFile:
    """Open the image in an icon that PIL would use. PIL itself decodes an icon of any size as soon as it opens it."""
    image = IcoFile(io.BytesIO(content)).entry[0]
    return Image.open(io.BytesIO(content[image.offset :]), formats=("PNG", "DIB"))


def _turn_upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image. PIL's own function also writes the other tags again, and fails where one is not valid."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # damaged bytes, as above
        turn = None
    return image if turn is None else image.transpose(turn)


def crop(image: Image.Image, box: Box) -> Image.Image:
    """Cut a box out of an image.

    Raises:
        ValueError: the box is empty, or reaches beyond the image.
    """
    inside = 0 <= box.left < box.right <= image.width and 0 <= box.top < box.bottom <= image.height
    if not inside:
        raise ValueError(
            f"its box has the columns {box.left} to {box.right - 1} and the rows {box.top} to {box.bottom - 1}, "
            f"the image has {image.width} columns and {image.height} rows"
        )
    return image.crop(box)


def decode(
    image: Image.Image, form: ImageForm, box: Box | None = None, *, pixel_range: PixelRange | None = None
) -> np.ndarray | Extrema:
    """Convert an opened image to uint8 (C, H, W), the shape of ``form``.

    Args:
        box: the part of the image that is used; None for all of it.
        pixel_range: black and white of images with more than 8 bits; None if it is not known yet.

    Returns:
        The pixels; for an image with more than 8 bits and without a range the smallest and the largest pixel.

    Raises:
        ValueError: as :func:`crop`, or the pixels cannot be converted.
        MemoryError: there is too little memory.
    """
    if box is not None:
        image = crop(image, box)
    if pixel_range is None and is_deep(image):
        return measure(image)
    try:
        return to_pixels(image, form, pixel_range)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(first_line(error)) from None


def to_pixels(image: Image.Image, form: ImageForm, pixel_range: PixelRange | None = None) -> np.ndarray:
    """Convert a PIL image of any mode to uint8 (C, H, W), the shape of ``form``.

    The image is placed by :meth:`~pipelines.settings.image_form.ImageForm.place` and scaled by PIL's antialiased
    bilinear filter. The mode is converted by :func:`to_mode`.
    """
    image = to_mode(image, form.channels, pixel_range)
    source, target = form.place(*image.size)
    size = int(target.width), int(target.height)
    if source != (0, 0, *size):
        image = image.resize(size, Image.Resampling.BILINEAR, box=source)
    pixels = np.asarray(image)
    pixels = pixels[None] if form.channels == 1 else pixels.transpose(2, 0, 1)
    left, top = int(target.left), int(target.top)
    return extend(pixels, (left, top, form.width - size[0] - left, form.height - size[1] - top), form.fill)


def extend(pixels: np.ndarray, margins: tuple[int, int, int, int], fill: Fill) -> np.ndarray:
    """Extend pixels (C, H, W) by margins on the left, top, right and bottom, which have the color ``fill``.

    ``fill`` is that of :class:`~pipelines.settings.image_form.ImageForm`.
    """
    left, top, right, bottom = margins
    if not any(margins):
        return pixels
    around = ((0, 0), (top, bottom), (left, right))
    if isinstance(fill, str):
        return np.pad(pixels, around, mode="edge")
    channels, height, width = pixels.shape
    extended = np.empty((channels, top + height + bottom, left + width + right), pixels.dtype)
    extended[:] = np.reshape(fill, (-1, 1, 1))
    extended[:, top : top + height, left : left + width] = pixels
    return extended


def to_mode(image: Image.Image, channels: int, pixel_range: PixelRange | None = None) -> Image.Image:
    """Convert a PIL image of any mode to gray (1 channel) or RGB (3 channels).

    Transparent parts become white, and pixels of more than 8 bits are scaled to 8 bits.

    Args:
        pixel_range: black and white of images with more than 8 bits; None for a data set without such images.

    Raises:
        ValueError: the image has more than 8 bits, and its pixels do not fit the range, or there is none and they do
            not fill 16 bits.
    """
    if is_deep(image):
        image = to_eight_bits(image, pixel_range or _range_by_format(image))
    elif "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _range_by_format(image: Image.Image) -> PixelRange:
    """The range of a single image, where it is certain: 16 bits, 8 bits, or floats from 0 to 1.

    Raises:
        ValueError: it is not certain.
    """
    extrema = measure(image)
    found = find_range([extrema])
    if found not in (PixelRange(0, 1), PixelRange(0, 255), PixelRange(0, 65535)):
        raise ValueError(
            f"its pixels are {PixelRange(extrema.low, extrema.high)}, but the training images had 8 bits; "
            f"convert it to 8 bits"
        )
    return found
