"""From a variant's settings to a network."""

import torch

from pipelines.runtime.errors import UserError
from pipelines.settings.variants import VariantParams
from stn.classifiers import build_network


def check_size(name: str, variant: VariantParams, image_shape: tuple[int, int, int]) -> None:
    """Refuse a network that images of this shape (C, H, W) are too small for.

    Raises:
        UserError: kernels larger than the image.
    """
    try:
        with torch.device("meta"):
            settings = variant.model_dump()
            build_network(image_shape, 2, settings["transformer"], classifier=settings["classifier"])
    except ValueError as error:
        raise UserError(f"variants/{name}.yaml: {error}") from None
