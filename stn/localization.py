"""The localization network, which predicts θ from an image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stn.convolution import Conv2d
from stn.pooling import MaxPool2x2

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU, "tanh": nn.Tanh,
}  # fmt: skip


def conv_pool_size(height: int, width: int, kernel_sizes: Sequence[int], name: str) -> tuple[int, int]:
    """Return height and width of the features after unpadded convolutions, each followed by a 2×2 max-pool.

    Raises:
        ValueError: the image is too small for the kernels. ``name`` is the name of the setting in the message.
    """
    h, w = height, width
    for kernel in kernel_sizes:
        h, w = (h - kernel + 1) // 2, (w - kernel + 1) // 2
        if h < 1 or w < 1:
            raise ValueError(
                f"{name}: an image of {height}×{width} pixels is too small for kernels {list(kernel_sizes)}, "
                f"each followed by a 2×2 max-pool; use a larger image or smaller or fewer kernels"
            )
    return h, w


def check_layers(channels: Sequence[int], kernel_sizes: Sequence[int], name: str) -> None:
    """Check that each convolution has both a number of channels and a kernel size.

    Raises:
        ValueError: ``channels`` and ``kernel_sizes`` differ in length. ``name`` is the name of the setting in the
            message.
    """
    if len(channels) != len(kernel_sizes):
        raise ValueError(
            f"{name}: {len(channels)} channels {list(channels)} but {len(kernel_sizes)} "
            f"kernel_sizes {list(kernel_sizes)}; give one of each per layer"
        )


class Localization(nn.Module):
    """Localization network for images: convolutions with 2×2 max-pools, then linear layers.

    It maps images (B, C, H, W) to θ (B, len(identity)). The last layer starts with zero weights and the identity as its
    bias (Jaderberg et al., 2015, appendix A.2), so that an untrained transformer returns its input.

    Args:
        image_shape: channels, height, width.
        identity: the θ that an untrained network predicts.
        channels, kernel_sizes: of each convolution. Both may be empty.
        hidden: width of each linear layer except the last. One number means one layer.
        activation: a key of :data:`ACTIVATIONS`, applied after each pool and after each linear layer except the last.
        downsample: the image is first averaged over squares of this many pixels per side.
        input_size: height and width in pixels to which the image is resized before that, by averages over areas. None:
            its own size. The sampler still samples the image at full resolution.

    Raises:
        ValueError: the image is too small for the kernels or ``downsample``, ``channels`` and ``kernel_sizes`` have
            different lengths, or ``activation`` is unknown.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        identity: Sequence[float],
        *,
        channels: Sequence[int] = (8, 10),
        kernel_sizes: Sequence[int] = (7, 5),
        hidden: int | Sequence[int] = 32,
        activation: str = "relu",
        downsample: int = 1,
        input_size: tuple[int, int] | None = None,
    ):
        super().__init__()
        check_layers(channels, kernel_sizes, "localization")
        if activation not in ACTIVATIONS:
            raise ValueError(f"localization.activation: {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        activate = ACTIVATIONS[activation]
        in_channels, height, width = image_shape
        layers: list[nn.Module] = []
        if input_size is not None:
            height, width = input_size
            layers.append(nn.AdaptiveAvgPool2d(input_size))
        if downsample > min(height, width):
            raise ValueError(
                f"localization.downsample: {downsample} given; the localization network receives {height}×{width} "
                f"pixels, so that at most {min(height, width)} is possible"
            )
        height, width = conv_pool_size(
            height // downsample, width // downsample, kernel_sizes, "localization.kernel_sizes"
        )
        if downsample > 1:
            layers.append(nn.AvgPool2d(downsample))
        for out_channels, kernel in zip(channels, kernel_sizes, strict=True):
            layers += [Conv2d(in_channels, out_channels, kernel), MaxPool2x2(), activate()]
            in_channels = out_channels
        self.features = nn.Sequential(*layers)
        head: list[nn.Module] = [nn.Flatten()]
        in_features = in_channels * height * width
        for width in [hidden] if isinstance(hidden, int) else hidden:
            head += [nn.Linear(in_features, width), activate()]
            in_features = width
        self.head = nn.Sequential(*head, identity_layer(in_features, identity))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def identity_layer(in_features: int, identity: Sequence[float]) -> nn.Linear:
    """Return the last layer of a localization network: zero weights, and ``identity`` as its bias."""
    last = nn.Linear(in_features, len(identity))
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(identity))
    return last
