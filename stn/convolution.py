"""A convolution that is fast on CPUs behind a spatial transformer of grayscale images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` without stride and padding: (B, C, H, W) → (B, out_channels, H - k + 1, W - k + 1).

    The first convolution behind a spatial transformer must compute the gradient of its input. PyTorch's CPU kernels pad
    a single input channel to a whole vector of channels for this gradient, which takes longer than the rest of the
    layer. This class computes it as a matrix product over runs of pixels instead.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__(in_channels, out_channels, kernel_size)

    def forward(self, input: Tensor) -> Tensor:
        # Other devices have fast kernels, and an exported program should contain standard operations only.
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
        return input_gradient(gradient, weight), of_weight, of_bias


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient (B, 1, H, W) of the input of a convolution from the gradient (B, O, h, w) of its output.

    ``weight`` has shape (O, 1, k, l). Each row of the output is cut into runs of n pixels. A run depends on k rows of
    the input, with n + l - 1 pixels each. The gradients of these pixels are the n · O gradients of the run times a
    matrix that holds a shifted copy of the weight for each pixel of the run. If the runs do not fit the row exactly,
    the last run is padded with zeros.
    """
    batch, out_channels, height, width = gradient.shape
    _, _, rows, columns = weight.shape
    run = run_length(width, columns)
    runs, seen = -(-width // run), run + columns - 1
    shifted = torch.stack([F.pad(weight[:, 0], (i, run - 1 - i)) for i in range(run)])
    gradient_BHWO = gradient.permute(0, 2, 3, 1)
    if missing := runs * run - width:  # F.pad makes a copy even if there is nothing to pad
        gradient_BHWO = F.pad(gradient_BHWO, (0, 0, 0, missing))
    gradient_of_runs = gradient_BHWO.reshape(batch * height * runs, run * out_channels)
    shares = (gradient_of_runs @ shifted.view(run * out_channels, rows * seen)).view(batch, height, runs, rows, seen)
    # Summing over rows first and over runs second takes fewer and longer additions than summing over both at once.
    strips = torch.zeros(batch, height + rows - 1, runs, seen, dtype=torch.promote_types(shares.dtype, torch.float32))
    for row in range(rows):
        strips[:, row : row + height] += shares[:, :, :, row]
    images = strips.new_zeros(batch, 1, height + rows - 1, runs * run + columns - 1)
    for i in range(runs):
        images[:, 0, :, i * run : i * run + seen] += strips[:, :, i]
    return images[..., : width + columns - 1].to(gradient.dtype)


def run_length(width: int, columns: int) -> int:
    """Choose the number of pixels in a run, for rows of ``width`` pixels and kernels of ``columns`` columns.

    Longer runs have more zeros in the matrix; shorter runs need more additions after the product. A divisor of the
    width needs no padding.
    """
    fitting = (n for n in range(columns, 2 * columns) if width % n == 0)
    return next(fitting, -(-width // max(1, width // columns)))
