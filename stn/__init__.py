"""Spatial Transformer Networks (Jaderberg et al., 2015) in plain PyTorch."""

from stn.classifiers import ConvClassifier, Network, RawClassifier, build_network
from stn.composition import Parallel, Series
from stn.localization import Localization
from stn.spatial_transformer import SpatialTransformer
from stn.transforms import Affine, Affine3d, Attention, Projective, Similarity, ThinPlateSpline

__all__ = [
    "Affine", "Affine3d", "Attention", "ConvClassifier", "Localization", "Network", "Parallel", "Projective",
    "RawClassifier", "Series", "Similarity", "SpatialTransformer", "ThinPlateSpline", "build_network",
]  # fmt: skip
