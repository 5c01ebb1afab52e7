"""Opening image files: damaged headers, and EXIF, where only the orientation counts."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from pipelines.preparation.images import FORMATS, open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
ORIENTATION, X_RESOLUTION, SHORT, SIGNED_RATIONAL = 0x0112, 0x011A, 3, 10
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
