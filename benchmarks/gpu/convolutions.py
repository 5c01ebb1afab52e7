"""Each convolution of the baseline network, timed by the library's kernels and as a product of matrices.

The kernels of cuDNN take most of a captured step (docs/gpu.md). This phase says whether a product of matrices, which
reads each pixel once for each position of the kernel, is faster.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from stn import NetworkSettings, TransformerSettings, build_network
from stn.cuda_graph import capture_function
from stn.tf32 import without_tf32

Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@without_tf32()
def convolutions(device: torch.device, batch_size: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return µs of one forward and backward pass of each convolution, in fp32, by layout and way."""
    results = {}
    for name, (images, layer) in inputs_of_convolutions(device, batch_size).items():
        shape = "×".join(str(size) for size in (*images.shape[1:], *layer.weight.shape[::2]))
        rows = {}
        for layout, memory_format in (("NHWC", torch.channels_last), ("NCHW", torch.contiguous_format)):
            with torch.no_grad():
                own = images.contiguous(memory_format=memory_format).requires_grad_(images.requires_grad)
                weight = layer.weight.contiguous(memory_format=memory_format).requires_grad_()
            for way, convolve in (("library", F.conv2d), ("matrix product", by_matrix_product)):
                run = partial(forward_and_backward, convolve, own, weight, layer.bias)
                rows[f"{way}, {layout}"] = microseconds(run, device, seconds)
        results[f"{name}, {shape}"] = rows
    return results


def inputs_of_convolutions(device: torch.device, batch_size: int) -> dict[str, tuple[Tensor, nn.Conv2d]]:
    """The convolutions of the baseline network with inputs like those in training, by their names."""
    network = build_network(NetworkSettings((3, 32, 32), 10, TransformerSettings())).to(device)
    found: dict[str, tuple[Tensor, nn.Conv2d]] = {}

    def keep(name: str, layer: nn.Conv2d, arguments: tuple[Tensor]) -> None:
        found[name] = arguments[0].detach().requires_grad_(arguments[0].requires_grad), layer

    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(partial(keep, name))
    network(torch.randn(batch_size, 3, 32, 32, device=device))
    return found


def by_matrix_product(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution (B, C, H, W) → (B, O, h, w) without stride and padding: patches times weights."""
    rows, columns = weight.shape[2:]
    height, width = images.shape[2] - rows + 1, images.shape[3] - columns + 1
    output = weight.flatten(1) @ F.unfold(images, (rows, columns))
    output = output.unflatten(2, (height, width))
    return output if bias is None else output + bias[:, None, None]


def forward_and_backward(convolve: Convolve, images: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Convolve, and compute the gradients that training needs."""
    output = convolve(images, weight, bias)
    wanted = [tensor for tensor in (images, weight, bias) if tensor is not None and tensor.requires_grad]
    torch.autograd.grad(output, wanted, torch.ones_like(output))


def microseconds(run: Callable[[], None], device: torch.device, seconds: float) -> float:
    """The time of one run, repeated by a graph on a GPU."""
    if device.type == "cuda":
        run = capture_function(run)
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return 1e6 * timer.blocked_autorange(min_run_time=seconds).median
