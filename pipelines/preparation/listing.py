"""The images of a source with their classes and splits, before any image is decoded.

Each kind of source makes a :class:`Listing`; :mod:`pipelines.preparation.decoding` reads its images.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, NamedTuple, Protocol

from PIL import Image

from pipelines.runtime.errors import UserError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MAX_NAMED = 5  # names in a message
EXPECTED = "train/<class>/<image> and test/<class>/<image>, or <class>/<image>"


class Box(NamedTuple):
    """A rectangle in an upright image, in pixels: ``left`` and ``top`` lie inside, ``right`` and ``bottom`` outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top


class Record(NamedTuple):
    """One image of a source.

    Args:
        name: name of its file in the source, as messages show it. Records with different boxes may share a file.
        label: name of its class.
        split: the split in which the source has it; ``train`` if the source has no splits.
        group: name of what it shows, such as a patient or a track. Images with the same group stay in one split.
        box: the part of the file's image that is used; None for all of it.
    """

    name: str
    label: str
    split: Split = "train"
    group: str | None = None
    box: Box | None = None

    @property
    def title(self) -> str:
        """The name, with the box if there is one."""
        return self.name if self.box is None else f"{self.name} {list(self.box)}"


class Files(Protocol):
    """The files of a source, such as a :class:`~pipelines.preparation.folders.Folder`."""

    @property
    def broken_links(self) -> Mapping[str, str]:
        """Targets of the links that lead to nothing, by the links' names."""
        ...

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes | Image.Image]]:
        """Yield the name of each file in ``wanted``, in any order, with its content or the decoded image.

        Raises:
            ExternalError: a file cannot be read.
        """
        ...

    def check_unchanged(self) -> None:
        """Check that the files are those that were listed.

        Raises:
            ExternalError: they changed.
        """
        ...


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Args:
        records: the images, in the order in which they are stored.
        classes: names, in the order of the labels.
        origin: a description of the source.
        files: where the images are read from.
        left_alone: descriptions of the files that are not used, see :func:`describe_files`.
    """

    records: Sequence[Record]
    classes: list[str]
    origin: str
    files: Files
    left_alone: Sequence[str] = ()


def name_first(names: Collection[str]) -> str:
    """The first names, for a message."""
    shown = ", ".join(list(names)[:MAX_NAMED])
    return shown + (", …" if len(names) > MAX_NAMED else "")


def count_of(number: int, noun: str) -> str:
    """A number with its noun, for a message: 1 row, 2 rows, 2 classes."""
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def describe_files(names: Collection[str], reason: str) -> list[str]:
    """One line for files that are not used, with their number, their endings and the reason; none without files."""
    visible = [path for path in map(PurePosixPath, names) if not path.name.startswith(".")]
    endings = Counter(path.suffix.lower() or path.name for path in visible)
    by_number = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    shown = name_first([f"{ending} {count}" for ending, count in by_number])
    return [f"{count_of(len(visible), 'file')} ({shown}): {reason}"] if visible else []


def check_classes(source: str, records: Collection[Record], classes: list[str]) -> None:
    """Check that each split has images of each class.

    Args:
        source: the setting ``data.source``.
        records: the images.
        classes: names of the classes that must be there.

    Raises:
        UserError: there are fewer than two classes, or a class has no images in a split.
    """
    given = f"data.source: {source!r}"
    if len(classes) < 2:
        raise UserError(
            f"{given} holds {count_of(len(records), 'image')} in {count_of(len(classes), 'class')}; "
            f"expected {EXPECTED} with at least two classes"
        )
    if unprintable := [label for label in classes if not label.isprintable()]:
        raise UserError(f"{given} has a class with unprintable characters: {unprintable[0]!r}; rename it")
    present: dict[Split, set[str]] = {
        split: {record.label for record in records if record.split == split} for split in SPLITS
    }
    if not present["train"]:
        alone = " and ".join(f"{split}/" for split, labels in present.items() if labels)
        raise UserError(f"{given} has images in {alone} alone; expected {EXPECTED}")
    for split, labels in present.items():
        missing = sorted(set(classes) - labels) if labels else []
        if missing:
            raise UserError(f"{given} has no image of class {', '.join(missing)}{in_split(split, records)}")


def in_split(split: Split, records: Collection[Record]) -> str:
    """The words that name a split in a message; empty for a source without splits."""
    return f" in {split}/" if any(record.split != "train" for record in records) else ""
