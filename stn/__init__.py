"""Spatial Transformer Networks (Jaderberg et al., 2015) in plain PyTorch."""

from stn.classifiers import ConvClassifier, Network, RawClassifier, build_network
from stn.localization import Localization
from stn.spatial_transformer import SpatialTransformer
from stn.transforms import Affine, Attention, Similarity

__all__ = [
    "Affine", "Attention", "ConvClassifier", "Localization", "Network", "RawClassifier", "Similarity",
    "SpatialTransformer", "build_network",
]  # fmt: skip
