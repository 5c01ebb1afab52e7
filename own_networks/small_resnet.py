"""A small residual network for small images, as an example of a network of your own."""

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut: (B, in_channels, H, W) → (B, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        inside = F.relu(self.norm1(self.conv1(features)))
        return F.relu(self.norm2(self.conv2(inside)) + self.shortcut(features))


class SmallResNet(nn.Module):
    """Images (B, C, H, W) → logits (B, classes), with three stages of blocks.

    He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2, with projections as shortcuts. The
    first convolution may have a stride, for images that are larger than CIFAR's.
    """

    def __init__(self, in_channels: int, classes: int, width: int, blocks: int, stride: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.layer1 = self._stage(width, width, blocks, 1)
        self.layer2 = self._stage(width, 2 * width, blocks, 2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2)
        self.logits = nn.Linear(4 * width, classes)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [Block(out_channels, out_channels, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Block(in_channels, out_channels, stride), *rest)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(self.stem(images))))
        return self.logits(features.mean((2, 3)))


def build(
    image_shape: tuple[int, int, int], classes: int, *, width: int = 16, blocks: int = 1, stride: int = 1
) -> nn.Module:
    """Build the network for images of ``image_shape`` (C, H, W).

    Args:
        width: channels of the first stage.
        blocks: blocks in each stage.
        stride: of the first convolution.
    """
    return SmallResNet(image_shape[0], classes, width, blocks, stride)
