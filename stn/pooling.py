"""Max-pooling over 2×2 squares that is fast on CPUs for few channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class MaxPool2x2(nn.MaxPool2d):
    """``nn.MaxPool2d(2)``: (B, C, H, W) → (B, C, H // 2, W // 2).

    PyTorch's kernel for channels-last tensors works one image's pixel at a time and in whole vectors of channels
    only: with 10 channels none of it is vectorized. Here two rows are compared along the whole row, then two columns,
    and the backward pass compares again in place of storing 64-bit indices. Of equal values the left one gets the
    gradient, and of these the upper one.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Tensor) -> Tensor:
        # Other layouts and devices have good kernels, and a program that is exported shall hold standard operations.
        trains = input.device.type == "cpu" and input.requires_grad
        if trains and input.is_contiguous(memory_format=torch.channels_last):
            return _MaxPool.apply(input)
        return F.max_pool2d(input, 2)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, images: Tensor) -> Tensor:
        height, width = images.shape[2] // 2 * 2, images.shape[3] // 2 * 2
        images_NHWC = images.permute(0, 2, 3, 1)[:, :height, :width]
        rows_NHWC = torch.maximum(images_NHWC[:, 0::2], images_NHWC[:, 1::2])
        ctx.save_for_backward(images, rows_NHWC)
        return torch.maximum(rows_NHWC[:, :, 0::2], rows_NHWC[:, :, 1::2]).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        images, rows_NHWC = ctx.saved_tensors
        height, width = 2 * gradient.shape[2], 2 * gradient.shape[3]
        images_NHWC = images.permute(0, 2, 3, 1)
        gradient_NHWC = gradient.permute(0, 2, 3, 1)
        # Zeros and ones in the gradient's dtype: multiplying by booleans, or choosing by them, is several times slower.
        left = torch.ge(rows_NHWC[:, :, 0::2], rows_NHWC[:, :, 1::2], out=torch.empty_like(gradient_NHWC))
        left *= gradient_NHWC
        rows_gradient = torch.cat((left, gradient_NHWC - left), -1).view(rows_NHWC.shape)
        upper = torch.ge(images_NHWC[:, 0:height:2, :width], images_NHWC[:, 1:height:2, :width],
                         out=torch.empty_like(rows_gradient))  # fmt: skip
        result = torch.empty_like(images_NHWC)
        result[:, height:] = 0  # an odd last row and column belong to no square
        result[:, :height, width:] = 0
        to_upper, to_lower = result[:, 0:height:2, :width], result[:, 1:height:2, :width]
        torch.mul(upper, rows_gradient, out=to_upper)
        torch.sub(rows_gradient, to_upper, out=to_lower)
        return result.permute(0, 3, 1, 2)
