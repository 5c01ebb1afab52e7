"""Stratified splits of a data set, and duplicate images across splits."""

import hashlib
import math

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from pipelines.outputs.prepared_data import Labeled, Splits
from pipelines.runtime.errors import UserError


def split_stratified(
    whole: Labeled, share: float, seed: int, classes: list[str], setting: str
) -> tuple[Labeled, Labeled]:
    """Split a data set at random into two parts with the same proportions of classes.

    Args:
        share: of the images in the second part, in (0, 1).
        setting: the name of the setting that ``share`` comes from, for the error message.

    Raises:
        UserError: a class has too few images to be in both parts.
    """
    try:
        first, second = train_test_split(
            np.arange(len(whole.labels)), test_size=share, random_state=seed, stratify=whole.labels.numpy()
        )
        if len(set(whole.labels[second].tolist())) < len(classes):
            raise ValueError("a class is missing from the second part")
    except ValueError:
        counts = whole.labels.bincount(minlength=len(classes))
        rarest = int(counts.argmin())
        enough = math.ceil(round(1 / min(share, 1 - share), 6))  # then the smaller part gets one image of each class
        raise UserError(
            f"{setting}: {share} given; {len(whole.labels)} images in {len(classes)} classes cannot be split so that "
            f"both parts hold every class (the smallest is {classes[rarest]}, {int(counts[rarest])} images); "
            f"{enough} of each class are enough"
        ) from None
    return _select(whole, torch.tensor(first)), _select(whole, torch.tensor(second))


def _select(whole: Labeled, index: torch.Tensor) -> Labeled:
    return Labeled(whole.images[index], whole.labels[index])


def count_duplicates(splits: Splits) -> dict[str, int]:
    """Count, for each split after the first, the images whose pixels also occur in an earlier split."""
    seen: set[bytes] = set()
    duplicates = {}
    for name, split in splits._asdict().items():
        rows = split.images.contiguous().flatten(1).numpy()
        digests = [hashlib.blake2b(row, digest_size=16).digest() for row in rows]
        if seen:
            duplicates[name] = sum(digest in seen for digest in digests)
        seen.update(digests)
    return duplicates
