"""Tables: all formats give the same images, columns and paths are found, and faulty rows are counted and named."""

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.preparation.listing import Box
from pipelines.preparation.sources import list_images
from pipelines.runtime.errors import UserError
from pipelines.settings.data_params import DataParams, DistortionParams, TableParams
from tests.pipelines.preparation.reading import Source, read_source

SIZE = 6


def data(source: Path, **settings: Any) -> DataParams:
    table = {
        name: settings.pop(name) for name in list(settings) if name in TableParams.model_fields and name != "group"
    }
    table |= {"group": settings.pop("column")} if "column" in settings else {}
    still = DistortionParams(rotation=0, scale=[1.0, 1.0], shift=0, padding_mode="zeros")
    values = {"size": SIZE, "channels": 3, "skip_broken": False, "distortion": still, "table": TableParams(**table)}
    return DataParams(dataset="mine", source=str(source), **(values | settings))


def pixels(name: str, size: int = SIZE) -> np.ndarray:
    """The image that :func:`write_images` writes to a file of this name."""
    return np.random.default_rng(sum(name.encode())).integers(0, 256, (size, size, 3), dtype=np.uint8)


def write_images(folder: Path, names: Sequence[str], size: int = SIZE) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(name, size)).save(folder / name, "PPM" if name.endswith(".ppm") else "PNG")


def encode(name: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(name)).save(stream, "PNG")
    return stream.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table in the format of its ending; a CSV has semicolons if its stem says so."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows)))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        write_csv(path, rows, "\t" if path.suffix == ".tsv" else ";" if "semicolon" in path.stem else ",")


def labeled(found: Source) -> dict[bytes, tuple[str, str]]:
    """Class and split of each image by its pixels."""
    return {
        image.numpy().tobytes(): (found.classes[label], str(split))
        for image, label, split in zip(found.images, found.labels, found.splits, strict=True)
    }


def expected(rows: Sequence[tuple[str, str, str]]) -> dict[bytes, tuple[str, str]]:
    return {pixels(name).transpose(2, 0, 1).tobytes(): (label, split) for name, label, split in rows}


ROWS = [
    ("img/1.png", "cat", "train"), ("img/2.png", "dog", "train"), ("img/3.png", "cat", "test"),
    ("img/4.png", "dog", "test"), ("img/5.png", "dog", "validation"), ("img/6.png", "cat", "validation"),
]  # fmt: skip


@pytest.mark.parametrize("table", ["t.csv", "semicolon.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet"])
@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
def test_every_format_gives_the_same_images(tmp_path, table, form):
    tree = tmp_path / "set"
    write_images(tree, [name for name, _, _ in ROWS])
    write_table(tree / table, [{"image_path": name, "label": label, "split": split} for name, label, split in ROWS])
    source = tree
    if form != "folder":
        source = Path(shutil.make_archive(str(tmp_path / "packed"), {"zip": "zip", "tar.gz": "gztar"}[form], tree))
    found = read_source(data(source, file=table))
    assert labeled(found) == expected(ROWS) and found.classes == ["cat", "dog"]
    assert found.origin == f"{source.name} (table {table})" and not found.left_alone


@pytest.mark.parametrize(
    ("image", "label", "split", "value"),
    [("file_name", "label", "split", "dev"), ("Path", "ClassId", "subset", "Validation"),
     ("filename", "Class", "Split", "val"), ("image", "category", "partition", "valid"),
     ("Image Path", "target", "SPLIT", "VAL")],
)  # fmt: skip
def test_columns_are_found_by_usual_names(tmp_path, image, label, split, value):
    write_images(tmp_path, [name for name, _, _ in ROWS])
    rows = [{"note": "x", label: kind, image: name, split: value if part == "validation" else part}
            for name, kind, part in ROWS]  # fmt: skip
    write_csv(tmp_path / "t.csv", rows)
    assert labeled(read_source(data(tmp_path, file="t.csv"))) == expected(ROWS)


def test_columns_may_be_named_and_splits_switched_off(tmp_path):
    write_images(tmp_path, [name for name, _, _ in ROWS])
    write_csv(tmp_path / "t.csv", [{"label": "no", "split": "fold 3", "a": name, "b": kind} for name, kind, _ in ROWS])
    found = read_source(data(tmp_path, file="t.csv", image="a", label="b", split="none"))
    assert labeled(found) == expected([(name, kind, "train") for name, kind, _ in ROWS])
    for column, message in (
        ({"image": "c"}, r"data\.table\.image: 'c' given; the columns of t\.csv are label, split, a, b"),
        ({"image": "a"}, r"split: column 'split': 6 rows without the name of a split.*t\.csv line 2 \('fold 3'\)"),
        ({"label": "b"}, r"image: null given; no column of .* has a usual name; its columns are label, split, a, b"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            list_images(data(tmp_path, file="t.csv", **column))


@pytest.mark.parametrize(
    ("table", "path"),
    [("meta/t.csv", "../img/1.png"), ("meta/t.csv", "img/1.png"), ("t.csv", "1.png"), ("t.csv", "1"),
     ("t.csv", "img\\1.png"), ("meta/t.csv", "./img/1.png"), ("t.csv", "set/img/1.png"), ("img/t.csv", "1.png"),
     ("t.csv", "/home/me/set/img/1.png")],
)  # fmt: skip
def test_paths_are_found(tmp_path, table, path):
    """Relative to the table, the source or a folder of it, with or without ending, or from another machine."""
    write_images(tmp_path, [f"img/{i}.png" for i in range(1, 7)])
    rows = [{"file_name": path.replace("1", str(i)), "label": "ab"[i % 2]} for i in range(1, 7)]
    write_csv(tmp_path / table, rows)
    records = list_images(data(tmp_path, file=table)).records
    assert sorted((record.name, record.label) for record in records) == [
        (f"img/{i}.png", "ab"[i % 2]) for i in range(1, 7)
    ]


def test_a_path_relative_to_the_table_comes_first(tmp_path):
    write_images(tmp_path, ["1.png", "2.png", "sub/1.png", "sub/2.png"])
    write_csv(tmp_path / "sub/t.csv", [{"file_name": f"{i}.png", "label": i} for i in (1, 2)])
    listing = list_images(data(tmp_path, file="sub/t.csv"))
    assert [record.name for record in listing.records] == ["sub/1.png", "sub/2.png"]
    assert listing.left_alone == ["2 files (.png 2): in no row of the table, such as 1.png, 2.png"]


def test_classes_that_are_numbers_are_sorted_by_number_and_keep_their_form(tmp_path):
    write_images(tmp_path, [f"{i}.png" for i in range(12)])
    write_csv(tmp_path / "t.csv", [{"file_name": f"{i}.png", "label": f"{i:02}"} for i in range(12)])
    assert list_images(data(tmp_path, file="t.csv")).classes == [f"{i:02}" for i in range(12)]
    write_csv(tmp_path / "t.csv", [{"file_name": f"{i}.png", "label": i} for i in range(12)])
    assert list_images(data(tmp_path, file="t.csv")).classes == [str(i) for i in range(12)]


def refused(folder: Path, rows: Sequence[Mapping[str, Any]], **settings: Any) -> str:
    write_csv(folder / "t.csv", rows)
    with pytest.raises(UserError) as caught:
        list_images(data(folder, file="t.csv", **settings))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_faulty_rows_are_counted_and_named(tmp_path):
    write_images(tmp_path, [f"{i}.png" for i in range(8)])
    good = [{"file_name": f"{i}.png", "label": "ab"[i % 2], "group": i} for i in range(8)]

    def changed(number: int, **values: Any) -> list[dict[str, Any]]:
        return [row | (values if i < number else {}) for i, row in enumerate(good)]

    lines = ", ".join(f"t.csv line {i}" for i in range(2, 7))
    assert f"column 'label': 6 rows without a class: {lines}, …" in refused(tmp_path, changed(6, label=" "))
    assert "column 'file_name': 1 row without an image: t.csv line 2" in refused(tmp_path, changed(1, file_name=""))
    message = refused(tmp_path, changed(2, file_name="no.png"))
    assert "data.table.image: 2 of 8 rows without an existing image" in message and "no.png (t.csv line 2)" in message
    assert "skip_broken: true" in message
    assert "1 class with several spellings: 'A' (1) and 'a' (3)" in refused(tmp_path, changed(1, label="A"))
    message = refused(tmp_path, [*changed(1, label="A B"), {"file_name": "1.png", "label": "ab", "group": 0}])
    assert "'A B' (1) and 'ab' (1)" in message
    message = refused(tmp_path, [*good, {"file_name": "0.png", "label": "b", "group": 0}])
    assert (
        "data.table: 1 row with the image of an earlier row" in message
        and "0.png is a in t.csv line 2 and b in t.csv line 10" in message
    )
    assert "column 'group': 3 rows without a group" in refused(tmp_path, changed(3, group=""), column="group")
    (tmp_path / "t.csv").write_text("file_name,label\n1.png,a\n2.png\n")
    with pytest.raises(UserError, match="line 3 has 1 value, the first line has 2"):
        list_images(data(tmp_path, file="t.csv"))
    (tmp_path / "t.csv").write_bytes("file_name,label\n1.png,é\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        list_images(data(tmp_path, file="t.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "it is empty"),
        ("t.csv", "file_name,label,label\n1.png,a,b\n", "it has two columns with the name 'label'"),
        ("t.jsonl", '{"label": 1}\n\n{"label" 2}\n', "a JSON list: line 3 column 10: Expecting ':' delimiter"),
        ("t.jsonl", '{"label": 1}\n\n[2]\n', "line 3 is no JSON object"),
        ("t.json", '[{"label": 1},\n {"label" 2}]', "a JSON list: line 2 column 11: Expecting ':' delimiter"),
        ("t.json", '[{"label": 1},\n\n 2]', "entry 2 is no JSON object"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        list_images(data(tmp_path, file=name))
    assert str(caught.value).startswith(f"data.table.file: {name}: ") and str(caught.value).endswith(message)


def test_json_lines_may_have_other_line_breaks_in_strings(tmp_path):
    write_images(tmp_path, ["1.png", "2.png"])
    rows = [{"file_name": f"{i}.png", "label": i, "caption": "a\u2028b\x85c"} for i in (1, 2)]
    (tmp_path / "t.jsonl").write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert len(list_images(data(tmp_path, file="t.jsonl")).records) == 2


def test_classes_with_the_same_number_have_one_order(tmp_path):
    """The order of a set of texts is another one in each process."""
    names = [f"{'0' * i}{number}" for i in range(4) for number in (1, 2)]
    write_images(tmp_path, [f"{name}.png" for name in names])
    write_csv(tmp_path / "t.csv", [{"file_name": f"{name}.png", "label": name} for name in names])
    classes = ["0001", "001", "01", "1", "0002", "002", "02", "2"]
    assert list_images(data(tmp_path, file="t.csv")).classes == classes


def test_rows_that_are_left_out_are_counted(tmp_path):
    write_images(tmp_path, [f"{i}.png" for i in range(4)])
    rows = [{"file_name": f"{i}.png", "label": "ab"[i % 2]} for i in (0, 1, 2, 1, 9)]
    write_csv(tmp_path / "t.csv", rows)
    (tmp_path / "notes.md").write_text("")
    listing = list_images(data(tmp_path, file="t.csv", skip_broken=True))
    assert [record.name for record in listing.records] == ["0.png", "1.png", "2.png"]
    assert listing.left_alone == [
        "1 row without an existing image: 9.png (t.csv line 6)",
        "1 row with the image of an earlier row",
        "1 file (.png 1): in no row of the table, such as 3.png",
        "1 file (.md 1): neither images nor the table",
    ]


@pytest.mark.parametrize(
    ("form", "values", "box"),
    [("inclusive", (1, 2, 4, 5), (1, 2, 5, 6)), ("exclusive", (1, 2, 4, 5), (1, 2, 4, 5)),
     ("size", (1, 2, 3, 4), (1, 2, 4, 6)), ("size", (0.6, 1.4, 3.0, 2.6), (1, 1, 4, 4))],
)  # fmt: skip
def test_boxes_are_cut_out(tmp_path, form, values, box):
    write_images(tmp_path, ["0.png", "1.png"])
    columns = ["x", "y", "p", "q"]
    rows = [{"file_name": f"{i}.png", "label": i, "bbox": list(values), **dict(zip(columns, values, strict=True))}
            for i in range(2)]  # fmt: skip
    write_csv(tmp_path / "t.csv", rows)
    write_table(tmp_path / "t.jsonl", rows)
    for file in ("t.csv", "t.jsonl"):
        for column in (columns, "bbox"):
            listing = list_images(data(tmp_path, file=file, box=column, box_form=form))
            assert [record.box for record in listing.records] == [Box(*box)] * 2
    found = read_source(data(tmp_path, file="t.csv", box=columns, box_form=form))
    whole = Image.fromarray(pixels("0.png")).crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.array_equal(found.images[0], np.asarray(whole).transpose(2, 0, 1))
    rows[1]["x"] = "left"
    assert "column 'x, y, p, q': 1 row without four numbers: t.csv line 3 (left 2" in refused(
        tmp_path, [*rows[:1], rows[1] | {"y": 2, "p": 3, "q": 4}], box=columns
    )


def test_two_objects_of_one_image_are_two_images(tmp_path):
    write_images(tmp_path, ["0.png"])
    rows = [{"file_name": "0.png", "label": label, "bbox": f"{i} 0 {i + 2} 3"} for i, label in enumerate("ab")]
    write_csv(tmp_path / "t.csv", rows)
    found = read_source(data(tmp_path, file="t.csv", box="bbox"))
    assert found.labels.tolist() == [0, 1] and len(found.images) == 2


def write_hugging_face(folder: Path, parts: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    """Write shards as ``datasets`` does: a struct of bytes and path, and the names of classes in the metadata."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name, rows in parts.items():
        columns = [pa.array([{"bytes": encode(file), "path": file} for file, _ in rows], image),
                   pa.array([label for _, label in rows], pa.int64())]  # fmt: skip
        schema = pa.schema([("image", image), ("label", pa.int64())], metadata=metadata)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), folder / name)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_parquet_with_images_inside(tmp_path, form):
    tree = tmp_path / "set"
    write_hugging_face(
        tree,
        {
            "data/train-00000-of-00002.parquet": [("1", 0), ("2", 1)],
            "data/train-00001-of-00002.parquet": [("3", 0), ("4", 1)],
            "data/validation-00000-of-00001.parquet": [("5", 0), ("6", 1)],
            "data/test-00000-of-00001.parquet": [("7", 0), ("8", 1)],
        },
    )
    (tree / "README.md").write_text("")
    source = tree if form == "folder" else Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tree))
    found = read_source(data(source))
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    assert labeled(found) == expected([(str(i + 1), ["zebra", "ant"][i % 2], split) for i, split in enumerate(splits)])
    assert found.classes == ["zebra", "ant"]
    assert found.left_alone == ["1 file (.md 1): neither images nor the table"]
    found = read_source(data(source, file="data/train-*.parquet"))
    assert len(found.images) == 4 and set(found.splits) == {"train"}


def test_tables_with_and_without_a_split_in_their_names_are_refused(tmp_path):
    write_hugging_face(tmp_path, {"train.parquet": [("1", 0), ("2", 1)], "more.parquet": [("3", 0), ("4", 1)]})
    with pytest.raises(UserError, match=r"more\.parquet: neither its name nor a column has a split.*train\.parquet"):
        list_images(data(tmp_path))


@pytest.mark.parametrize("setting", ["label", "split", "column", "box"])
def test_image_files_in_parquet_are_no_other_column(tmp_path, setting):
    write_hugging_face(tmp_path, {"a.parquet": [("1", 0), ("2", 1)]})
    with pytest.raises(UserError, match=r"'image' given; the columns of a\.parquet are label"):
        list_images(data(tmp_path, file="a.parquet", **{setting: "image"}))


def test_damage_in_the_images_of_parquet_is_named(tmp_path):
    write_hugging_face(tmp_path, {"a.parquet": [(str(i), i % 2) for i in range(8)]})
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    start = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
    first = start.dictionary_page_offset or start.data_page_offset
    content[first : first + 40] = b"\xff" * 40
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"^data\.table\.file: a\.parquet: damaged \(.*\)$"):
        read_source(data(tmp_path))


def test_an_image_that_is_missing_in_parquet_is_named(tmp_path):
    write_hugging_face(tmp_path, {"a.parquet": [("1", 0), ("2", 1)]})
    table = pq.read_table(tmp_path / "a.parquet")
    images = table["image"].to_pylist()
    images[1] = None
    changed = table.set_column(0, "image", pa.array(images, table.schema.field("image").type))
    pq.write_table(changed, tmp_path / "a.parquet")
    with pytest.raises(Exception, match=r"a\.parquet row 1: not a readable image \(the file is empty\)"):
        read_source(data(tmp_path))
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:100])
    with pytest.raises(UserError, match=r"data\.table\.file: a\.parquet: not a parquet file, or damaged"):
        list_images(data(tmp_path))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_hugging_faces_metadata_beside_images(tmp_path, name):
    """It is used without a setting, and the names of folders are then no classes."""
    for folder in ("train", "test"):
        write_images(tmp_path, [f"{folder}/x/1.png", f"{folder}/y/2.png"])
        rows = [{"file_name": "x/1.png", "label": "ant"}, {"file_name": "y/2.png", "label": "bee"}]
        write_table(tmp_path / folder / name, rows)
    listing = list_images(data(tmp_path))
    assert listing.classes == ["ant", "bee"] and f"table test/{name}, train/{name}" in listing.origin
    assert [(r.name, r.label, r.split) for r in listing.records] == [
        ("train/x/1.png", "ant", "train"), ("train/y/2.png", "bee", "train"),
        ("test/x/1.png", "ant", "test"), ("test/y/2.png", "bee", "test"),
    ]  # fmt: skip
    for folder in ("train", "test"):  # a table of something else leaves the class folders
        write_table(tmp_path / folder / name, [{"file_name": "x/1.png", "caption": "an ant"}])
    listing = list_images(data(tmp_path))
    assert listing.classes == ["x", "y"] and listing.left_alone[0].startswith("2 files")


def write_lists(folder: Path) -> list[str]:
    """Write CUB-200-2011's lists: numbers and values separated by spaces, without a header."""
    names = [f"{c:03}.Bird_{c}/Bird_{c}_{i:04}.png" for c in (1, 2) for i in range(3)]
    write_images(folder / "images", names, size=8)

    def write(name: str, values: Sequence[Any]) -> None:
        (folder / name).write_text("".join(f"{i} {value}\n" for i, value in enumerate(values, 1)))

    write("images.txt", names)
    write("image_class_labels.txt", [1, 1, 1, 2, 2, 2])
    write("train_test_split.txt", [1, 1, 0, 1, 0, 1])
    write("bounding_boxes.txt", ["1.0 2.0 4.0 3.0"] * 6)
    write("classes.txt", ["001.Bird_1", "002.Bird_2"])
    return names


def test_cubs_lists(tmp_path):
    names = write_lists(tmp_path / "CUB_200_2011")
    lists = ["images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"]
    boxes = [f"bounding_boxes.{i}" for i in range(1, 5)]
    columns = {"image": "images", "split": "train_test_split"}
    for label, classes in (("image_class_labels", ["1", "2"]), ("folder", ["001.Bird_1", "002.Bird_2"])):
        listing = list_images(data(tmp_path, file=lists, label=label, box=boxes, box_form="size", **columns))
        assert listing.classes == classes
        assert [r.name for r in listing.records] == [f"CUB_200_2011/images/{names[i]}" for i in (0, 1, 3, 5, 2, 4)]
        assert [r.split for r in listing.records] == ["train"] * 4 + ["test"] * 2
        assert {r.box for r in listing.records} == {Box(1, 2, 5, 5)}
    (tmp_path / "CUB_200_2011/train_test_split.txt").write_text("1 1\n2 0\n")
    with pytest.raises(UserError, match=r"_split\.txt: no line has the number of 4 rows: .*images\.txt line 3"):
        list_images(data(tmp_path, file=lists[:3], **columns))


def test_lists_that_cannot_be_joined_are_refused(tmp_path):
    folder = tmp_path / "CUB_200_2011"
    write_lists(folder)
    lists, columns = ["images.txt", "image_class_labels.txt"], {"image": "images", "label": "image_class_labels"}
    (folder / "image_class_labels.txt").write_text("".join(f"{i} {i % 2}\n" for i in (1, 2, 3, 4, 5, 6, 2)))
    message = r"image_class_labels\.txt: lines with the same number: \S+ line 2, \S+ line 7$"
    for files in (lists, lists[::-1]):
        with pytest.raises(UserError, match=message):
            list_images(data(tmp_path, file=files, **columns))
    (folder / "image_class_labels.txt").write_text("".join(f"{i} {i % 2}\n" for i in range(1, 9)))
    message = r"images\.txt: no line has the number of 2 rows: \S+image_class_labels\.txt line 7, \S+ line 8$"
    with pytest.raises(UserError, match=message):
        list_images(data(tmp_path, file=lists, **columns))
    (folder / "more").mkdir()
    (folder / "more/images.txt").write_text("1 x\n")
    with pytest.raises(UserError, match=r"more/images\.txt: another list has the column 'images', too"):
        list_images(data(folder, file=["images.txt", "more/images.txt"], **columns))


HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
ROI = ["Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2"]


def test_gtsrb_as_it_is_published(tmp_path):
    """Class folders with a table each, and the test images with theirs; groups are the tracks in the names."""
    train, test = "Final_Training/Images", "Final_Test/Images"
    for label in (0, 1):
        names = [f"{track:05}_{frame:05}.ppm" for track in range(2) for frame in range(3)]
        write_images(tmp_path / train / f"{label:05}", names, size=10)
        lines = [f"{name};10;10;1;1;8;8;{label}" for name in names]
        (tmp_path / train / f"{label:05}/GT-{label:05}.csv").write_text("\n".join([HEADER, *lines]))
    write_images(tmp_path / test, ["00000.ppm", "00001.ppm"], size=10)
    lines = ["00000.ppm;10;10;2;2;7;7;1", "00001.ppm;10;10;2;2;7;7;0"]
    (tmp_path / test / "GT-final_test.csv").write_text("\r\n".join([HEADER, *lines, ""]))
    found = list_images(
        data(
            tmp_path,
            file=["Final_Training/Images/*/GT-*.csv", "Final_Test/Images/GT-final_test.csv"],
            box=ROI,
            group=r"(\d+/\d+)_\d+\.ppm$",
        )
    )
    assert found.classes == ["0", "1"] and not found.left_alone
    assert [r.split for r in found.records] == ["train"] * 12 + ["test"] * 2
    assert {r.group for r in found.records[:12]} == {f"0000{c}/0000{t}" for c in (0, 1) for t in (0, 1)}
    assert [(r.name, r.label, r.box) for r in found.records[12:]] == [
        (f"{test}/00000.ppm", "1", Box(2, 2, 8, 8)), (f"{test}/00001.ppm", "0", Box(2, 2, 8, 8)),
    ]  # fmt: skip
    alone = list_images(data(tmp_path, file="Final_Test/Images/GT-final_test.csv"))
    assert [r.split for r in alone.records] == ["train"] * 2


def test_gtsrb_as_on_kaggle(tmp_path):
    header = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n"
    train = [f"Train/{c}/{c:05}_{t:05}_{f:05}.png" for c in (0, 1) for t in range(2) for f in range(2)]
    test = ["Test/00000.png", "Test/00001.png"]
    write_images(tmp_path, [*train, *test], size=10)
    (tmp_path / "Train.csv").write_text(header + "".join(f"9,9,1,1,8,8,{p.split('/')[1]},{p}\n" for p in train))
    (tmp_path / "Test.csv").write_text(header + "".join(f"9,9,1,1,8,8,{i},{p}\n" for i, p in enumerate(test)))
    found = list_images(data(tmp_path, file=["Train.csv", "Test.csv"], box=ROI, group=r"(\d+_\d+)_\d+\.png$"))
    assert [(r.name, r.label, r.split) for r in found.records] == [
        *((p, p.split("/")[1], "train") for p in train), *((p, str(i), "test") for i, p in enumerate(test)),
    ]  # fmt: skip
    assert len({r.group for r in found.records if r.split == "train"}) == 4


@pytest.mark.parametrize("file", ["/etc/t.csv", "../t.csv", "a/../../t.csv", "~/t.csv"])
def test_a_table_outside_the_source_is_refused(file):
    with pytest.raises(ValueError, match=r"it is relative to data\.source and lies inside it"):
        TableParams(file=file)


def test_a_table_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    write_images(tmp_path, ["1.png"])
    with pytest.raises(UserError, match=r"data\.table\.file: 't\.csv' given; no such file .*it has no table"):
        list_images(data(tmp_path, file="t.csv"))
    write_csv(tmp_path / "a/labels.csv", [{"file_name": "1.png", "label": "a"}])
    with pytest.raises(UserError, match=r"no such file .*its tables: a/labels\.csv"):
        list_images(data(tmp_path, file="t.csv"))
    with pytest.raises(
        UserError, match=r"it is a table: give its folder, with the images, and data\.table\.file: labels\.csv"
    ):
        list_images(data(tmp_path / "a/labels.csv"))


def test_a_column_of_groups(tmp_path):
    write_images(tmp_path, [f"{i}.png" for i in range(6)])
    write_csv(tmp_path / "t.csv", [{"file_name": f"{i}.png", "label": i % 2, "patient": i // 2} for i in range(6)])
    found = read_source(data(tmp_path, file="t.csv", column="patient"))
    assert found.groups is not None and found.groups.tolist() == [0, 0, 1, 1, 2, 2]
