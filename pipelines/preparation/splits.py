"""Stratified splits of a data set, and duplicate images across splits."""

import math
from typing import NamedTuple, NoReturn

import numpy as np
from sklearn.model_selection import train_test_split

from pipelines.preparation.grouped_splits import refuse_groups, split_groups
from pipelines.preparation.listing import SPLITS, count_of
from pipelines.preparation.raw_dataset import RawDataset
from pipelines.preparation.shares import Shares, candidate_shares, describe_changes
from pipelines.runtime.errors import UserError
from pipelines.settings.data_params import PrepareParams


class SplitRows(NamedTuple):
    """The rows of a :class:`RawDataset` in each split, in the order in which the split is stored."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def assign_rows(raw: RawDataset, settings: PrepareParams) -> SplitRows:
    """Assign the images of a source to splits. Splits that the source has are kept, the others are split off.

    Raises:
        UserError: a class has too few images to be in every split.
    """
    own = SplitRows(*(raw.rows(split) for split in SPLITS))
    train, validation, test = own
    shares = Shares(None if len(test) else settings.test, None if len(validation) else settings.validation)
    if raw.groups is not None:
        return _assign_groups(raw, raw.groups, own, shares, settings.seed)
    labels = raw.labels.numpy()
    counts = np.bincount(labels[train], minlength=len(raw.classes))

    def split(rows: np.ndarray, name: str, share: float) -> tuple[np.ndarray, np.ndarray]:
        parts = split_stratified(labels[rows], share, settings.seed, len(raw.classes))
        first, second = parts or refuse_to_split(name, shares, counts, raw.classes)
        return rows[first], rows[second]

    if shares.test is not None:
        train, test = split(train, "test", shares.test)
    if shares.validation is not None:
        train, validation = split(train, "validation", shares.validation)
    return SplitRows(train, validation, test)


def _assign_groups(raw: RawDataset, groups: np.ndarray, own: SplitRows, shares: Shares, seed: int) -> SplitRows:
    """The same for images in groups, where each group is in one split; ``own``: the rows of the source's splits."""
    train, validation, test = own
    labels, groups, classes = raw.labels.numpy()[train], groups[train], raw.classes
    parts = split_groups(labels, groups, shares, seed, len(classes))
    if isinstance(parts, str):
        refuse_groups(parts, shares, labels, groups, classes, seed=seed)
    left, *split_off = (train[part] for part in parts)
    if shares.validation is not None:
        validation = split_off.pop()
    if shares.test is not None:
        test = split_off.pop()
    return SplitRows(left, validation, test)


class GroupCounts(NamedTuple):
    """The number of groups in each split; and for each split after the first, of those also in an earlier split."""

    each: dict[str, int]
    shared: dict[str, int]


def count_groups(groups: np.ndarray | None, rows: SplitRows) -> GroupCounts:
    """Count the groups of each split. A source's own splits may share groups."""
    counts = GroupCounts({}, {})
    seen: set[int] = set()
    if groups is None:
        return counts
    for name, part in rows._asdict().items():
        present = set(groups[part].tolist())
        counts.each[name] = len(present)
        if seen:
            counts.shared[name] = len(present & seen)
        seen |= present
    return counts


def split_stratified(labels: np.ndarray, share: float, seed: int, classes: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Split images at random into two parts with the same proportions of classes.

    Returns:
        The indices of the parts, the second with ``share`` of the images; None if a class has too few images to be in
        both.
    """
    try:
        parts = train_test_split(np.arange(len(labels)), test_size=share, random_state=seed, stratify=labels)
    except ValueError:
        return None
    first, second = map(np.asarray, parts)
    return (first, second) if all(len(np.unique(labels[part])) == classes for part in (first, second)) else None


def refuse_to_split(setting: str, shares: Shares, counts: np.ndarray, classes: list[str]) -> NoReturn:
    """Refuse shares with which a split lacks a class, and name shares and numbers of images that work.

    Args:
        setting: the share with which it failed, ``test`` or ``validation``.
        shares: the shares that were given.
        counts: images of each class in the source's training images.
        classes: their names.

    Raises:
        UserError: always.
    """
    rarest = int(counts.argmin())
    smallest = count_of(int(counts[rarest]), "image")
    remedy = f"{images_needed(shares)} images of each class are enough"
    if other := find_shares(counts, shares):
        remedy = f"{describe_changes(other, shares)} would do, and {remedy}"
    raise UserError(
        f"prepare.{setting}: {getattr(shares, setting)} given; {counts.sum()} images in {len(counts)} classes cannot "
        f"be split so that every part holds every class (the smallest is {classes[rarest]}, {smallest}); {remedy}"
    ) from None


def images_needed(shares: Shares) -> int:
    """A number of images with which every class is in every part, if each class has at least as many."""
    # The smaller part gets one image of each class.
    needed = 1
    if shares.validation is not None:
        needed = math.ceil(round(1 / min(shares.validation, 1 - shares.validation), 6))
    if shares.test is None:
        return needed
    number = math.ceil(round(1 / min(shares.test, 1 - shares.test), 6))
    while number - math.ceil(number * shares.test) - 1 < needed:  # the test split takes at most one more than its share
        number += 1
    return number


def find_shares(counts: np.ndarray, given: Shares) -> Shares | None:
    """The round shares nearest to the given ones that split these classes; one share is changed rather than both."""
    return next((shares for shares in (given, *candidate_shares(given)) if can_split(counts, shares)), None)


def can_split(counts: np.ndarray, shares: Shares) -> bool:
    """Whether every part certainly holds every class, however the split rounds each class up or down."""
    least, total = counts, int(counts.sum())
    for share in shares:
        if share is None:
            continue
        number = math.ceil(share * total)
        taken = least * number / total
        least = least - np.ceil(taken - 1e-9)
        if np.floor(taken + 1e-9).min() < 1 or least.min() < 1:
            return False
        total -= number
    return True


def count_duplicates(hashes: np.ndarray, rows: SplitRows) -> dict[str, int]:
    """Count, for each split after the first, the images whose pixels also occur in an earlier split.

    Args:
        hashes: of the pixels of each image, (N,).
        rows: the images of each split.
    """
    duplicates, seen = {}, hashes[rows.train]
    for name, of_split in (("validation", rows.validation), ("test", rows.test)):
        duplicates[name] = int(np.isin(hashes[of_split], seen).sum())
        seen = np.concatenate((seen, hashes[of_split]))
    return duplicates
