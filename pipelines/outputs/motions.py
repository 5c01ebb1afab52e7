"""Motions of test images: the amounts at which the stage evaluate measures accuracy, and what transformers undo."""

from typing import NamedTuple


class Motion(NamedTuple):
    """One way to move the content of test images.

    Args:
        name: ``rotation``, ``scale`` or ``shift``; also the name of a DVC plot.
        amounts: evaluated amounts, in ascending order.
        unit: unit of the amounts.
        still: the amount that leaves an image unchanged.
    """

    name: str
    amounts: tuple[float, ...]
    unit: str
    still: float

    def __str__(self) -> str:
        return f"{self.name} {self.amounts[0]:g} to {self.amounts[-1]:g} {self.unit}".rstrip()


ROTATION = Motion("rotation", tuple(range(-90, 91, 15)), "°", 0.0)
MOTIONS = (
    ROTATION,
    Motion("scale", (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6), "×", 1.0),
    Motion("shift", (-0.3, -0.25, -0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3), "of the size", 0.0),
)
# Smaller than the above: test images are distorted already, and most of them should stay in the range of training.
UNDONE_MOTIONS = (
    Motion("rotation", (-30, -20, -10, 0, 10, 20, 30), "°", 0.0),
    Motion("scale", (0.8, 0.86, 0.93, 1.0, 1.08, 1.16, 1.25), "×", 1.0),
    Motion("shift", (-0.1, -0.07, -0.03, 0.0, 0.03, 0.07, 0.1), "of the size", 0.0),
)
