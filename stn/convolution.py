"""Convolution that is fast on CPUs behind a spatial transformer of gray images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` without stride and padding: (B, C, H, W) → (B, out_channels, H - k + 1, W - k + 1).

    A first convolution behind a spatial transformer must say how its input should change. For that gradient PyTorch's
    kernels widen one input channel to a whole vector of them, and take longer than for all of the layer's other work.
    Here it is a matrix product for each run of a row's pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__(in_channels, out_channels, kernel_size)

    def forward(self, input: Tensor) -> Tensor:
        # Other devices have good kernels, and a program that is exported shall hold standard operations.
        if input.device.type != "cpu" or not input.requires_grad or self.in_channels > 1:
            return super().forward(input)
        parameters = [input, self.weight, self.bias]
        if torch.is_autocast_enabled("cpu"):
            parameters = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in parameters]
        return _GrayConvolution.apply(*parameters)


class _GrayConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        return F.conv2d(images, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        images, weight = ctx.saved_tensors
        wanted = [False, *ctx.needs_input_grad[1:]]
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient, images, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted
        )
        return gradient_of_gray(gradient, weight), of_weight, of_bias


def gradient_of_gray(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient (B, 1, H, W) of images convolved by ``weight`` (O, 1, k, l), from that of the result, (B, O, h, w).

    Each row of the result is cut into runs of n pixels. A run comes from k rows of the image, each of n + l - 1 pixels,
    so that its n · O numbers by a matrix of the weight, shifted for each pixel, are its share in all of those. Where
    runs do not fit exactly the last is filled up with zeros.
    """
    batch, out_channels, height, width = gradient.shape
    _, _, rows, columns = weight.shape
    run = run_length(width, columns)
    runs, seen = -(-width // run), run + columns - 1
    shifted = torch.stack([F.pad(weight[:, 0], (i, run - 1 - i)) for i in range(run)])
    gradient_BHWO = gradient.permute(0, 2, 3, 1)
    if missing := runs * run - width:  # F.pad copies even where there is nothing to fill up
        gradient_BHWO = F.pad(gradient_BHWO, (0, 0, 0, missing))
    gradient_of_runs = gradient_BHWO.reshape(batch * height * runs, run * out_channels)
    shares = (gradient_of_runs @ shifted.view(run * out_channels, rows * seen)).view(batch, height, runs, rows, seen)
    # Rows first, runs thereafter: fewer and longer sums than for each of both.
    strips = torch.zeros(batch, height + rows - 1, runs, seen, dtype=torch.promote_types(shares.dtype, torch.float32))
    for row in range(rows):
        strips[:, row : row + height] += shares[:, :, :, row]
    images = strips.new_zeros(batch, 1, height + rows - 1, runs * run + columns - 1)
    for i in range(runs):
        images[:, 0, :, i * run : i * run + seen] += strips[:, :, i]
    return images[..., : width + columns - 1].to(gradient.dtype)


def run_length(width: int, columns: int) -> int:
    """How many pixels of a row of ``width`` are taken at once, by a kernel of so many ``columns``.

    Of longer runs more of the matrix is zeros, of shorter ones more is to be summed thereafter; a divisor of the width
    needs no filling up.
    """
    fitting = (n for n in range(columns, 2 * columns) if width % n == 0)
    return next(fitting, -(-width // max(1, width // columns)))
