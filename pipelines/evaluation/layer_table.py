"""Layers of a network with output shape, number of parameters and multiply-adds."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from stn.transforms import Transform

# The counter is excepted from compilation, for which torch would import torch._dynamo at its first use, for a second.
_counts = flop_counter._FlopCounterMode.__torch_dispatch__
flop_counter._FlopCounterMode.__torch_dispatch__ = getattr(_counts, "__wrapped__", _counts)


class Layer(NamedTuple):
    """One executed layer: output shape without the batch, learned parameters, multiply-adds for one image."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def layers(network: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """List the layers of ``network`` in execution order, for one image of ``image_shape`` (C, H, W).

    Multiply-adds are counted for convolutions, linear layers, the matrix products of the sampling grid (12 per point of
    an affine grid, half of them with zeros) and bilinear sampling (4 per sampled value). Pooling, activations and
    biases are not counted. The row ``(others)`` has the parameters and multiply-adds that belong to no layer, such as
    position embeddings and the matrix products of attention.
    """
    table: list[Layer] = []
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.grid_sampler_2d: _sampling_flops})
    names = dict(_leaves(network))
    counted = 0  # FLOPs of the layers in the table
    starts: list[tuple[int, int]] = []  # of the layers that are running: all FLOPs, and those in the table

    def start_layer(_module: nn.Module, _inputs) -> None:
        starts.append((counter.get_total_flops(), counted))

    def add_layer(module: nn.Module, _inputs, output: torch.Tensor) -> None:
        nonlocal counted
        before, counted_before = starts.pop()
        # Shared layers run inside another layer, and are in the table already.
        flops = counter.get_total_flops() - before - (counted - counted_before)
        counted += flops
        name = names[module]
        # A layer that runs twice has its weights once.
        new = all(layer.name != name for layer in table)
        parameters = sum(p.numel() for p in module.parameters()) if new else 0
        shape = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else ()
        table.append(Layer(name, type(module).__name__, shape, parameters, flops // 2))

    hooks = [module.register_forward_pre_hook(start_layer) for module in names]
    hooks += [module.register_forward_hook(add_layer) for module in names]
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    try:
        # The counter does not know the fused attention of CPUs.
        with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            network(torch.zeros(1, *image_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    parameters = sum(p.numel() for p in network.parameters()) - sum(layer.parameters for layer in table)
    multiply_adds = (counter.get_total_flops() - counted) // 2
    if parameters or multiply_adds:
        table.append(Layer("(others)", "", (), parameters, multiply_adds))
    return table


def group_layers(rows: Sequence[Layer], most: int) -> list[Layer]:
    """Merge rows with the same beginning of their names, as few as possible, until there are at most ``most``.

    A merged row has the output shape of its last layer. Names are never cut to less than two parts.
    """
    depth = max(row.name.count(".") for row in rows) + 1
    while depth > 2 and len(_groups(rows, depth)) > most:
        depth -= 1
    merged = []
    for group in _groups(rows, depth):
        name = ".".join(group[0].name.split(".")[:depth])
        parameters, multiply_adds = sum(row.parameters for row in group), sum(row.multiply_adds for row in group)
        whole = Layer(name, f"{len(group)} layers", group[-1].output, parameters, multiply_adds)
        merged.append(group[0] if len(group) == 1 else whole)
    return merged


def _groups(rows: Sequence[Layer], depth: int) -> list[list[Layer]]:
    """Neighbors in ``rows`` with the same first ``depth`` parts of their names."""
    return [list(group) for _, group in groupby(rows, key=lambda row: row.name.split(".")[:depth])]


def _leaves(module: nn.Module, name: str = "") -> Iterator[tuple[nn.Module, str]]:
    """Yield each module without children and its dotted name.

    A transform counts as a leaf: it computes with its children in one piece.
    """
    children = {} if isinstance(module, Transform) else dict(module.named_children())
    if not children:
        yield module, name
    for child_name, child in children.items():
        yield from _leaves(child, f"{name}.{child_name}" if name else child_name)


def _sampling_flops(_images, grid_shape, *_args, out_shape, **_kwargs) -> int:
    """FLOPs of ``grid_sample``: 4 multiply-adds per sampled value; ``grid_shape`` is (B, h, w, 2)."""
    return 2 * 4 * out_shape[1] * grid_shape[1] * grid_shape[2]
