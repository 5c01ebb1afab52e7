"""Splits of a data set, stratified by class, and images that are in two of them."""

import hashlib
import math

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from pipelines.outputs.prepared_data import Labeled
from pipelines.runtime.errors import UserError


def split_stratified(
    whole: Labeled, share: float, seed: int, classes: list[str], setting: str
) -> tuple[Labeled, Labeled]:
    try:
        kept, held = train_test_split(
            np.arange(len(whole.labels)), test_size=share, random_state=seed, stratify=whole.labels.numpy()
        )
        if len(set(whole.labels[held].tolist())) < len(classes):
            raise ValueError("a class is missing from the smaller part")
    except ValueError:
        counts = whole.labels.bincount(minlength=len(classes))
        rarest = int(counts.argmin())
        enough = math.ceil(round(1 / min(share, 1 - share), 6))  # the smaller part's share of each class is then one
        raise UserError(
            f"{setting}: {share} given; {len(whole.labels)} images in {len(classes)} classes cannot be split so that "
            f"both parts hold every class (the smallest is {classes[rarest]}, {int(counts[rarest])} images); "
            f"{enough} of each class are enough"
        ) from None
    first, second = torch.tensor(kept), torch.tensor(held)
    return Labeled(whole.images[first], whole.labels[first]), Labeled(whole.images[second], whole.labels[second])


def count_duplicates(splits: dict[str, Labeled]) -> dict[str, int]:
    """Of each split after the first: how many images are, pixel for pixel, in a split before it, too."""
    seen: set[bytes] = set()
    found = {}
    for name, split in splits.items():
        rows = split.images.contiguous().flatten(1).numpy()
        digests = [hashlib.blake2b(row, digest_size=16).digest() for row in rows]
        if seen:
            found[name] = sum(digest in seen for digest in digests)
        seen.update(digests)
    return found
