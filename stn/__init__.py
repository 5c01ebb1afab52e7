"""Spatial Transformer Networks (Jaderberg et al., 2015) in plain PyTorch."""

from stn.classifiers import ConvClassifier, Network, RawClassifier, build_network
from stn.composition import Parallel, Series
from stn.localization import Localization
from stn.settings import (
    ClassifierSettings,
    LocalizationSettings,
    NetworkSettings,
    Normalization,
    Recipe,
    TransformerSettings,
)
from stn.spatial_transformer import SpatialTransformer
from stn.transforms import Affine, Affine3d, Attention, Projective, Similarity, ThinPlateSpline

__all__ = [
    "Affine", "Affine3d", "Attention", "ClassifierSettings", "ConvClassifier", "Localization", "LocalizationSettings",
    "Network", "NetworkSettings", "Normalization", "Parallel", "Projective", "RawClassifier", "Recipe", "Series",
    "Similarity", "SpatialTransformer", "ThinPlateSpline", "TransformerSettings", "build_network",
]  # fmt: skip
