"""Tags of a registered version that say what its θ does on the test images; the gates of a promotion read them."""

from collections.abc import Mapping
from typing import NamedTuple

from pipelines.outputs.alignment_results import ThetaResults

NO_TRANSFORMER = "no transformer"


class ThetaTags(NamedTuple):
    """What the stage evaluate has measured of the θ of a version.

    Args:
        has_transformer: None for a version that was registered before θ was measured.
        undone: share of the motion that is undone, see :class:`~pipelines.outputs.alignment_results.Alignment`.
        outside: mean share of the grid outside the image, in [0, 1].
        trouble: kinds of trouble, separated by commas, or ``none``.
    """

    has_transformer: bool | None
    undone: float = float("nan")
    outside: float = float("nan")
    trouble: str = "none"

    @classmethod
    def from_results(cls, theta: ThetaResults | None) -> "ThetaTags":
        """Take over the results of a model; None without a transformer."""
        if theta is None:
            return cls(has_transformer=False)
        return cls(True, theta.undone, theta.outside, ", ".join(theta.trouble) or "none")

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "ThetaTags":
        """Read the tags of a version."""
        if "theta_undone" not in tags or "theta_outside" not in tags:
            return cls(has_transformer=None)
        if tags["theta_undone"] == NO_TRANSFORMER:
            return cls(has_transformer=False)
        trouble = tags.get("theta_trouble", "none")
        return cls(True, float(tags["theta_undone"]), float(tags["theta_outside"]), trouble)

    def to_tags(self) -> dict[str, str]:
        """Return the tags of a version."""
        if not self.has_transformer:
            return dict.fromkeys(("theta_undone", "theta_outside", "theta_trouble"), NO_TRANSFORMER)
        values = {"theta_undone": f"{self.undone:.4f}", "theta_outside": f"{self.outside:.4f}"}
        return values | {"theta_trouble": self.trouble}
