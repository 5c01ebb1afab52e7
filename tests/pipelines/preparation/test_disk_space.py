"""The disk is checked for the prepared data and for DVC's copy of them before any image is decoded."""

from pathlib import Path

import pytest

from pipelines.preparation import disk_space
from pipelines.preparation.disk_space import Cache, check_disk, needed_for, read_cache
from pipelines.preparation.listing import Split
from pipelines.runtime.errors import ExternalError
from tests.pipelines.preparation.test_run import data, split_settings

COUNT, IMAGE = 1000, 8 * 8
SPLITS: list[Split] = ["train"] * COUNT
PIXELS = COUNT * IMAGE
FOLDER = Path("prepared")


def check(monkeypatch, free: int, cache: Cache, *, cache_free: int | None = None, **distortion) -> None:
    """Check with this number of free bytes. ``cache_free``: on the cache's disk, which is another one then."""
    monkeypatch.setattr(disk_space, "read_cache", lambda: cache)
    monkeypatch.setattr(disk_space, "same_disk", lambda *_: cache_free is None)
    monkeypatch.setattr(disk_space, "free_at", lambda folder: free if folder == FOLDER else cache_free)
    check_disk(data(**distortion), split_settings(validation=0.25), SPLITS, FOLDER)


def test_validation_images_are_stored_twice_if_they_are_distorted_and_all_on_the_canvas():
    assert needed_for(data(), split_settings(), SPLITS) == (PIXELS, PIXELS)
    assert needed_for(data(rotation=9.0), split_settings(validation=0.25), SPLITS) == (PIXELS, PIXELS * 5 // 4)
    validation: list[Split] = ["validation"] * 400
    own = SPLITS[:600] + validation
    assert needed_for(data(rotation=9.0), split_settings(validation=0.25), own) == (PIXELS, PIXELS * 7 // 5)
    pixels, files = needed_for(data(protocol="TC"), split_settings(validation=0.25), SPLITS)
    assert (pixels, files) == (PIXELS, COUNT * 5 // 4 * round(8 * 60 / 28) ** 2)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("rotation", [0.0, 9.0])
def test_a_cache_on_the_same_disk_needs_room_only_for_copies(monkeypatch, links, rotation):
    files = PIXELS * 5 // 4 if rotation else PIXELS
    most = files + (PIXELS if links else files)
    cache = Cache(Path("cache"), links)
    check(monkeypatch, most, cache, rotation=rotation)
    with pytest.raises(ExternalError, match=r"1,000 images of 1 × 8 × 8 need .* GiB are free.*data\.size") as caught:
        check(monkeypatch, most - 1, cache, rotation=rotation)
    assert ("cache.type" in str(caught.value)) == (not links)


@pytest.mark.parametrize("links", [True, False])
def test_a_cache_on_another_disk_holds_the_files(monkeypatch, links):
    cache = Cache(Path("cache"), links)
    check(monkeypatch, 2 * PIXELS, cache, cache_free=PIXELS)
    with pytest.raises(ExternalError):
        check(monkeypatch, 2 * PIXELS - 1, cache, cache_free=10 * PIXELS)
    with pytest.raises(ExternalError):
        check(monkeypatch, 2 * PIXELS, cache, cache_free=PIXELS - 1)


def test_with_much_room_the_settings_of_dvc_are_not_read(monkeypatch):
    monkeypatch.setattr(disk_space, "free_at", lambda _: 31 * PIXELS)
    monkeypatch.setattr(disk_space, "read_cache", lambda: pytest.fail("read"))
    check_disk(data(), split_settings(), SPLITS, FOLDER)


@pytest.mark.parametrize(
    ("lines", "links", "place"),
    [
        ("", False, ".dvc/cache"),
        ("[cache]\n    type = hardlink,symlink\n", True, ".dvc/cache"),
        ('[cache]\n    type = "reflink,hardlink"\n', True, ".dvc/cache"),
        ("[cache]\n    type = copy\n    dir = /far/cache\n", False, "/far/cache"),
        ("[cache]\n    type = reflink,copy,symlink\n    dir = ../cache\n", False, ".dvc/../cache"),
        ("[cache]\n    type = symlink\n", True, ".dvc/cache"),
    ],
)
def test_the_cache_is_that_of_dvcs_settings(tmp_path, monkeypatch, lines, links, place):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(lines)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    cache = read_cache()
    assert cache.links == links and cache.folder.resolve() == (tmp_path / place).resolve()
