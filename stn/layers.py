"""A network's layers with their output shapes, parameters and multiply-adds."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Layer(NamedTuple):
    """One layer: output shape without the batch, learned parameters, multiply-adds for one image."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def layers(network: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of ``network`` in the order in which they run, for one image of ``image_shape`` (C, H, W).

    Multiply-adds are those of convolutions, linear layers, the grid (six for each point) and bilinear sampling
    (four for each value); pooling, activations and biases are not counted.
    """
    table = []
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.grid_sampler_2d: _sampling_flops})
    leaves = {module: name for name, module in network.named_modules() if not list(module.children())}

    def record(module: nn.Module, _inputs, output: torch.Tensor) -> None:
        name = leaves[module]
        flops = sum(counter.get_flop_counts().get(f"{type(network).__name__}.{name}", {}).values())
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


def _sampling_flops(_images, grid_shape, *_args, out_shape, **_kwargs) -> int:
    return 2 * 4 * out_shape[1] * grid_shape[1] * grid_shape[2]
