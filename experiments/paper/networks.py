"""The paper's networks (Jaderberg et al., 2015, section 4.1 and appendix A.4), with similar numbers of parameters."""

from experiments.paper.settings import TrainParams
from pipelines.networks.build import count_parameters, network_settings
from pipelines.settings.variants import (
    ConvClassifierParams,
    ConvolutionalLocalizationParams,
    TransformerParams,
    VariantParams,
)

DIGIT = 28  # height and width of MNIST's images, and of a transformer's output on a larger canvas
# Possible widths of the classifier's layers. Convolutions have multiples of 16 filters, the width of vector registers:
# 33 filters take twice as long as 32.
WIDTHS = {"FCN": range(4, 513, 4), "CNN": range(16, 257, 16)}
LOCALIZATIONS = {
    "FCN": ConvolutionalLocalizationParams(channels=[], kernel_sizes=[], hidden=[32, 32], activation="tanh"),
    "CNN": ConvolutionalLocalizationParams(channels=[20, 20], kernel_sizes=[5, 5], hidden=64, activation="tanh"),
}


def paper_network(name: str, image_shape: tuple[int, int, int], classes: int, settings: TrainParams) -> VariantParams:
    """The settings of one of the paper's networks.

    - CNN: a 9×9 and a 7×7 convolution, each followed by a 2×2 max-pool, the second with twice as many filters, and one
      linear layer.
    - FCN: two hidden layers.
    - ST-CNN: two 5×5 convolutions of 20 filters and two linear layers predict θ.
    - ST-FCN: three linear layers predict θ.

    On a canvas larger than a digit the localization network receives the image at half its size, and the transformer
    returns an image of a digit's size, each pixel the mean of 2×2 samples. The width of the classifier's layers is the
    one that brings the whole network closest to ``settings.parameters``.

    Args:
        name: one of :data:`experiments.paper.settings.Network`.
        image_shape: channels, height, width.
        settings: the section ``train`` of the experiment's params.yaml.
    """
    prefix, _, rest = name.rpartition("ST-")
    kind, _, family = rest.partition("-")
    transformer = None
    if family:
        on_canvas = image_shape[1] > DIGIT
        transformer = TransformerParams.model_validate(
            {
                "transform": family,
                "bound": settings.bound,
                "parallel": 2 if prefix == "2x" else 1,
                "padding_mode": "border",
                "localization": LOCALIZATIONS[kind].model_copy(update={"downsample": 2 if on_canvas else 1}),
                "output_size": DIGIT if on_canvas else None,
                "antialias": 2 if on_canvas else 1,
            }
        )

    def with_width(width: int) -> VariantParams:
        classifier = ConvClassifierParams(channels=[width, 2 * width], kernel_sizes=[9, 7], hidden=[])
        if kind == "FCN":
            classifier = ConvClassifierParams(channels=[], kernel_sizes=[], hidden=[width, width])
        return VariantParams(transformer=transformer, classifier=classifier, localization_lr=settings.localization_lr)

    def deviation(width: int) -> int:
        return abs(count_parameters(network_settings(with_width(width), image_shape, classes)) - target)

    target = getattr(settings.parameters, kind)
    return with_width(min(WIDTHS[kind], key=deviation))
