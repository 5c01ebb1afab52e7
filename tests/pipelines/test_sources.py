"""Reading sources: every layout and form gives the same tensors, every kind of image its pixels, every fault a name."""

import gzip
import io
import pickle
import shutil
import struct
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pipelines.errors import UserError, WorldError
from pipelines.params import DataParams, DistortionParams
from pipelines.sources import locate, read_source

SIZE = 9
FORMS = ["folder", "nested", "zip", "nested.zip", "tar", "tar.gz", "nested.tar.gz"]


def data(source, dataset="mine", size=SIZE, channels: Literal[1, 3] = 3) -> DataParams:
    still = DistortionParams(rotation=0, scale=[1.0, 1.0], shift=0, padding_mode="zeros")
    return DataParams(dataset=dataset, source=str(source), size=size, channels=channels, distortion=still)


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def write_tree(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    """An image of its own in each of ``names``, as lossless PNG whatever the ending's case."""
    images = dict(zip(names, random_images(len(names)), strict=True))
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, format="PNG")
    return images


def in_form(folder: Path, form: str) -> Path:
    """The same files as a folder or an archive, ``nested`` with two folders around all of them."""
    if form.startswith("nested"):
        outer = folder.with_name("nested")
        shutil.copytree(folder, outer / "set" / "images")
        folder, form = outer, form.removeprefix("nested").removeprefix(".")
    if form in ("", "folder"):
        return folder
    kind = {"zip": "zip", "tar": "tar", "tar.gz": "gztar"}[form]
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


def test_an_archives_own_order_does_not_matter(tmp_path):
    """zip and tar keep files in the order in which they were added, which is the file system's and not a name's."""
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


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
def test_what_is_no_image_of_a_class_is_left_out(tmp_path, form):
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
    """Whether it is ignored or refused: a network that tells train from test is never what was wanted."""
    write_tree(tmp_path, ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png", stray])
    classes = None
    with suppress(UserError):
        classes = read_source(data(tmp_path)).classes
    assert classes in (None, ["cat", "dog"])


def read_one(tmp_path: Path, image: Image.Image, size: int, channels: Literal[1, 3], ending: str = "png", **options):
    """What becomes of an image on its way through a file: (C, size, size) as int."""
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


@pytest.mark.parametrize("top", [65535, 3000, 255])
def test_16_bits_are_scaled_to_8_whatever_the_image_shows(tmp_path, top):
    """A dark image among 16-bit ones stays dark: the scale belongs to the format and not to the brightest pixel."""
    deep = np.random.default_rng(0).integers(0, top, (SIZE, SIZE), endpoint=True).astype(np.uint16)
    deep[0, 0] = top
    np.testing.assert_allclose(read_one(tmp_path, Image.fromarray(deep), SIZE, 1)[0], deep / 257, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_by_its_exif_tag(tmp_path, orientation):
    upright = random_images(1)[0]
    # How a camera stores it, from the EXIF standard's table of where row 0 and column 0 of the file lie in the scene.
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
    # PIL's filter widens when it shrinks: a checkerboard turns gray, where one without antialiasing keeps extremes.
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
            read_source(data(tree))  # a format may do without its last bytes
        except WorldError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(f"{tree}: dog/2.{ending}: " in said for said in refused)


def test_an_image_that_claims_to_be_huge_is_named(tmp_path):
    write_tree(tmp_path, ["cat/1.png", "dog/1.png"])
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "dog/2.bmp")
    content = bytearray((tmp_path / "dog/2.bmp").read_bytes())
    content[18:26] = struct.pack("<2i", 2**20, 2**20)  # width and height
    (tmp_path / "dog/2.bmp").write_bytes(content)
    with pytest.raises(WorldError, match=r"dog/2\.bmp"):
        read_source(data(tmp_path))


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_a_truncated_archive_is_named(tmp_path, form):
    write_tree(tmp_path / "tree", [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(5)])
    path = in_form(tmp_path / "tree", form)
    whole = path.read_bytes()
    cuts = [int(len(whole) * share) for share in (0.1, 0.3, 0.5, 0.7, 0.95)]
    if form == "tar":  # which has no checksum: cut between two files it is a shorter archive
        with tarfile.open(path) as archive:
            cuts = [member.offset_data + member.size // 2 for member in archive if member.isfile()]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises((UserError, WorldError)) as caught:
            read_source(data(path))
        assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "0 images in 0 classes"),
        (["cat/1.png", "cat/2.png"], "2 images in 1 classes"),
        (["1.png", "2.png"], "0 images in 0 classes"),
        (["train/cat/1.png", "train/dog/1.png", "test/cat/1.png"], "no image of class dog in test/"),
        (["train/cat/1.png", "test/cat/1.png", "test/dog/1.png"], "no image of class dog in train/"),
        (["test/cat/1.png", "test/dog/1.png"], "test/ alone"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path, names, said):
    write_tree(tmp_path, names)
    with pytest.raises(UserError) as caught:
        read_source(data(tmp_path))
    assert str(caught.value).startswith(f"data.source: {str(tmp_path)!r} ") and said in str(caught.value)


def test_what_is_no_source_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no archive")
    for path, said in ((tmp_path / "notes.txt", "neither a folder nor a zip"), (tmp_path / "nothing", "no such file")):
        with pytest.raises(UserError, match=said) as caught:
            read_source(data(path))
        assert str(caught.value).startswith(f"data.source: {str(path)!r} given")


def test_an_empty_folder_of_a_temporary_work_tree_gives_way_to_the_homes(tmp_path, monkeypatch):
    home, clone = tmp_path / "home", tmp_path / "clone"
    for folder in (home, clone):
        (folder / "data/raw").mkdir(parents=True)
        (folder / "data/raw/README.md").write_text("Data lies here.")
    monkeypatch.setenv("DVC_ROOT", str(home))
    monkeypatch.chdir(clone)
    assert locate("data/raw").resolve() == home / "data/raw"
    (clone / "data/raw/cat").mkdir()
    assert locate("data/raw").resolve() == clone / "data/raw"


def write_idx(path: Path, array: np.ndarray, zipped: bool = False) -> None:
    """Yann LeCun's format: magic number with type (8: bytes) and rank, each side length, the bytes; big-endian."""
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if zipped else content)


def test_torchvisions_mnist(tmp_path):
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("t10k", 10)):
        raw = tmp_path / "MNIST/raw"
        write_idx(raw / f"{split}-images-idx3-ubyte", generator.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(count) % 10)
    source = read_source(data(tmp_path, "mnist", size=28, channels=1))
    generator = np.random.default_rng(0)
    assert source.test is not None and source.classes == list("0123456789")
    for split, count in ((source.train, 20), (source.test, 10)):
        expected = generator.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        assert np.array_equal(split.images.numpy(), expected[:, None])
        assert split.labels.tolist() == [i % 10 for i in range(count)]


def test_torchvisions_cifar10(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # of the real files' MD5
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


@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
def test_without_a_network_the_message_says_what_to_do(dataset, tmp_path, monkeypatch):
    def unreachable(*_args, **_options):
        raise URLError("Name or service not known")

    monkeypatch.setattr(f"torchvision.datasets.{dataset.rstrip('10')}.download_and_extract_archive", unreachable)
    with pytest.raises(WorldError, match="make repro SOURCE=path") as caught:
        read_source(data(tmp_path, dataset))
    assert dataset in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_known_name_may_lie_in_class_folders(tmp_path):
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
