"""Defaults of each data set, for settings that are null in params.yaml."""

from typing import NamedTuple


class Defaults(NamedTuple):
    """Values of a data set for settings that are null."""

    size: int
    channels: int
    epochs: int
    batch_size: int
    lr: float
    flip: bool
    shift: int
    tune_epochs: int


DATASET_DEFAULTS = {
    "cifar10": Defaults(size=32, channels=3, epochs=12, batch_size=256, lr=0.1, flip=True, shift=2, tune_epochs=3),
    "mnist": Defaults(size=28, channels=1, epochs=20, batch_size=256, lr=0.1, flip=False, shift=2, tune_epochs=3),
    "fashion_mnist": Defaults(
        size=28, channels=1, epochs=20, batch_size=256, lr=0.1, flip=True, shift=2, tune_epochs=3
    ),
    "svhn": Defaults(size=32, channels=3, epochs=12, batch_size=256, lr=0.1, flip=False, shift=2, tune_epochs=3),
    "digits": Defaults(size=28, channels=1, epochs=40, batch_size=64, lr=0.1, flip=False, shift=0, tune_epochs=20),
}
# Of data sets not listed above, the user's own.
OWN_DEFAULTS = Defaults(size=32, channels=3, epochs=20, batch_size=64, lr=0.1, flip=False, shift=2, tune_epochs=5)
