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


_DIGITS = Defaults(size=28, channels=1, epochs=20, batch_size=256, lr=0.1, flip=False, shift=2, tune_epochs=3)
_TINY = Defaults(size=32, channels=3, epochs=12, batch_size=256, lr=0.1, flip=True, shift=2, tune_epochs=3)
_PHOTOS = Defaults(size=128, channels=3, epochs=40, batch_size=64, lr=0.1, flip=True, shift=8, tune_epochs=5)
_EMNIST = ("", "_byclass", "_bymerge", "_balanced", "_letters", "_digits", "_mnist")

DATASET_DEFAULTS = {
    "cifar10": _TINY,
    "cifar100": _TINY._replace(epochs=20),
    "mnist": _DIGITS,
    "fashion_mnist": _DIGITS._replace(flip=True),
    "kmnist": _DIGITS,
    **{f"emnist{name}": _DIGITS._replace(epochs=10) for name in _EMNIST},
    "usps": _DIGITS._replace(epochs=40, batch_size=64, tune_epochs=5),  # 16×16 pixels, too small for the kernels
    "svhn": _TINY._replace(flip=False),
    "stl10": _PHOTOS._replace(size=96, shift=4),
    "gtsrb": Defaults(size=48, channels=3, epochs=20, batch_size=128, lr=0.1, flip=False, shift=2, tune_epochs=3),
    "eurosat": Defaults(size=64, channels=3, epochs=20, batch_size=128, lr=0.1, flip=True, shift=4, tune_epochs=3),
    "flowers102": _PHOTOS,
    "oxford_iiit_pet": _PHOTOS,
    "fgvc_aircraft": _PHOTOS,
    "stanford_cars": _PHOTOS,
    "food101": _PHOTOS._replace(epochs=20),
    "digits": Defaults(size=28, channels=1, epochs=40, batch_size=64, lr=0.1, flip=False, shift=0, tune_epochs=20),
}
# Of data sets not listed above, the user's own.
OWN_DEFAULTS = Defaults(size=32, channels=3, epochs=20, batch_size=64, lr=0.1, flip=False, shift=2, tune_epochs=5)
