"""The form that all images of a data set are converted to: size, channels, and what happens to another aspect ratio."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Fit = Literal["stretch", "pad", "crop"]
Fill = int | Sequence[int] | Literal["edge"]


class Area(NamedTuple):
    """A rectangle of an image, in pixels from its upper left corner. It may extend beyond the image."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


class Placement(NamedTuple):
    """Which part of an image its form shows, and where.

    Args:
        source: the part that is shown, in pixels of the image.
        target: where it is shown, in pixels of the form. All sides are whole numbers.
    """

    source: Area
    target: Area


@dataclass(frozen=True)
class ImageForm:
    """Size and number of channels that images are converted to before they are placed on a canvas.

    Args:
        height, width: size in pixels.
        channels: 1 (gray) or 3 (RGB).
        fit: ``stretch`` scales both sides independently. ``pad`` and ``crop`` keep the aspect ratio: ``pad`` shows the
            whole image and fills the rest, half of it on either side, and ``crop`` shows the middle of the image.
        fill: color of the rest with ``pad``: one value for all channels or a sequence of one value per channel, from 0
            to 255; or ``edge``, which repeats the outermost pixels of the image.
    """

    height: int
    width: int
    channels: int
    fit: Fit = "stretch"
    fill: Fill = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    @property
    def fitting(self) -> dict[str, Any]:
        """``fit``, and ``fill`` if it is used, as JSON values; empty for ``stretch``."""
        if self.fit == "stretch":
            return {}
        fill = self.fill if isinstance(self.fill, int | str) else list(self.fill)
        return {"fit": self.fit} | ({"fill": fill} if self.fit == "pad" else {})

    def has_aspect_of(self, width: int, height: int) -> bool:
        """Whether an image of this width and height has the aspect ratio of the form, up to a pixel of the form."""
        return abs(width * self.height - height * self.width) < max(width, height)

    def place(self, width: int, height: int) -> Placement:
        """Place an image of this width and height in the form."""
        source, target = Area(0, 0, width, height), Area(0, 0, self.width, self.height)
        if self.fit == "pad":
            scale = min(self.width / width, self.height / height)
            wide = min(self.width, max(1, round(width * scale)))
            tall = min(self.height, max(1, round(height * scale)))
            left, top = (self.width - wide) // 2, (self.height - tall) // 2
            target = Area(left, top, left + wide, top + tall)
        elif self.fit == "crop":
            # Of one side the whole image is shown. The products are exact, so that an image of the same aspect ratio is
            # not cut. A corner at a whole pixel keeps the pixels of an image that need not be scaled.
            whole_width = self.width * height >= self.height * width
            wide = width if whole_width else self.width * height / self.height
            tall = self.height * width / self.width if whole_width else height
            left, top = (width - wide) // 2, (height - tall) // 2
            source = Area(left, top, left + wide, top + tall)
        return Placement(source, target)

    def frame(self, width: int, height: int) -> Area:
        """The area of an image of this width and height that the whole form covers, in pixels of the image.

        With ``pad`` it extends beyond the image.
        """
        source, target = self.place(width, height)
        x, y = source.width / target.width, source.height / target.height
        return Area(
            source.left - target.left * x,
            source.top - target.top * y,
            source.right + (self.width - target.right) * x,
            source.bottom + (self.height - target.bottom) * y,
        )


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a size in the settings: one number for both, or a list of both."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width
