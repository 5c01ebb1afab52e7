"""A network's layers with their output shapes, parameters and multiply-adds."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stn.transforms import Transform


class Layer(NamedTuple):
    """One layer: output shape without the batch, learned parameters, multiply-adds for one image."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def layers(network: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of ``network`` in the order in which they run, for one image of ``image_shape`` (C, H, W).

    Multiply-adds are those of convolutions, linear layers, the grid's matrix products (twelve for each point of an
    affine one, half of them by zeros) and bilinear sampling (four for each value); pooling, activations and biases are
    not counted.
    """
    table = []
    counted: dict[str, int] = defaultdict(int)  # a series of transformers samples several times
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.grid_sampler_2d: _sampling_flops})
    leaves = dict(_leaves(network))

    def record(module: nn.Module, _inputs, output: torch.Tensor) -> None:
        name = leaves[module]
        so_far = sum(counter.get_flop_counts().get(f"{type(network).__name__}.{name}", {}).values())
        flops, counted[name] = so_far - counted[name], so_far
        parameters = sum(p.numel() for p in module.parameters())
        table.append(Layer(name, type(module).__name__, tuple(output.shape[1:]), parameters, flops // 2))

    hooks = [module.register_forward_hook(record) for module in leaves]
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    try:
        with counter, torch.no_grad():
            network(torch.zeros(1, *image_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    return table


def _leaves(module: nn.Module, name: str = "") -> Iterator[tuple[nn.Module, str]]:
    """What is shown as one layer, with its name: modules without parts, and transforms, which compute with theirs."""
    children = {} if isinstance(module, Transform) else dict(module.named_children())
    if not children:
        yield module, name
    for child, part in children.items():
        yield from _leaves(part, f"{name}.{child}" if name else child)


def _sampling_flops(_images, grid_shape, *_args, out_shape, **_kwargs) -> int:
    return 2 * 4 * out_shape[1] * grid_shape[1] * grid_shape[2]
