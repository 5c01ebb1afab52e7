"""Names that folders, files and columns of tables give to splits."""

import re
from collections.abc import Mapping

from pipelines.preparation.listing import SPLITS, Split

SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training", "train_set", "training_set", "trainset"),
    "validation": ("val", "valid", "validation", "dev", "val_set", "valid_set", "validation_set", "dev_set"),
    "test": ("test", "testing", "test_set", "testing_set", "testset", "eval", "evaluation", "eval_set"),
}
EXAMPLES = "train, val, test"


def split_of(name: str) -> Split | None:
    """The split that a name stands for, in upper or lower case, or None."""
    plain = re.sub(r"[ -]+", "_", name.strip().lower())
    return next((split for split in SPLITS if plain in SPLIT_NAMES[split]), None)


def split_of_path(path: str) -> Split | None:
    """The split that the last such word in a path stands for, as in ``data/train-00000-of-00002.parquet``, or None."""
    words = re.split(r"[^A-Za-z]+", path)
    return next((split for word in reversed(words) if (split := split_of(word))), None)
