"""Scoring of folders, parquet files and buckets: every image once, also after a kill."""

import contextlib
import errno
import io
import os
import signal
import sys
import time
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.commands import score as command
from pipelines.runtime.errors import UserError
from pipelines.serving import scoring
from pipelines.serving.loaded_version import Identity, LoadedVersion, load_version
from pipelines.serving.score_results import SCHEMA, Job, Results, unpack
from pipelines.serving.score_sources import check_apart, list_source, read_item
from pipelines.serving.scorer import Scorer

NAME, CLASSES = "stn-mine", ["cat", "dog", "eel", "fox"]
JOB = Job("photos", NAME, "1", "d", CLASSES)


def image_file(index: int) -> bytes:
    """An image of class ``index % 4``, for indices that version 1 classifies correctly."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), index, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(folder: Path, count: int) -> None:
    for i in range(count):
        file = folder / f"{i % 3}" / f"{i:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image_file(i % 150))


def scores(out: Path) -> dict[str, dict]:
    """path → row; a path that is there twice is an error."""
    rows = pq.read_table(out / "scores").to_pylist()
    assert len({row["path"] for row in rows}) == len(rows), "an image was scored twice"
    return {row["path"]: row for row in rows}


def broken(out: Path) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in pq.read_table(out / "broken").to_pylist()}


@pytest.fixture
def scorer(store, monkeypatch) -> Scorer:
    """An actor of version 1, in this process."""
    version = load_version(store.client, NAME, "1")
    monkeypatch.setattr(scoring.ray, "get", lambda files: files)
    monkeypatch.setattr("pipelines.serving.scorer.load_fetched", lambda path, identity: version)
    return Scorer({}, Identity(NAME, "1", "digest", "d1"), 1)


@pytest.fixture
def without_ray(scorer, monkeypatch) -> list[str]:
    """Scores in this process instead of on Ray; returns the list of scored items."""
    scored: list[str] = []

    def stream(items, files, identity, actors):
        for start in range(0, len(items), 4):
            scored.extend(items[start : start + 4])
            yield scorer.score(items[start : start + 4])

    monkeypatch.setattr(scoring, "_stream", stream)
    monkeypatch.setattr(scoring, "connected", contextlib.nullcontext)
    return scored


@pytest.mark.slow
def test_broken_files_are_listed_apart(without_ray, tmp_path):
    write_images(tmp_path / "photos", 9)
    (tmp_path / "photos/bad.png").write_bytes(b"no image")
    (tmp_path / "photos/gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "photos/notes.txt").write_text("notes")
    result = scoring.score(NAME, "1", str(tmp_path / "photos"), str(tmp_path / "out"))
    assert (result.scored, result.broken) == (9, len(broken(tmp_path / "out")))
    found = scores(tmp_path / "out")
    for i in range(9):
        row = found[str(tmp_path / f"photos/{i % 3}/{i:04}.png")]
        assert row["class"] == CLASSES[i % 4] and row["version"] == "1" and row["digest"] == "digest"
        assert np.argmax(row["probabilities"]) == i % 4
        np.testing.assert_allclose(row["theta"], [[0, 1, 0], [-1, 0, 0]])
    assert broken(tmp_path / "out")[str(tmp_path / "photos/bad.png")] == "its content is no image"


@pytest.mark.slow
def test_a_batch_is_read_in_parts(scorer, tmp_path, monkeypatch):
    """A batch of Ray may have more files than an actor should hold at once."""
    write_images(tmp_path / "photos", 10)
    monkeypatch.setattr("pipelines.serving.scorer.BATCH", 4)
    read, held = [], []

    def count(item):
        read.append(item)
        return read_item(item)

    monkeypatch.setattr("pipelines.serving.scorer.read_item", count)
    score = scorer._score
    monkeypatch.setattr(scorer, "_score", lambda contents: (held.append(len(read)), score(contents))[1])
    table = scorer.score(sorted(map(str, (tmp_path / "photos").rglob("*.png"))))
    assert held == [4, 8, 10] and table.num_rows == 10


@pytest.mark.slow
def test_images_in_parquet_files(without_ray, tmp_path):
    (tmp_path / "tables").mkdir()
    contents: list = [image_file(i) for i in range(10)]
    contents[7] = None
    pq.write_table(pa.table({"image": contents}), tmp_path / "tables/a.parquet", row_group_size=4)
    records = [{"bytes": image_file(i), "path": f"{i}.png"} for i in range(3)]
    pq.write_table(pa.table({"image": records, "label": [0, 1, 2]}), tmp_path / "tables/b.parquet")
    result = scoring.score(NAME, "1", str(tmp_path / "tables"), str(tmp_path / "out"))
    assert (result.scored, result.broken) == (12, 1)
    found = scores(tmp_path / "out")
    for name, count in (("a", 10), ("b", 3)):
        for row in range(count):
            if (name, row) != ("a", 7):
                assert found[f"{tmp_path}/tables/{name}.parquet#{row}"]["class"] == CLASSES[row % 4]
    assert broken(tmp_path / "out") == {f"{tmp_path}/tables/a.parquet#7": "no bytes in the row"}


@pytest.mark.slow
def test_a_finished_job_scores_nothing_and_new_files_are_added(without_ray, tmp_path):
    write_images(tmp_path / "photos", 6)
    scoring.score(NAME, "1", str(tmp_path / "photos"), str(tmp_path / "out"))
    assert len(without_ray) == 6
    assert scoring.score(NAME, "1", str(tmp_path / "photos"), str(tmp_path / "out")).now == 0
    assert len(without_ray) == 6
    write_images(tmp_path / "photos", 8)
    result = scoring.score(NAME, "1", str(tmp_path / "photos"), str(tmp_path / "out"))
    assert (result.scored, result.now, len(without_ray)) == (8, 2, 8)


def test_results_of_another_job_are_refused(without_ray, tmp_path):
    write_images(tmp_path / "photos", 2)
    scoring.score(NAME, "1", str(tmp_path / "photos"), str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"OUT: .* it has results of version 1, not 2; name another"):
        scoring.score(NAME, "2", str(tmp_path / "photos"), str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"OUT: .* it has results of source"):
        scoring.score(NAME, "1", str(tmp_path / "photos/0"), str(tmp_path / "out"))
    write_images(tmp_path / "others", 2)
    with pytest.raises(UserError, match=r"OUT: .* not empty and has no job\.json"):
        scoring.score(NAME, "1", str(tmp_path / "photos"), str(tmp_path / "others"))
    (tmp_path / "out/job.json").write_text("{")
    with pytest.raises(UserError, match=r"OUT: .* its job\.json is damaged; name another folder"):
        scoring.score(NAME, "1", str(tmp_path / "photos"), str(tmp_path / "out"))


def test_a_relative_source_is_the_folder_that_it_names(without_ray, tmp_path, monkeypatch):
    for project in ("a", "b"):
        write_images(tmp_path / project / "photos", 2)
        monkeypatch.chdir(tmp_path / project)
        if project == "a":
            scoring.score(NAME, "1", "photos", str(tmp_path / "out"))
            assert scoring.score(NAME, "1", str(tmp_path / "a/photos"), str(tmp_path / "out")).now == 0
    with pytest.raises(UserError, match=r"OUT: .* it has results of source .*a/photos, not .*b/photos"):
        scoring.score(NAME, "1", "photos", str(tmp_path / "out"))


@pytest.mark.parametrize("out", ["photos", "photos/out", "photos/../photos/out/", "link/out", "other/../photos/0/out"])
def test_results_in_the_source_are_refused(without_ray, tmp_path, out):
    """They would be listed as images the next time."""
    write_images(tmp_path / "photos", 2)
    (tmp_path / "link").symlink_to("photos")
    for source in ("photos", "link"):
        with pytest.raises(UserError, match=r"OUT: .* given; it lies in SOURCE .*; name a folder outside of it"):
            scoring.score(NAME, "1", str(tmp_path / source), f"{tmp_path}/{out}")
    assert not any(tmp_path.rglob("job.json")) and not without_ray
    check_apart(str(tmp_path / "photos"), str(tmp_path / "photos-scores"))


def test_results_in_a_prefix_of_the_source_are_refused():
    for out in ("s3://bucket/photos", "s3://bucket/photos/", "s3://bucket/photos/out", "s3a://bucket/photos/out"):
        with pytest.raises(UserError, match=r"OUT: .* it lies in SOURCE 's3://bucket/photos/?'"):
            check_apart("s3://bucket/photos", out)
    for out in ("s3://bucket/photos-scores", "s3://other/photos/out", "/bucket/photos/out"):
        check_apart("s3://bucket/photos", out)


def test_an_unknown_model_and_a_folder_that_cannot_be_written_are_refused(without_ray, tmp_path, monkeypatch):
    source, file = str(tmp_path / "photos"), tmp_path / "file"
    write_images(tmp_path / "photos", 2)
    file.write_text("")
    with pytest.raises(UserError, match=r"MODEL: 'stn-none' given; the registry has no such model"):
        scoring.score("stn-none", "1", source, str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"OUT: .* given; it cannot be used \(Not a directory\)"):
        scoring.score(NAME, "1", source, str(file / "out"))
    with pytest.raises(UserError, match=r"OUT: 'gopher://x' given; Protocol not known: gopher"):
        scoring.score(NAME, "1", source, "gopher://x")
    for number, reason in ((errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only file system")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", fails_with(OSError(number, reason)))
            with pytest.raises(UserError, match=rf"OUT: .* given; it cannot be used \({reason}\)"):
                scoring.score(NAME, "1", source, str(tmp_path / "out"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fails_with(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):  # the disk's fault
            scoring.score(NAME, "1", source, str(tmp_path / "out"))
    assert not without_ray


def fails_with(error: Exception):
    def fail(*_, **__):
        raise error

    return fail


def rows(*items: str, reason: str | None = None) -> pa.Table:
    return pa.Table.from_pylist([{"item": item, "path": item, "reason": reason} for item in items], SCHEMA)


def test_a_part_without_its_scores_does_not_count(tmp_path, monkeypatch):
    """A kill between the two files of a part: its items are scored again, and none is lost or there twice."""
    results = Results(str(tmp_path / "out"), JOB)
    results.add([rows("a"), rows("b", reason="bad")])
    write = Results._write

    def write_until_scores(self, name, content):
        if name.startswith("scores"):
            raise KeyboardInterrupt
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Results, "_write", write_until_scores)
        with pytest.raises(KeyboardInterrupt):
            results.add([rows("c#0"), rows("c#0", reason="bad")])
    again = Results(str(tmp_path / "out"), JOB)
    assert again.finished() == ({"a", "b"}, {"scores": 1, "broken": 1})
    again.add([rows("c#0"), rows("c#0", reason="bad")])
    assert Results(str(tmp_path / "out"), JOB).finished() == ({"a", "b", "c#0"}, {"scores": 2, "broken": 2})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "there is no such file or folder"),
        (["a.txt"], "1 files, but none with the ending of an image"),
        (["a.png", "b.parquet"], "it has image files and parquet files"),
    ],
)
def test_a_source_that_cannot_be_scored_says_why(tmp_path, files, message):
    for file in files:
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / file).write_bytes(b"x")
    with pytest.raises(UserError, match=f"SOURCE: .* given; {message}"):
        list_source(str(tmp_path / "photos"))


def test_what_cannot_be_read_is_refused(tmp_path, monkeypatch):
    write_images(tmp_path / "photos", 3)
    scandir = os.scandir

    def scan(path):
        if path.endswith("/1"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scan)
        with pytest.raises(UserError, match=r"SOURCE: .*photos' given; it cannot be read \(Permission denied\)"):
            list_source(str(tmp_path / "photos"))
    with pytest.raises(UserError, match=r"SOURCE: 'gopher://x' given; Protocol not known: gopher"):
        list_source("gopher://x")
    for content in (b"", b"x" * 100, b"PAR1" + bytes(100) + b"PAR1"):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(UserError, match=r"SOURCE: .*a\.parquet"):
            list_source(str(tmp_path / "a.parquet"))


def test_images_of_a_damaged_row_group_are_listed_as_broken(without_ray, tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [image_file(i) for i in range(8)]}), file, row_group_size=4, compression="zstd")
    column = pq.read_metadata(file).row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(content)
    result = scoring.score(NAME, "1", str(file), str(tmp_path / "out"))
    assert (result.scored, result.broken) == (4, 4)
    assert broken(tmp_path / "out").keys() == {f"{file}#{row}" for row in range(4, 8)}
    assert all("its row group is damaged" in reason for reason in broken(tmp_path / "out").values())
    assert scoring.score(NAME, "1", str(file), str(tmp_path / "out")).now == 0


def test_a_batch_is_one_row_for_ray(scorer, tmp_path):
    write_images(tmp_path / "photos", 5)
    items = [f"{tmp_path}/photos/{i % 3}/{i:04}.png" for i in range(5)]
    packed = scorer({"item": np.array(items)})
    assert packed.num_rows == 1
    (table,) = unpack(packed)
    assert table.schema == SCHEMA and table.column("item").to_pylist() == items


def test_a_parquet_file_without_images_is_refused(tmp_path):
    pq.write_table(pa.table({"label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"SOURCE: .*a\.parquet: it has the columns label; expected one of image"):
        list_source(str(tmp_path))


@pytest.mark.slow
def test_a_bucket_is_read_and_written(s3, without_ray, tmp_path, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    for i in range(5):
        client.put_object(Bucket="bucket", Key=f"in/{i}.png", Body=image_file(i))
    result = scoring.score(NAME, "1", "s3://bucket/in", "s3://bucket/out")
    assert (result.scored, result.broken) == (5, 0)
    assert scoring.score(NAME, "1", "s3://bucket/in", "s3://bucket/out").now == 0
    body = client.get_object(Bucket="bucket", Key="out/scores/part-000000.parquet")["Body"].read()
    found = {row["path"]: row["class"] for row in pq.read_table(io.BytesIO(body)).to_pylist()}
    assert found == {f"s3://bucket/in/{i}.png": CLASSES[i % 4] for i in range(5)}


def test_no_model_is_run_on_files_that_cannot_be_read(scorer, monkeypatch):
    monkeypatch.setattr(LoadedVersion, "predict", lambda *_: pytest.fail("it ran"))
    table = scorer.score(["/nowhere/a.png"])
    assert table.column("reason").to_pylist() == ["No such file or directory"]
    assert [content.path for content in read_item("/nowhere/a.png")] == ["/nowhere/a.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "SOURCE: none given"),
        (("--source=photos",), "OUT: none given"),
        (("--source=photos", "--out=x", "--actors=0"), "ACTORS: 0 given"),
    ],
)
def test_mistakes_are_named(monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["score", NAME, *arguments])
    with pytest.raises(UserError, match=message):
        command.main()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["photos", "tables"])
def test_a_killed_job_continues_and_scores_nothing_twice(store, project, tmp_path, source):
    """On Ray, with two actors; killed when the first results are written."""
    if source == "photos":
        write_images(tmp_path / "photos", 3000)
    else:  # row groups of different sizes
        (tmp_path / "tables").mkdir()
        for rows, start in ((7, 0), (90, 1500)):
            table = pa.table({"image": [image_file(i % 150) for i in range(start, start + 1500)]})
            pq.write_table(table, tmp_path / f"tables/{start}.parquet", row_group_size=rows)
    project.env["DVC_ROOT"] = str(store.folder)
    out = tmp_path / "out"
    module = f"score_{source}"
    (project.folder / f"pipelines/{module}.py").write_text(
        "import pipelines.serving.scoring as s; s.WRITE_ROWS = 200; "
        f"print(s.score('{NAME}', '1', r'{tmp_path / source}', r'{out}', 2))"
    )
    process = project.start("python", "-m", f"pipelines.{module}", warm=True)
    end = time.monotonic() + 300
    while not (out / "scores").exists() or not scores(out):
        assert time.monotonic() < end and process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = scores(out)
    assert 0 < len(first) < 3000
    printed = project.stage(module).stdout
    assert f"{len(first):,} of 3,000 images are finished" in printed
    found = scores(out)
    assert len(found) == 3000 and f"now={3000 - len(first)}," in printed
    for path, row in found.items():
        file, _, index = path.rpartition("#")
        assert row["class"] == CLASSES[int(index if file else Path(path).stem) % 150 % 4]
