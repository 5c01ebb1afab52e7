"""Spatial transformers inside a network, before one of its submodules."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stn.spatial_transformer import SpatialTransformer

MAX_NAMES = 40  # in a message


class InnerTransformer(nn.Module):
    """Applies a spatial transformer to the input of a submodule (Jaderberg et al., 2015, section 3.4).

    It is the forward pre-hook of the submodule. The submodule therefore keeps its name, and so do its weights. The hook
    is a module and not a function, so that a copy of the network has a copy of the transformer.
    """

    def __init__(self, transformer: SpatialTransformer):
        super().__init__()
        self.transformer = transformer
        self._thetas: list[Tensor] = []

    def forward(self, _submodule: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs of the submodule, the first of them warped: features (B, C, H, W)."""
        features, *others = inputs
        theta = self.transformer.theta(features)
        self._thetas.append(theta)
        return self.transformer.warp(features, theta), *others

    def take_theta(self) -> Tensor:
        """Return θ (B, P) of the last forward pass and forget it."""
        return self._thetas.pop()


def find_submodule(network: nn.Module, place: str) -> nn.Module:
    """Return the submodule with the dotted name ``place``.

    Raises:
        ValueError: there is none. The message lists the submodules of the first two levels.
    """
    modules = dict(network.named_modules())
    if not place or place not in modules:
        names = [name for name in modules if name and name.count(".") < 2]
        more = f", … ({len(names)} in all)" if len(names) > MAX_NAMES else ""
        raise ValueError(f"at: {place!r} given; there are: input, {', '.join(names[:MAX_NAMES])}{more}")
    return modules[place]


def input_shapes(network: nn.Module, image_shape: tuple[int, int, int], *places: str) -> list[tuple[int, int, int]]:
    """Return the shape (C, H, W) of the features that enter each submodule ``places``.

    A copy of the network classifies one image of ``image_shape`` on torch's meta device, which computes shapes only.

    Raises:
        ValueError: there is no such submodule, its input is not of the form (B, C, H, W), or it does not run exactly
            once.
    """
    probe = copy.deepcopy(network).to("meta").eval()
    seen: dict[str, list[tuple[int, ...]]] = {place: [] for place in places}

    def recorder(place: str):
        def record(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen[place] += [tuple(inputs[0].shape)]

        return record

    for place in seen:
        find_submodule(probe, place).register_forward_pre_hook(recorder(place))
    with torch.no_grad():
        probe(torch.empty(1, *image_shape, device="meta"))
    shapes = []
    for place in places:
        if len(seen[place]) != 1:
            raise ValueError(f"at: {place!r} given; it runs {len(seen[place])} times for an image, not once")
        if len(seen[place][0]) != 4:
            raise ValueError(f"at: {place!r} given; its input has the shape {seen[place][0]}, not (B, C, H, W)")
        _, channels, height, width = seen[place][0]
        shapes.append((channels, height, width))
    return shapes
