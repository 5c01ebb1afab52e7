"""Splits in which no group lies in two parts."""

import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import NoReturn

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from pipelines.preparation.listing import count_of
from pipelines.preparation.shares import Shares, candidate_shares, describe_changes
from pipelines.runtime.errors import UserError

MAX_FOLDS = 20
ATTEMPTS = 3  # shuffles
MAX_CANDIDATES = 12  # shares near the given ones, and then near equal parts, that a refusal tries


def split_by_group(
    labels: np.ndarray, groups: np.ndarray, share: float, seed: int, classes: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Split images into two parts with similar proportions of classes, so that each group is in only one part.

    The parts are made of the folds of scikit-learn's StratifiedGroupKFold. It takes the folds that put every class into
    both parts and make the second part's share nearest to ``share``. A part has at least one of :data:`MAX_FOLDS`
    folds, also for smaller shares.

    Returns:
        The indices of the parts, the second with about ``share`` of the images; None if no such parts were found.
    """
    edge = Fraction(1, MAX_FOLDS)
    taken, number = min(max(Fraction(share).limit_denominator(MAX_FOLDS), edge), 1 - edge).as_integer_ratio()
    for attempt in range(ATTEMPTS):
        folds = StratifiedGroupKFold(number, shuffle=True, random_state=(seed + attempt) % 2**32)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of classes with fewer groups than folds
                parts = [part for _, part in folds.split(labels, labels, groups)]
        except ValueError:  # a class has fewer images than there are folds
            return None
        fold = np.empty(len(labels), dtype=int)
        for i, part in enumerate(parts):
            fold[part] = i
        choices = [(fold - start) % number < taken for start in range(number)]
        fitting = [second for second in choices if _has_all(labels, second, classes)]
        if fitting:
            second = min(fitting, key=lambda second: abs(second.mean() - share))
            return np.flatnonzero(~second), np.flatnonzero(second)
    return None


def _has_all(labels: np.ndarray, second: np.ndarray, classes: int) -> bool:
    return all(len(np.unique(labels[part])) == classes for part in (second, ~second))


def split_groups(
    labels: np.ndarray, groups: np.ndarray, shares: Shares, seed: int, classes: int
) -> list[np.ndarray] | str:
    """Split off test and validation images, where the shares are given.

    Returns:
        Indices of the training images and of each split in ``shares`` that is not None; or the name of the share that
        does not work.
    """
    left, parts = np.arange(len(labels)), []
    for name, share in shares._asdict().items():
        if share is not None:
            found = split_by_group(labels[left], groups[left], share, seed, classes)
            if found is None:
                return name
            parts.append(left[found[1]])
            left = left[found[0]]
    return [left, *parts]


def refuse_groups(
    setting: str, shares: Shares, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], *, seed: int
) -> NoReturn:
    """Refuse shares with which a part lacks a class, and name shares that work, if there are any.

    Args:
        setting: the share with which it failed, ``test`` or ``validation``.
        shares: the shares that were given.
        labels, groups: of the source's training images.

    Raises:
        UserError: always.
    """
    counts = [len(np.unique(groups[labels == label])) for label in range(len(classes))]
    rarest, parts = int(np.argmin(counts)), 1 + sum(share is not None for share in shares)
    remedy = f"each of the {parts} parts needs a group of each class"
    if min(counts) >= parts:
        equal = Shares(shares.test and 0.35, shares.validation and 0.5)
        nearest = candidate_shares(shares)[:MAX_CANDIDATES]
        for other in [*nearest, equal, *candidate_shares(equal)[:MAX_CANDIDATES]]:
            if not isinstance(split_groups(labels, groups, other, seed, len(classes)), str):
                remedy = f"{describe_changes(other, shares)} would do"
                break
    raise UserError(
        f"prepare.{setting}: {getattr(shares, setting)} given; {len(labels)} images of {len(np.unique(groups))} groups "
        f"in {len(classes)} classes cannot be split so that every part holds every class and no group is in two parts "
        f"(the smallest is {classes[rarest]}, {count_of(counts[rarest], 'group')}); {remedy}"
    )
