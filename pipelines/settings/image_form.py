"""The form that all images of a data set are converted to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageForm:
    """Size and number of channels that images are converted to before they are placed on a canvas.

    Args:
        height, width: size in pixels.
        channels: 1 (gray) or 3 (RGB).
    """

    height: int
    width: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width
