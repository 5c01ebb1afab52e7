"""Sources: all layouts and forms give the same tensors, all kinds of images are decoded, all faults name the file."""

import gzip
import hashlib
import io
import pickle
import shutil
import stat
import struct
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import numpy as np
import pytest
import torch
import zstandard
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision.datasets import SVHN

from pipelines.preparation import archives, decoder, torchvision_datasets
from pipelines.preparation.decoding import read_images
from pipelines.preparation.folders import Folder
from pipelines.preparation.listing import Box, Listing, Record
from pipelines.preparation.sources import locate
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.settings.data_params import DataParams, DistortionParams
from tests.pipelines.preparation.reading import read_source

SIZE = 9
FORMS = ["folder", "nested", "zip", "nested.zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "nested.tar.gz"]


def data(source, dataset="mine", size=SIZE, channels: Literal[1, 3] = 3, skip_broken=False) -> DataParams:
    still = DistortionParams(rotation=0, scale=[1.0, 1.0], shift=0, padding_mode="zeros")
    return DataParams(
        dataset=dataset, source=str(source), size=size, channels=channels, skip_broken=skip_broken, distortion=still
    )


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def write_tree(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Write a different image to each of ``names``, as lossless PNG for any ending."""
    images = dict(zip(names, random_images(len(names)), strict=True))
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, format="PNG")
    return images


def in_form(folder: Path, form: str) -> Path:
    """Copy the files into a folder or an archive; the ``nested`` forms put two folders around all files."""
    if form.startswith("nested"):
        outer = folder.with_name("nested")
        shutil.copytree(folder, outer / "set" / "images")
        folder, form = outer, form.removeprefix("nested").removeprefix(".")
    if form in ("", "folder"):
        return folder
    if form == "tar.zst":
        plain = in_form(folder, "tar")
        path = plain.with_suffix(".tar.zst")
        whole = plain.read_bytes()
        frames = [zstandard.ZstdCompressor(write_checksum=True).compress(half) for half in (whole[:5000], whole[5000:])]
        path.write_bytes(b"".join(frames))
        return path
    kind = {"zip": "zip", "tar": "tar", "tar.gz": "gztar", "tar.bz2": "bztar", "tar.xz": "xztar"}[form]
    return Path(shutil.make_archive(str(folder.with_name("archive")), kind, folder))


def stacked(images: dict[str, np.ndarray], *names: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([images[name].transpose(2, 0, 1) for name in names]))


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_class_folders_in_any_form(tmp_path, form):
    images = write_tree(tmp_path / "tree", ["dog/2.png", "cat/b.png", "cat/a.png", "dog/1.png", "emu/x.png"])
    source = read_source(data(in_form(tmp_path / "tree", form)))
    assert source.classes == ["cat", "dog", "emu"] and source.test is None
    assert_equal(source.train.images, stacked(images, *sorted(images)))
    assert source.train.labels.tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("form", FORMS)
def test_train_and_test_folders_in_any_form(tmp_path, form):
    names = ["train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "test/dog/1.png", "test/cat/1.png"]
    images = write_tree(tmp_path / "tree", names)
    source = read_source(data(in_form(tmp_path / "tree", form)))
    assert source.classes == ["cat", "dog"] and source.test is not None
    assert_equal(source.train.images, stacked(images, *names[:3]))
    assert_equal(source.test.images, stacked(images, "test/cat/1.png", "test/dog/1.png"))
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([0, 1, 1], [0, 1])


def test_the_order_in_an_archive_does_not_matter(tmp_path):
    """zip and tar keep files in the order in which they were added, which is that of the file system."""
    names = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
    images = write_tree(tmp_path, names)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in reversed(names):
            archive.write(tmp_path / name, name)
            tar.add(tmp_path / name, name)
    for path in (tmp_path / "a.zip", tmp_path / "a.tar"):
        source = read_source(data(path))
        assert source.train.labels.tolist() == [0, 0, 1, 1]
        assert_equal(source.train.images, stacked(images, *names))


@pytest.mark.parametrize(
    ("given", "meant"), [("cifra10", "cifar10"), ("minst", "mnist"), ("fashion-mnist", "fashion_mnist")]
)
def test_a_mistyped_data_set_is_asked_for(tmp_path, given, meant):
    with pytest.raises(UserError, match=f"data.dataset: '{given}' given; did you mean {meant}"):
        read_source(data(tmp_path, given))


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
def test_files_that_are_no_class_images_are_ignored(tmp_path, form):
    tree = tmp_path / "tree"
    images = write_tree(tree, ["cat/1.PNG", "cat/2.Jpg", "dog/1.png"])
    for name in ("cat/._1.png", "__MACOSX/cat/1.png", ".hidden/cat/1.png", ".DS_Store", "cat/Thumbs.db", "notes.txt"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"no image")
    source = read_source(data(in_form(tree, form)))
    assert source.classes == ["cat", "dog"]
    assert_equal(source.train.images, stacked(images, *sorted(images)))


@pytest.mark.parametrize("stray", ["preview.png", "val/cat/1.png"])
def test_a_file_beside_train_and_test_does_not_make_them_classes(tmp_path, stray):
    """The file may be ignored or refused, but train and test must not become the classes."""
    write_tree(tmp_path, ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png", stray])
    classes = None
    with suppress(UserError):
        classes = read_source(data(tmp_path)).classes
    assert classes in (None, ["cat", "dog"])


def read_one(tmp_path: Path, image: Image.Image, size: int, channels: Literal[1, 3], ending: str = "png", **options):
    """Write an image to a file and read it as a source: int (C, size, size)."""
    for name in ("a", "b"):
        (tmp_path / "one" / name).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "one" / name / f"1.{ending}", **options)
    first, second = read_source(data(tmp_path / "one", size=size, channels=channels)).train.images
    assert torch.equal(first, second)
    return first.numpy().astype(int)


def test_transparent_parts_become_white(tmp_path):
    pixels = random_images(1)[0]
    alpha = np.random.default_rng(1).choice([0, 100, 255], (SIZE, SIZE)).astype(np.uint8)
    rgba = Image.fromarray(np.dstack([pixels, alpha]))
    share = alpha[None] / 255
    expected = pixels.transpose(2, 0, 1) * share + 255 * (1 - share)
    assert np.abs(read_one(tmp_path, rgba, SIZE, 3) - expected).max() <= 1

    gray = Image.fromarray(pixels[..., 0])
    expected = pixels[None, ..., 0] * share + 255 * (1 - share)
    gray.putalpha(Image.fromarray(alpha))
    assert np.abs(read_one(tmp_path, gray, SIZE, 1) - expected).max() <= 1


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_a_palettes_colors_are_looked_up(tmp_path, ending):
    index = np.random.default_rng(0).integers(0, 4, (SIZE, SIZE), dtype=np.uint8)
    colors = np.array([[10, 20, 30], [200, 0, 100], [0, 255, 0], [90, 90, 90]])
    image = Image.fromarray(index).convert("L")
    image.putpalette(colors.astype(np.uint8).tobytes())
    expected = colors[index].transpose(2, 0, 1)
    assert np.array_equal(read_one(tmp_path, image, SIZE, 3, ending), expected)
    through = np.where(index == 2, 255, expected)
    assert np.array_equal(read_one(tmp_path, image, SIZE, 3, ending, transparency=2), through)


def test_gray_and_color_become_each_other(tmp_path):
    pixels = random_images(1)[0]
    red, green, blue = pixels.astype(float).transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    assert np.abs(read_one(tmp_path, Image.fromarray(pixels), SIZE, 1)[0] - luma).max() <= 1
    gray = pixels[..., 0]
    for image in (Image.fromarray(gray), Image.fromarray(gray).convert("RGB")):
        assert np.array_equal(read_one(tmp_path, image, SIZE, 3), np.stack([gray] * 3))
        assert np.array_equal(read_one(tmp_path, image, SIZE, 1), gray[None])
    bits = gray > 127
    assert np.array_equal(read_one(tmp_path, Image.fromarray(bits), SIZE, 1), bits[None] * 255)


def write_deep(folder: Path, *tops: float, low: float = 0, kind: type = np.uint16, ending: str = "png") -> list:
    """Write images of more than 8 bits to two classes, with pixels from ``low`` to each of ``tops``."""
    images = []
    for i, top in enumerate(tops):
        image = np.random.default_rng(i).uniform(low, top, (SIZE, SIZE))
        image[0, 0], image[0, 1] = low, top
        images.append(image.astype(kind))
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[-1]).save(folder / "ab"[i % 2] / f"{i}.{ending}")
    return images


@pytest.mark.parametrize(
    ("tops", "white"), [((65535, 900), 65535), ((3000, 255), 4095), ((700, 30), 1023), ((9999, 1), 16383)]
)
def test_16_bits_have_one_range_over_the_data_set(tmp_path, tops, white):
    """A dark image of a data set stays dark, and 12 bits in 16 do not become black."""
    images = write_deep(tmp_path, *tops)
    source = read_source(data(tmp_path, channels=1))
    assert source.pixel_range == (0, white)
    for found, image in zip(source.train.images[:, 0].numpy(), images, strict=True):
        np.testing.assert_allclose(found, image / white * 255, atol=1)


def test_16_bits_keep_the_pixels_of_earlier_versions(tmp_path):
    images = write_deep(tmp_path, 65535, 40000, 20000)
    for found, image in zip(read_source(data(tmp_path, channels=1)).train.images[[0, 2, 1], 0], images, strict=True):
        assert np.array_equal(found.numpy(), np.uint8(np.clip(image * (255.0 / 65535.0), 0, 255)))


@pytest.mark.parametrize(
    ("low", "top", "expected"),
    [(0, 1, (0, 1)), (0, 0.9, (0, 1)), (0, 255, (0, 255)), (-1024, 3071, (-1024, 3071)), (0, 0.01, (0, 0.01)),
     (0, 1e6, (0, 1e6)), (5, 5, (5, 6))],
)  # fmt: skip
def test_floats_are_scaled_by_the_range_of_the_data_set(tmp_path, low, top, expected):
    images = write_deep(tmp_path, top, top, low=low, kind=np.float32, ending="tiff")
    source = read_source(data(tmp_path, channels=1))
    assert source.pixel_range == pytest.approx(expected)
    black, white = expected
    for found, image in zip(source.train.images[:, 0].numpy(), images, strict=True):
        np.testing.assert_allclose(found, (image - black) / (white - black) * 255, atol=1)


def test_a_given_range_is_used_and_an_image_outside_it_is_named(tmp_path):
    images = write_deep(tmp_path, 1000, 900, low=-1000, kind=np.float32, ending="tiff")
    source = read_source(data(tmp_path, channels=1).model_copy(update={"pixel_range": [-200.0, 200.0]}))
    expected = np.clip((images[0] + 200) / 400 * 255, 0, 255)
    np.testing.assert_allclose(source.train.images[0, 0].numpy(), expected, atol=1)
    assert source.pixel_range == (-200, 200)
    with pytest.raises(ExternalError, match=r"its pixels are -1000 to 1000, and 0% of them lie in the range 1e\+06 to"):
        read_source(data(tmp_path, channels=1).model_copy(update={"pixel_range": [1e6, 2e6]}))


def test_pixels_that_are_no_numbers_are_named(tmp_path):
    write_deep(tmp_path, 1, 1, kind=np.float32, ending="tiff")
    pixels = np.ones((SIZE, SIZE), np.float32)
    pixels[0, :2] = np.nan, np.inf
    Image.fromarray(pixels).save(tmp_path / "a/bad.tiff")
    with pytest.raises(ExternalError, match=r"a/bad\.tiff: .*2 of its 81 pixels are NaN or infinite"):
        read_source(data(tmp_path, channels=1))
    source = read_source(data(tmp_path, channels=1, skip_broken=True))
    assert len(source.train.labels) == 2 and list(source.broken) == ["a/bad.tiff"]


def test_8_bits_and_16_bits_in_one_data_set(tmp_path):
    write_deep(tmp_path, 4000, 4000)
    (gray,) = write_deep(tmp_path / "more", 255, kind=np.uint8)
    Path(tmp_path / "more/a/0.png").rename(tmp_path / "a/8bit.png")
    shutil.rmtree(tmp_path / "more")
    source = read_source(data(tmp_path, channels=1))
    assert source.pixel_range == (0, 4095) and np.array_equal(source.train.images[1, 0].numpy(), gray)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_by_its_exif_tag(tmp_path, orientation):
    upright = random_images(1)[0]
    # How a camera stores it. The EXIF standard's table gives the side of the scene of the file's row 0 and column 0.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright, 1), 7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    assert np.array_equal(read_one(tmp_path, image, SIZE, 3, exif=exif), upright.transpose(2, 0, 1))


def test_sides_are_resized_independently(tmp_path):
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8))
    expected = np.asarray(wide.resize((12, 12), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(read_one(tmp_path, wide, 12, 3), expected)
    # PIL's filter widens when it shrinks an image: a checkerboard turns gray. Without antialiasing it keeps extremes.
    board = Image.fromarray(np.uint8(np.indices((64, 64)).sum(0) % 2 * 255))
    assert np.ptp(read_one(tmp_path, board, 8, 1)) < 20


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_a_truncated_image_is_named(tmp_path, ending):
    tree = tmp_path / "tree"
    write_tree(tree, ["cat/1.png", "dog/1.png"])
    stream = io.BytesIO()
    big = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(big).save(stream, Image.registered_extensions()[f".{ending}"])
    whole = stream.getvalue()
    refused = []
    for cut in range(0, len(whole), len(whole) // 40):
        (tree / f"dog/2.{ending}").write_bytes(whole[:cut])
        try:
            read_source(data(tree))  # some formats do not need their last bytes
        except ExternalError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(f"{tree}: dog/2.{ending}: " in message for message in refused)


def test_boxes_share_a_file_that_is_read_once(tmp_path):
    pixels = random_images(1)[0]
    write_tree(tmp_path, ["a.png"])
    boxes = [Box(0, 0, 3, 4), None, Box(2, 1, SIZE, SIZE)]
    records = [Record("a.png", label, box=box) for label, box in zip("xyx", boxes, strict=True)]
    files = Folder(tmp_path, {".png"})
    found = read_images(data(tmp_path, size=4), Listing(records, ["x", "y"], "boxes", files), tmp_path)
    for image, box in zip(found.images, boxes, strict=True):
        part = Image.fromarray(pixels).crop(box) if box else Image.fromarray(pixels)
        expected = np.asarray(part.resize((4, 4), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.array_equal(image.numpy(), expected)
    assert found.labels.tolist() == [0, 1, 0] and found.groups is None


@pytest.mark.parametrize("box", [Box(-1, 0, 3, 3), Box(0, 0, SIZE + 1, 3), Box(3, 0, 3, 3), Box(0, 5, 3, 2)])
def test_a_box_outside_its_image_is_named_and_can_be_skipped(tmp_path, box):
    write_tree(tmp_path, ["a.png", "b.png"])
    records = [Record("a.png", "x", box=box), Record("a.png", "x"), Record("b.png", "y", group="g")]
    listing = Listing(records, ["x", "y"], "boxes", Folder(tmp_path, {".png"}))
    with pytest.raises(
        ExternalError, match=r"a\.png \[.*its box has the columns .* the image has 9 columns and 9 rows"
    ):
        read_images(data(tmp_path), listing, tmp_path)
    found = read_images(data(tmp_path, skip_broken=True), listing, tmp_path)
    assert list(found.broken) == [f"a.png {list(box)}"] and found.labels.tolist() == [0, 1]
    assert found.groups is not None and len(set(found.groups)) == 2


def test_an_image_that_claims_to_be_huge_is_named(tmp_path):
    write_tree(tmp_path, ["cat/1.png", "dog/1.png"])
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "dog/2.bmp")
    content = bytearray((tmp_path / "dog/2.bmp").read_bytes())
    content[18:26] = struct.pack("<2i", 2**20, 2**20)  # width and height
    (tmp_path / "dog/2.bmp").write_bytes(content)
    with pytest.raises(ExternalError, match=r"dog/2\.bmp"):
        read_source(data(tmp_path))


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_a_truncated_archive_is_named(tmp_path, form):
    write_tree(tmp_path / "tree", [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(5)])
    path = in_form(tmp_path / "tree", form)
    whole = path.read_bytes()
    cuts = [int(len(whole) * share) for share in (0.1, 0.3, 0.5, 0.7, 0.95)]
    if form == "tar":  # tar has no checksum; cut between two files, it is a valid shorter archive
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile()]
        cuts = [member.offset_data + member.size // 2 for member in members]
        cuts += [member.offset for member in members if member.offset] + [members[-1].offset + 100]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(ExternalError, match="truncated or damaged") as caught:
            read_source(data(path))
        assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_a_damaged_archive_is_refused_or_reads_as_before(tmp_path, form):
    """A wrong byte at any place gives a one-line error, or the same pixels if nothing depends on the byte."""
    write_tree(tmp_path / "tree", [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(2)])
    path = in_form(tmp_path / "tree", form)
    whole, before = path.read_bytes(), read_source(data(path))
    refused = []
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        try:
            after = read_source(data(path))
        except (UserError, ExternalError) as error:
            refused.append(str(error))
        else:  # contents in a tar and names in a zip's directory have no checksum
            assert form in ("tar", "zip") or torch.equal(after.train.images, before.train.images)
    assert len(refused) > 20
    assert all(len(message.splitlines()) == 1 and str(path) in message for message in refused)


@pytest.mark.parametrize("form", ["tar.gz", "tar.bz2", "tar.xz"])
def test_an_archives_checksum_is_read_to_its_end(tmp_path, form):
    """The checksum follows the last file, so that a reader of files alone would not see it."""
    write_tree(tmp_path / "tree", ["cat/1.png", "dog/1.png"])
    path = in_form(tmp_path / "tree", form)
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ExternalError, match="truncated or damaged"):
        read_source(data(path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("skip_broken", [False, True])
def test_of_files_with_one_name_in_an_archive_the_last_is_read(tmp_path, form, skip_broken):
    """``tar --update`` appends the files that changed."""
    images = write_tree(tmp_path / "tree", ["cat/1.png", "dog/1.png", "dog/2.png"])
    files = [("cat/1.png", b"cut off"), *((name, (tmp_path / "tree" / name).read_bytes()) for name in images)]
    path = tmp_path / f"a.{form}"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files:
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if form == "tar.gz" else "w") as archive:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    found = read_source(data(path, skip_broken=skip_broken))
    assert not found.broken
    assert_equal(found.train.images, stacked(images, *images))


def write_tar(path: Path, *odd: tarfile.TarInfo) -> Path:
    """Write a tar with two images and the given members."""
    with tarfile.open(path, "w") as archive:
        for name in ("cat/1.png", "dog/1.png"):
            stream = io.BytesIO()
            Image.fromarray(random_images(1)[0]).save(stream, "PNG")
            member = tarfile.TarInfo(name)
            member.size = len(stream.getvalue())
            archive.addfile(member, io.BytesIO(stream.getvalue()))
        for member in odd:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def write_zip(path: Path, *odd: zipfile.ZipInfo) -> Path:
    """Write a zip with two images and the given members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("cat/1.png", "dog/1.png"):
            stream = io.BytesIO()
            Image.fromarray(random_images(1)[0]).save(stream, "PNG")
            archive.writestr(name, stream.getvalue())
        for info in odd:
            archive.writestr(info, b"x")
    return path


UNSAFE = ["/etc/1.png", "../1.png", "cat/../../1.png", "cat/..\\..\\1.png", "C:/cat/1.png", "C:\\cat\\1.png", "/"]


@pytest.mark.parametrize("name", UNSAFE)
def test_a_path_that_leaves_the_archive_is_refused(tmp_path, name):
    for path in (
        write_tar(tmp_path / "a.tar", tarfile.TarInfo(name)),
        write_zip(tmp_path / "a.zip", zipfile.ZipInfo(name)),
    ):
        with pytest.raises(UserError, match="leaves the archive's folder") as caught:
            read_source(data(path))
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE"])
def test_links_and_devices_are_refused(tmp_path, kind):
    member = tarfile.TarInfo("cat/2.png")
    member.type, member.linkname = getattr(tarfile, kind), "cat/1.png"
    with pytest.raises(UserError, match=r"a\.tar: cat/2\.png: a link or a device"):
        read_source(data(write_tar(tmp_path / "a.tar", member)))
    info = zipfile.ZipInfo("cat/2.png")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(UserError, match=r"a\.zip: cat/2\.png: a link or a device"):
        read_source(data(write_zip(tmp_path / "a.zip", info)))


def test_an_encrypted_zip_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flags of the first entry of the directory
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zip: cat/1\.png: encrypted"):
        read_source(data(path))


@pytest.mark.parametrize("member", ["cat/2.png", "notes.txt"])
def test_a_bomb_is_refused_by_what_it_declares(tmp_path, member, monkeypatch):
    """Zeros compress by a factor of 1,000. The limit is lowered, so that the test does not have to write a GiB."""
    monkeypatch.setattr(archives, "MAX_SMALL", 2**20)
    zeros = tarfile.TarInfo(member)
    zeros.size = 2**24
    plain = write_tar(tmp_path / "a.tar", zeros)
    assert read_source(data(write_tar(tmp_path / "b.tar"))).classes == ["cat", "dog"]
    packed = [tmp_path / "a.tar.gz", tmp_path / "a.tar.zst", tmp_path / "a.zip"]
    packed[0].write_bytes(gzip.compress(plain.read_bytes()))
    packed[1].write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    write_zip(packed[2])
    with zipfile.ZipFile(packed[2], "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, bytes(zeros.size))
    for path in packed:
        with pytest.raises(UserError, match="unpacks to more than allowed") as caught:
            read_source(data(path))
        assert str(caught.value).startswith(f"{path}: {member}: ")


def test_a_header_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_SMALL", 2**20)
    member = tarfile.TarInfo("cat/1.png")
    member.pax_headers = {"comment": "0" * 2**24}
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
    with pytest.raises(UserError, match="a header: unpacks to more"):
        read_source(data(tmp_path / "a.tar.gz"))


NAMES = ["кошка", "犬", "chat é", "ﻗﻄﺔ", "🐈"]


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz", "tar.zst"])
def test_names_in_any_script(tmp_path, form):
    images = write_tree(tmp_path / "tree", [f"{label}/{label} 1.PNG" for label in NAMES])
    source = read_source(data(in_form(tmp_path / "tree", form)))
    assert source.classes == sorted(NAMES)
    assert_equal(source.train.images, stacked(images, *sorted(images)))


class Unmarked(zipfile.ZipInfo):
    """A member whose name is written as UTF-8 without the flag for UTF-8."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(), 0


def test_a_zip_of_macos_or_old_windows_is_understood(tmp_path):
    """macOS writes UTF-8 without the flag, and é as e with a combining accent. Old Windows writes backslashes."""
    images = [random_images(1, seed)[0] for seed in range(4)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        names = ["train\\chat \u00e9\\1.png", "train\\b\\1.png", "test/chat e\u0301/1.png", "test/b/1.png"]
        for name, pixels in zip(names, images, strict=True):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            archive.writestr(Unmarked(name), stream.getvalue())
    assert all(not info.flag_bits & 0x800 for info in zipfile.ZipFile(tmp_path / "a.zip").infolist())
    source = read_source(data(tmp_path / "a.zip"))
    assert source.classes == ["b", "chat \u00e9"] and source.test is not None
    assert source.train.labels.tolist() == [0, 1] and source.test.labels.tolist() == [0, 1]


def test_sizes_modes_and_formats_may_be_mixed(tmp_path):
    modes = {
        "1.PNG": "1", "2.gif": "P", "3.jpg": "CMYK", "4.JPEG": "L", "5.tiff": "RGBA", "6.bmp": "RGB", "7.webp": "RGBA",
        "8.png": "LA", "9.tif": "F", "10.pgm": "L", "11.png": "I;16", "12.ico": "RGBA", "13.jp2": "RGB",
    }  # fmt: skip
    for i, (name, mode) in enumerate(modes.items()):
        for label in ("cat", "dog"):
            (tmp_path / label).mkdir(exist_ok=True)
            Image.new(mode, (5 + 3 * i, 40 - 2 * i)).save(tmp_path / label / name)
    for channels in (1, 3):
        source = read_source(data(tmp_path, channels=channels))
        assert source.train.images.shape == (2 * len(modes), channels, SIZE, SIZE)


BROKEN = {"empty": b"", "text": b"no image at all", "cut": None}


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_or_left_out(tmp_path, form, kind):
    images = write_tree(tmp_path / "tree", ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"])
    file = tmp_path / "tree/cat/2.png"
    file.write_bytes(file.read_bytes()[:-30] if BROKEN[kind] is None else BROKEN[kind])
    path = in_form(tmp_path / "tree", form)
    with pytest.raises(ExternalError, match=r"cat/2\.png: not a readable image \(.*skip_broken") as caught:
        read_source(data(path))
    assert len(str(caught.value).splitlines()) == 1
    source = read_source(data(path, skip_broken=True))
    assert list(source.broken) == ["cat/2.png"] and source.broken["cat/2.png"]
    assert_equal(source.train.images, stacked(images, "cat/1.png", "dog/1.png", "dog/2.png"))
    assert source.train.labels.tolist() == [0, 1, 1] and len(source.images) == 3
    file.with_name("1.png").write_bytes(b"")
    with pytest.raises(UserError, match="no image of class cat"):
        read_source(data(in_form(tmp_path / "tree", form), skip_broken=True))


def test_postscript_is_not_an_image(tmp_path):
    """PIL passes PostScript to Ghostscript, for any file name."""
    write_tree(tmp_path, ["cat/1.png", "dog/1.png", "dog/2.png"])
    (tmp_path / "dog/2.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ExternalError, match=r"dog/2\.png: not a readable image \(its content is no image\)"):
        read_source(data(tmp_path))


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("folder", ["emu", "train/emu", "test/emu"])
def test_a_class_folder_without_images_is_refused(tmp_path, form, folder):
    tree = tmp_path / "tree"
    splits = ("train/", "test/") if "/" in folder else ("",)
    write_tree(tree, [f"{split}{label}/1.png" for split in splits for label in ("cat", "dog")])
    (tree / folder).mkdir()
    (tree / folder / "notes.txt").write_text("nothing yet")
    (tree / ".git/hooks").mkdir(parents=True)
    with pytest.raises(UserError, match=f"no image of class emu{f' in {folder[:-4]}/' if '/' in folder else ''}: "):
        read_source(data(in_form(tree, form)))


def test_split_folders_may_be_upper_case_and_validation_folders_are_ignored(tmp_path):
    images = write_tree(tmp_path, ["Train/cat/1.png", "Train/dog/1.png", "val/cat/1.png", "val/dog/1.png"])
    source = read_source(data(tmp_path))
    assert source.classes == ["cat", "dog"] and source.test is None
    assert_equal(source.train.images, stacked(images, "Train/cat/1.png", "Train/dog/1.png"))


def test_links_in_a_folder_are_followed_but_not_in_circles(tmp_path):
    write_tree(tmp_path / "far", ["dog/1.png"])
    write_tree(tmp_path / "tree", ["cat/1.png"])
    (tmp_path / "tree/dog").symlink_to(tmp_path / "far/dog")
    assert read_source(data(tmp_path / "tree")).classes == ["cat", "dog"]
    (tmp_path / "tree/cat/again").symlink_to(tmp_path / "tree")
    with pytest.raises(UserError, match="cat/again: a link back"):
        read_source(data(tmp_path / "tree"))
    (tmp_path / "tree/cat/again").unlink()
    (tmp_path / "tree/cat/dogs").symlink_to(tmp_path / "far/dog")
    (tmp_path / "far/dog/cats").symlink_to(tmp_path / "tree/cat")
    with pytest.raises(UserError, match=r"cat/dogs/cats: a link back"):
        read_source(data(tmp_path / "tree"))


def test_a_broken_link_is_named_or_left_out(tmp_path):
    images = write_tree(tmp_path / "tree", ["cat/1.png", "dog/1.png"])
    (tmp_path / "tree/cat/2.png").symlink_to("/gone/2.png")
    (tmp_path / "tree/cat/notes").symlink_to("/gone/notes")
    (tmp_path / "tree/dog/2.png").symlink_to("2.png")  # to itself
    with pytest.raises(ExternalError, match=r"cat/2\.png: .*a link to /gone/2\.png, which does not exist.*skip_broken"):
        read_source(data(tmp_path / "tree"))
    source = read_source(data(tmp_path / "tree", skip_broken=True))
    assert list(source.broken) == ["cat/2.png", "dog/2.png"] and "/gone/2.png" in source.broken["cat/2.png"]
    assert_equal(source.train.images, stacked(images, "cat/1.png", "dog/1.png"))


@pytest.mark.parametrize("skip_broken", [False, True])
@pytest.mark.parametrize("link", ["eel", "train/eel", "train", "test", "set/eel"])
def test_a_broken_link_in_the_place_of_a_class_or_a_split_is_named(tmp_path, link, skip_broken):
    """Its class would be missing; without the folder test, prepare would split off its own."""
    splits = {"train/eel": ("train/", "test/"), "train": ("test/",), "test": ("train/",), "set/eel": ("set/",)}
    write_tree(tmp_path, [f"{split}{name}" for split in splits.get(link, ("",)) for name in ("cat/1.png", "dog/1.png")])
    (tmp_path / link).symlink_to("/gone")
    (tmp_path / ".hidden").symlink_to("/gone")
    with pytest.raises(ExternalError, match=f": {link}: a link to /gone, which does not exist"):
        read_source(data(tmp_path, skip_broken=skip_broken))


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
@pytest.mark.parametrize("change", ["rewritten", "removed"])
def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, form, change, monkeypatch):
    write_tree(tmp_path / "tree", ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"])
    path = in_form(tmp_path / "tree", form)
    file = path / "cat/1.png" if form == "folder" else path
    decode = decoder.decode

    def changing(*arguments, **options):
        file.unlink() if change == "removed" else file.write_bytes(file.read_bytes() + bytes(512))
        monkeypatch.setattr(decoder, "decode", decode)
        return decode(*arguments, **options)

    monkeypatch.setattr(decoder, "decode", changing)
    with pytest.raises(ExternalError, match="changed while it was read") as caught:
        read_source(data(path))
    assert str(caught.value).startswith(f"{path}: {'cat/1.png: ' if form == 'folder' else ''}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "0 images in 0 classes"),
        (["cat/1.png", "cat/2.png"], "2 images in 1 class;"),
        (["1.png", "2.png"], "0 images in 0 classes"),
        (["train/cat/1.png", "train/dog/1.png", "test/cat/1.png"], "no image of class dog in test/"),
        (["train/cat/1.png", "test/cat/1.png", "test/dog/1.png"], "no image of class dog in train/"),
        (["test/cat/1.png", "test/dog/1.png"], "test/ alone"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path, names, message):
    write_tree(tmp_path, names)
    with pytest.raises(UserError) as caught:
        read_source(data(tmp_path))
    assert str(caught.value).startswith(f"data.source: {str(tmp_path)!r} ") and message in str(caught.value)


def test_a_path_that_is_no_source_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no archive")
    cases = ((tmp_path / "notes.txt", "neither a folder nor a zip"), (tmp_path / "nothing", "no such file"))
    for path, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            read_source(data(path))
        assert str(caught.value).startswith(f"data.source: {str(path)!r} given")


def test_an_empty_folder_in_a_temporary_work_tree_falls_back_to_the_home(tmp_path, monkeypatch):
    home, clone = tmp_path / "home", tmp_path / "clone"
    for folder in (home, clone):
        (folder / "data/raw").mkdir(parents=True)
        (folder / "data/raw/README.md").write_text("Data lies here.")
    monkeypatch.setenv("DVC_ROOT", str(home))
    monkeypatch.chdir(clone)
    assert locate("data/raw").resolve() == home / "data/raw"
    (clone / "data/raw/cat").mkdir()
    assert locate("data/raw").resolve() == clone / "data/raw"
    (clone / "data/raw/cat").rmdir()
    (clone / "data/raw/train_32x32.mat").touch()  # SVHN has no subfolder
    assert locate("data/raw").resolve() == clone / "data/raw"


def write_idx(path: Path, array: np.ndarray, zipped: bool = False) -> None:
    """Write the IDX format of MNIST: a magic number with type (8: bytes) and rank, the shape, the bytes; big-endian."""
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_torchvisions_mnist(name, tmp_path):
    raw = tmp_path / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name] / "raw"
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("t10k", 10)):
        write_idx(raw / f"{split}-images-idx3-ubyte", generator.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(count) % 10)
    source = read_source(data(tmp_path, name, size=28, channels=1))
    generator = np.random.default_rng(0)
    assert (
        source.test is not None
        and source.classes[:3]
        == {
            "mnist": ["0", "1", "2"],
            "fashion_mnist": ["T-shirt/top", "Trouser", "Pullover"],
        }[name]
    )
    assert len(source.classes) == 10
    for split, count in ((source.train, 20), (source.test, 10)):
        expected = generator.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        assert np.array_equal(split.images.numpy(), expected[:, None])
        assert split.labels.tolist() == [i % 10 for i in range(count)]

    file = raw / "train-images-idx3-ubyte"
    for left in (file.read_bytes()[:1000], b""):  # unpacking was killed
        file.write_bytes(left)
        with pytest.raises(ExternalError, match=f"{name} in .* is truncated or damaged .*delete its folder"):
            read_source(data(tmp_path, name, size=28, channels=1))


def write_svhn(folder: Path, split: str, count: int) -> tuple[np.ndarray, str]:
    """Write a Matlab file like Stanford's: images (32, 32, 3, N), digits 1 to 10. Returns the images and its MD5."""
    images = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
    path = folder / f"{split}_32x32.mat"
    savemat(path, {"X": images, "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]})
    return images, hashlib.md5(path.read_bytes()).hexdigest()


def test_torchvisions_svhn(tmp_path, monkeypatch):
    for split, count in (("train", 20), ("test", 10)):
        _, md5 = write_svhn(tmp_path, split, count)
        monkeypatch.setitem(SVHN.split_list, split, ["http://127.0.0.1:9/", f"{split}_32x32.mat", md5])
    source = read_source(data(tmp_path, "svhn", size=32))
    assert source.classes == list("0123456789") and source.test is not None
    for split, count in ((source.train, 20), (source.test, 10)):
        images = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        assert np.array_equal(split.images.numpy(), images.transpose(3, 2, 0, 1))
        assert split.labels.tolist() == [(i + 1) % 10 for i in range(count)]


@pytest.fixture
def served(tmp_path, monkeypatch) -> Iterator[dict[str, bytes]]:
    """Serve SVHN's two files locally. A test may change them; torchvision knows the checksums of the originals."""
    (tmp_path / "originals").mkdir()
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = files.get(self.path[1:])
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(sizes[self.path[1:]]))
            self.end_headers()
            self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    for split, count in (("train", 20), ("test", 10)):
        name = f"{split}_32x32.mat"
        _, md5 = write_svhn(tmp_path / "originals", split, count)
        files[name] = (tmp_path / "originals" / name).read_bytes()
        monkeypatch.setitem(SVHN.split_list, split, [f"http://127.0.0.1:{server.server_port}/{name}", name, md5])
    sizes = {name: len(content) for name, content in files.items()}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield files
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("fault", ["breaks off", "wrong checksum", "not found"])
def test_a_download_that_fails_leaves_nothing_broken_and_can_be_repeated(tmp_path, served, fault):
    root, name = tmp_path / "root", "test_32x32.mat"
    root.mkdir()
    whole = served[name]
    served[name] = {"breaks off": whole[: len(whole) // 2], "wrong checksum": whole[:-1] + b"?"}.get(fault, b"")
    if fault == "not found":
        del served[name]
    with pytest.raises(ExternalError, match=r"svhn is not in .* and could not be downloaded") as caught:
        read_source(data(root, "svhn", size=32))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert ("404" in message) if fault == "not found" else (f"{name} was incomplete or had a wrong checksum" in message)
    assert [path.name for path in root.iterdir()] == ["train_32x32.mat"]
    served[name] = whole
    source = read_source(data(root, "svhn", size=32))
    assert source.test is not None and len(source.test.labels) == 10


def test_the_second_of_two_downloads_waits(tmp_path, served, monkeypatch):
    calls, download = [], torchvision_datasets.download

    def slow(data, root):
        calls.append(root)
        time.sleep(0.5)
        download(data, root)

    monkeypatch.setattr(torchvision_datasets, "download", slow)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with ThreadPoolExecutor(2) as pool:
        sources = list(pool.map(lambda _: read_source(data(tmp_path, "svhn", size=32)), range(2)))
    assert len(calls) == 1 and all(len(source.train.labels) == 20 for source in sources)


def test_torchvisions_cifar10(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # the MD5 of the real files
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = ["airplane", "automobile", *"cdefghij"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 3, 32, 32), dtype=np.uint8)
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        batch = {"data": images[i].reshape(4, -1), "labels": [i, 1, 2, 9]}
        (folder / name).write_bytes(pickle.dumps(batch))
    source = read_source(data(tmp_path, "cifar10", size=32))
    assert source.classes == names and source.test is not None
    assert np.array_equal(source.train.images.numpy(), images[:5].reshape(20, 3, 32, 32))
    assert np.array_equal(source.test.images.numpy(), images[5])
    assert source.train.labels.tolist() == [label for i in range(5) for label in (i, 1, 2, 9)]
    assert source.test.labels.tolist() == [5, 1, 2, 9]


@pytest.mark.parametrize("dataset", torchvision_datasets.NAMES)
def test_without_a_network_the_message_says_what_to_do(dataset, tmp_path, monkeypatch):
    def unreachable(*_args, **_options):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", unreachable)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    with pytest.raises(ExternalError, match="make repro SOURCE=path") as caught:
        read_source(data(tmp_path, dataset))
    assert dataset in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_torchvision_data_set_may_be_in_class_folders(tmp_path):
    images = write_tree(tmp_path, ["cat/1.png", "dog/1.png"])
    assert_equal(read_source(data(tmp_path, "cifar10")).train.images, stacked(images, "cat/1.png", "dog/1.png"))


def test_digits_need_no_download():
    source = read_source(data("data/raw", "digits", size=8, channels=1))
    bunch: Any = load_digits()
    assert source.train.images.shape == (1797, 1, 8, 8) and source.test is None
    assert source.classes == list("0123456789") and np.array_equal(source.train.labels.numpy(), bunch.target)
    # scikit-learn's pixels are 0 to 16.
    assert np.abs(source.train.images[:, 0].numpy() - bunch.images * (255 / 16)).max() < 1
    assert (source.train.images.min(), source.train.images.max()) == (0, 255)
