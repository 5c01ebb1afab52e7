"""The networks of the paper's table (Jaderberg et al., 2015, section 4.1 and appendix A.4), all about equally large."""

from typing import Any

import torch

from experiments.paper.settings import TrainParams
from pipelines.settings.variants import VariantParams
from stn.classifiers import build_network

DIGIT = 28  # pixels of MNIST's side: what a transformer makes of a larger canvas
# Of the classifier's layers. Convolutions in steps of 16, as vector registers are: 33 filters take twice as long as 32.
WIDTHS = {"FCN": range(4, 513, 4), "CNN": range(16, 257, 16)}
LOCALIZATIONS: dict[str, dict[str, Any]] = {
    "FCN": {"channels": [], "kernel_sizes": [], "hidden": [32, 32], "activation": "tanh"},
    "CNN": {"channels": [20, 20], "kernel_sizes": [5, 5], "hidden": 64, "activation": "tanh"},
}


def paper_network(name: str, image_shape: tuple[int, int, int], classes: int, settings: TrainParams) -> VariantParams:
    """A network of the paper's by its name in params.yaml, for images (C, H, W).

    CNN: convolutions of 9×9 and, with twice the filters, 7×7, each with a 2×2 max-pool, and one linear layer. FCN: two
    hidden layers. An ST-FCN has three linear layers to predict θ, an ST-CNN two 5×5 convolutions of 20 filters and two
    linear layers. On a canvas larger than a digit the localization network sees it at half its size, and the
    transformer returns the size of a digit, each pixel the mean of 2×2 samples. Of the possible widths of the
    classifier's layers that one is taken by which the whole network comes nearest to the setting ``parameters``.

    Args:
        settings: the section ``train`` of the experiment's params.yaml.
    """
    front, _, kind = name.rpartition("ST-")
    kind, _, family = kind.partition("-")
    transformer = None
    if family:
        on_canvas = image_shape[1] > DIGIT
        transformer = {
            "transform": family, "bound": settings.bound, "parallel": 2 if front == "2x" else 1,
            "padding_mode": "border",
            "localization": LOCALIZATIONS[kind] | {"downsample": 2 if on_canvas else 1},
            "output_size": DIGIT if on_canvas else None, "antialias": 2 if on_canvas else 1,
        }  # fmt: skip

    def of_width(width: int) -> VariantParams:
        classifier = {"channels": [width, 2 * width], "kernel_sizes": [9, 7], "hidden": []}
        if kind == "FCN":
            classifier = {"channels": [], "kernel_sizes": [], "hidden": [width, width]}
        variant = {"transformer": transformer, "classifier": classifier, "localization_lr": settings.localization_lr}
        return VariantParams.model_validate(variant)

    def parameters(width: int) -> int:
        return count_parameters(of_width(width), image_shape, classes)

    wanted = getattr(settings.parameters, kind)
    return of_width(min(WIDTHS[kind], key=lambda width: abs(parameters(width) - wanted)))


def count_parameters(variant: VariantParams, image_shape: tuple[int, int, int], classes: int) -> int:
    """The number of parameters of the whole network."""
    settings = variant.model_dump()
    with torch.device("meta"):
        network = build_network(image_shape, classes, settings["transformer"], classifier=settings["classifier"])
    return sum(parameter.numel() for parameter in network.parameters())
