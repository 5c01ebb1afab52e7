"""Tensors that say they are on a GPU and have no values, and a watch for copies between CPU and GPU."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stn import Network, distortions
from stn.batches import Batches, Epoch
from stn.settings import Normalization
from stn.transforms import coordinates, thin_plate_spline

CUDA = torch.device("cuda:0")


class _FusedSteps(TorchDispatchMode):
    """Lets the fused steps of optimizers pass: torch has them for tensors with values only."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return None if func.name().startswith("aten::_fused_") else func(*args, **(kwargs or {}))


class NoHostCopies(TorchDispatchMode):
    """Raises where a training step would copy between CPU and GPU, or would read a number of the GPU.

    A step that does so waits for the GPU, and cannot be captured in a CUDA graph.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.name()
        assert name != "aten::lift_fresh", "numbers of Python became a tensor"
        assert name != "aten::_local_scalar_dense", "a number was read from a tensor"
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        assert len(devices) < 2, f"{name} has tensors on {' and '.join(sorted(devices))}"
        return result


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Tensors that are made inside have no values, and the library keeps them for later calls as it keeps real ones.

    Real tensors of the library are taken for such tensors.
    """
    with ExitStack() as stack:
        for module in (coordinates, thin_plate_spline, distortions):
            stack.enter_context(patch.object(module, "is_real", lambda tensor: True))
        for module, name in ((coordinates, "_constant"), (coordinates, "_of_size"), (distortions, "_spline_on")):
            stack.enter_context(patch.object(module, name, cache(getattr(module, name).__wrapped__)))
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_FusedSteps())
        yield mode


def to_fake_gpu(network: Network, mode: FakeTensorMode) -> Network:
    """Replace all parameters and buffers by ones on a fake GPU; returns the network."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(mode.from_tensor(parameter.detach()).to(CUDA)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, mode.from_tensor(buffer).to(CUDA))
    return network


def fake_batches(real: Batches, drawn: Epoch, normalization: Normalization, mode: FakeTensorMode) -> Batches:
    """Return batches of the same shapes on a fake GPU. ``drawn`` is what ``real`` has drawn for an epoch."""
    images = real.pixels(range(len(real)))

    def on_gpu(tensor: Tensor) -> Tensor:
        return mode.from_tensor(tensor).to(CUDA)

    batches = Batches(
        mode.from_tensor(images),
        mode.from_tensor(real.labels),
        normalization,
        CUDA,
        real.augmentation,
        classes=real.classes,
    )
    on_device = drawn.map(on_gpu)
    batches.draw = lambda seed, epoch: on_device
    return batches
