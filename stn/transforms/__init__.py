"""Transform families: each maps its parameters θ to a sampling grid.

A family maps a point of the output to the point of the input that is sampled there. θ is therefore the inverse of the
motion of the image content. Coordinates are those of :mod:`stn.transforms.coordinates`.
"""

from stn.transforms.affine import Affine, Affine3d, Attention, Similarity
from stn.transforms.base import Transform
from stn.transforms.coordinates import ALIGN_CORNERS, PADDING_MODES
from stn.transforms.projective import Projective
from stn.transforms.thin_plate_spline import ThinPlateSpline

TRANSFORMS: dict[str, type[Transform]] = {
    "affine": Affine, "similarity": Similarity, "attention": Attention, "projective": Projective,
    "tps": ThinPlateSpline,
}  # fmt: skip
"""The families for images, by the names used in settings."""

__all__ = [
    "ALIGN_CORNERS", "PADDING_MODES", "TRANSFORMS", "Affine", "Affine3d", "Attention", "Projective", "Similarity",
    "ThinPlateSpline", "Transform",
]  # fmt: skip
