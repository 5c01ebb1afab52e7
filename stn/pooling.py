"""2×2 max-pooling that is fast on CPUs for few channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class MaxPool2x2(nn.MaxPool2d):
    """``nn.MaxPool2d(2)``: (B, C, H, W) → (B, C, H // 2, W // 2).

    PyTorch's kernel for channels-last tensors processes one pixel at a time, in whole vectors of channels only. With 10
    channels none of the work is vectorized. This class compares two whole rows, then two columns. Its backward pass
    repeats the comparisons instead of storing 64-bit indices. Among equal values, the left one receives the gradient,
    and among equal values of a column the upper one.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Tensor) -> Tensor:
        # Other layouts and devices have fast kernels, and an exported program should contain standard operations only.
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
        # Zeros and ones in the dtype of the gradient: multiplying by booleans, or selecting with them, is several times
        # slower.
        left = torch.ge(rows_NHWC[:, :, 0::2], rows_NHWC[:, :, 1::2], out=torch.empty_like(gradient_NHWC))
        left *= gradient_NHWC
        rows_gradient = torch.cat((left, gradient_NHWC - left), -1).view(rows_NHWC.shape)
        upper = torch.ge(images_NHWC[:, 0:height:2, :width], images_NHWC[:, 1:height:2, :width],
                         out=torch.empty_like(rows_gradient))  # fmt: skip
        result = torch.empty_like(images_NHWC)
        result[:, height:] = 0  # an odd last row or column belongs to no square
        result[:, :height, width:] = 0
        to_upper, to_lower = result[:, 0:height:2, :width], result[:, 1:height:2, :width]
        torch.mul(upper, rows_gradient, out=to_upper)
        torch.sub(rows_gradient, to_upper, out=to_lower)
        return result.permute(0, 3, 1, 2)
