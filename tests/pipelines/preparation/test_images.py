"""Opening image files: damaged headers, and EXIF, where only the orientation counts; and fitting them to a form."""

import io
import re
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from pipelines.preparation import images
from pipelines.preparation.images import FORMATS, count_pixels, decode, open_image, to_pixels
from pipelines.settings.image_form import ImageForm

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
DESCRIPTION, ORIENTATION, X_RESOLUTION, SHORT, SIGNED_RATIONAL = 0x010E, 0x0112, 0x011A, 3, 10
TURNED = np.rot90(PIXELS, -1)  # by orientation 6
HEADER = 400  # bytes; it is all of some files


def make_exif(*entries: tuple[int, int, bytes]) -> bytes:
    """EXIF with these entries: tag, type and value. A value of more than four bytes lies behind the entries."""
    table, values, behind = b"", b"", 14 + 12 * len(entries)
    for tag, kind, value in entries:
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", behind + len(values))
        table += struct.pack("<HHI", tag, kind, 1) + place
        values += value if len(value) > 4 else b""
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + b"\0\0\0\0" + values


ON_ITS_SIDE = (ORIENTATION, SHORT, struct.pack("<H", 6))
NEGATIVE_RESOLUTION = make_exif(ON_ITS_SIDE, (X_RESOLUTION, SIGNED_RATIONAL, struct.pack("<ii", -1, 1)))


def write(name: str, **options) -> bytes:
    stream = io.BytesIO()
    quality = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(name, {})
    Image.fromarray(PIXELS).save(stream, name, **quality, **options)
    return stream.getvalue()


def assert_shows(content: bytes, expected: np.ndarray) -> None:
    read = np.asarray(open_image(content)).astype(int)
    assert read.shape == expected.shape and np.abs(read - expected).max() < 6  # JPEG is not exact


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("exif", "expected"),
    [
        (NEGATIVE_RESOLUTION, TURNED),
        (NEGATIVE_RESOLUTION[:30], TURNED),  # cut off after the orientation
        (b"Exif\0\0not TIFF at all", PIXELS),
        (b"Exif\0\0", PIXELS),
        (make_exif((ORIENTATION, SHORT, struct.pack("<H", 0))), PIXELS),
        (make_exif((ORIENTATION, SHORT, struct.pack("<H", 99))), PIXELS),
        (make_exif((ORIENTATION, SIGNED_RATIONAL, struct.pack("<ii", 6, 0))), PIXELS),
        (make_exif((ORIENTATION, 2, b"six\0")), PIXELS),
    ],
)
def test_only_the_orientation_of_exif_counts(name, exif, expected):
    """Other tags may hold invalid values, and all of it may be damaged."""
    assert_shows(write(name, exif=exif), expected)


def test_an_invalid_resolution_beside_the_orientation_of_tiff():
    content = bytearray(write("TIFF", exif=make_exif(ON_ITS_SIDE), dpi=(72, 72)))
    entry = content.index(struct.pack("<HHI", X_RESOLUTION, 5, 1))
    (place,) = struct.unpack_from("<I", content, entry + 8)
    struct.pack_into("<H", content, entry + 2, SIGNED_RATIONAL)
    struct.pack_into("<i", content, place, -1)
    assert_shows(bytes(content), TURNED)


def test_too_little_memory_does_not_make_an_image_broken(monkeypatch):
    """With ``data.skip_broken`` it would be left out."""

    def fail(*_):
        raise MemoryError

    image, content = open_image(write("PNG")), write("PNG")
    monkeypatch.setattr(images, "to_pixels", fail)
    with pytest.raises(MemoryError):
        decode(image, ImageForm(4, 4, 3))
    for place, name in ((Image.Image, "getexif"), (ImageFile.ImageFile, "load"), (images, "_turn_upright")):
        monkeypatch.setattr(place, name, fail)
        with pytest.raises(MemoryError):
            open_image(content)


def write_deep_color(pixels: np.ndarray) -> bytes:
    """A PNG with 16 bits per color, which PIL reads but does not write; ``pixels`` is (H, W, 3)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_color_of_12_bits_in_16_is_not_black_in_silence():
    deep = PIXELS.astype(np.uint16) * 257
    assert np.array_equal(np.asarray(open_image(write_deep_color(deep))), PIXELS)
    with pytest.raises(ValueError, match="16 bits per color, but no value above 4095"):
        open_image(write_deep_color(deep // 16))
    assert not np.asarray(open_image(write_deep_color(deep * 0))).any()  # a black image is black


def write_icon(size: tuple[int, int], declared: int) -> bytes:
    """An icon whose directory declares another size than its image has."""
    stream = io.BytesIO()
    Image.new("L", size).save(stream, "PNG")
    directory = struct.pack("<3H4B2H2I", 0, 1, 1, declared, declared, 0, 0, 1, 8, stream.tell(), 22)
    return directory + stream.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_pixels_are_counted_before_anything_is_decoded(form, monkeypatch):
    stream = io.BytesIO()
    Image.fromarray(PIXELS).resize((32, 48)).save(stream, form, **({"sizes": [(32, 48)]} if form == "ICO" else {}))
    assert open_image(stream.getvalue()).size == (32, 48)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    assert count_pixels(stream.getvalue()) == 32 * 48


def test_pixels_of_an_icon_are_those_of_its_image():
    icon = write_icon((400, 300), declared=16)
    assert open_image(icon).size == (400, 300)
    assert count_pixels(icon) == 400 * 300


def test_more_pixels_than_pil_opens_are_counted(monkeypatch):
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    assert count_pixels(stream.getvalue()) == 81  # more than 80 are not opened
    assert count_pixels(b"no image") == 0


def test_heic_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r'pip install "stn-pipelines\[heic\]"'):
        open_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def test_heic():
    heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    heif.from_pillow(Image.fromarray(PIXELS).resize((64, 96), 0)).save(stream, quality=-1, chroma=444)
    assert count_pixels(stream.getvalue()) == 64 * 96
    read = np.asarray(open_image(stream.getvalue()).resize(PIXELS.shape[1::-1], 0)).astype(int)
    assert np.abs(read - PIXELS).max() < 8


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_any_damage_of_exif_leaves_the_pixels(name):
    """They are as stored, or turned."""
    random = np.random.default_rng(0)
    for _ in range(100):
        exif = bytearray(NEGATIVE_RESOLUTION)
        for place in random.integers(6, len(exif), random.integers(1, 5)):
            exif[place] = random.integers(256)
        read = np.asarray(open_image(write(name, exif=bytes(exif[: random.integers(6, len(exif) + 1)]))))
        assert sorted(read.shape) == sorted(PIXELS.shape)
        assert abs(read.astype(int).sum() - PIXELS.astype(int).sum()) < PIXELS.size


def test_damaged_exif_of_avif_leaves_the_pixels(monkeypatch):
    """Its decoder refuses EXIF whose beginning is damaged. Orientation has a box of its own."""
    exif = Image.Exif()
    exif[DESCRIPTION], exif[ORIENTATION] = "of a test", 6
    whole = write("AVIF", exif=exif, quality=100)
    expected = np.asarray(open_image(write("AVIF", quality=100))).astype(int)
    place = whole.rindex(b"Exif\0\0") + 6  # the byte order
    damaged = [whole[: place + i] + bytes([whole[place + i] ^ 255]) + whole[place + i + 1 :] for i in range(-6, 4)]
    for content in (whole, *damaged):
        read = np.asarray(open_image(content)).astype(int)
        assert np.abs(read - np.rot90(expected, -1)).max() < 6
        assert count_pixels(content) == expected[..., 0].size
    monkeypatch.setattr(images, "AVIF_EXIF", re.compile(b"(never)"))
    for content in damaged:
        with pytest.raises(ValueError, match=r"no image|Exif"):
            open_image(content)


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_header_gives_an_image_or_one_line(name, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # a damaged size must not fill memory
    random = np.random.default_rng(0)
    whole = write(name, **({"exif": NEGATIVE_RESOLUTION} if name in ("JPEG", "PNG", "WEBP") else {}))
    refused = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(300):
            content = bytearray(whole)
            for place in random.integers(0, min(HEADER, len(content)), random.integers(1, 4)):
                content[place] = random.choice((0, 1, 127, 128, 255, int(random.integers(256))))
            try:
                image = open_image(bytes(content[: None if random.integers(3) else random.integers(len(content))]))
            except ValueError as error:
                refused.append(str(error))
            else:
                assert np.asarray(image).size
    assert len(refused) > 20 and all(reason and "\n" not in reason for reason in refused)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(32, 32), (20, 20), (50, 31), (7, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_stretching_is_what_it_was_before_there_was_a_choice(size, channels):
    image = noise(*size)
    expected = np.asarray(image.convert("L" if channels == 1 else "RGB").resize((20, 20), Image.Resampling.BILINEAR))
    expected = expected[None] if channels == 1 else expected.transpose(2, 0, 1)
    np.testing.assert_array_equal(to_pixels(image, ImageForm(20, 20, channels)), expected)


@pytest.mark.parametrize("form_size", [(32, 100), (24, 94), (64, 64), (50, 20)])
@pytest.mark.parametrize("image_size", [(40, 60), (60, 40), (10, 300), (1, 90), (24, 94)])
@pytest.mark.parametrize("fill", [0, 77, (10, 20, 30), "edge"])
def test_padding_and_cutting_it_off_again_is_the_resized_image(
    form_size: tuple[int, int], image_size: tuple[int, int], fill
):
    form, image = ImageForm(*form_size, 3, "pad", fill), noise(*image_size)
    padded = to_pixels(image, form)
    assert padded.shape == form.shape and padded.dtype == np.uint8
    _, (left, top, right, bottom) = form.place(image.width, image.height)
    rows, columns = slice(int(top), int(bottom)), slice(int(left), int(right))
    size = columns.stop - columns.start, rows.stop - rows.start
    content = padded[:, rows, columns]
    np.testing.assert_array_equal(content, np.asarray(image.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1))
    around = [(0, 0), (rows.start, form.height - rows.stop), (columns.start, form.width - columns.stop)]
    if fill == "edge":
        np.testing.assert_array_equal(padded, np.pad(content, around, mode="edge"))
    else:
        outside = np.pad(np.zeros(content.shape, bool), around, constant_values=True)
        assert (padded[outside].reshape(3, -1) == np.reshape(fill, (-1, 1))).all()


def test_padding_gray_images():
    image = Image.new("L", (8, 4), 200)
    padded = to_pixels(image, ImageForm(8, 8, 1, "pad", 9))
    assert padded.shape == (1, 8, 8) and (padded[:, 2:6] == 200).all()
    assert (padded[:, [0, 1, 6, 7]] == 9).all()


@pytest.mark.parametrize(
    ("form_size", "image_size"), [((32, 100), (200, 300)), ((24, 94), (24, 500)), ((40, 20), (90, 91))]
)
def test_cropping_resizes_the_middle(form_size: tuple[int, int], image_size: tuple[int, int]):
    form, image = ImageForm(*form_size, 3, "crop"), noise(*image_size)
    cropped = to_pixels(image, form)
    assert cropped.shape == form.shape
    source, _ = form.place(image.width, image.height)
    assert all(side == round(side) for side in source), "this test needs whole pixels"
    middle = image.crop((int(source.left), int(source.top), int(source.right), int(source.bottom)))
    expected = np.asarray(middle.resize((form.width, form.height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    # At its border our filter also reads pixels beyond the window.
    np.testing.assert_array_equal(cropped[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1])


def test_a_crop_of_pixels_that_need_no_scaling_copies_them():
    image = noise(31, 99)
    np.testing.assert_array_equal(
        to_pixels(image, ImageForm(31, 40, 3, "crop")), np.asarray(image).transpose(2, 0, 1)[:, :, 29:69]
    )
