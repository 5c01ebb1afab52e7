"""The fast max-pool, compared with PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from stn.pooling import MaxPool2x2, _MaxPool


def images_without_ties(shape: tuple[int, ...]) -> torch.Tensor:
    """Make images of integers below 256, which bf16 represents exactly, all different within each 2×2 square."""
    height, width = shape[2:]
    place = 2 * (torch.arange(height)[:, None] % 2) + torch.arange(width) % 2
    return 4 * torch.randint(64, shape) + (place + torch.randint(4, (*shape[:2], 1, 1))) % 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 8, 26, 26), (2, 10, 9, 9), (1, 3, 2, 7), (4, 1, 5, 2), (0, 4, 6, 6)])
def test_values_and_gradients_equal_those_of_torch(shape, layout, dtype):
    images = images_without_ties(shape).to(dtype).to(memory_format=layout).requires_grad_()
    ours, theirs = MaxPool2x2()(images), F.max_pool2d(images, 2)
    assert torch.equal(ours, theirs)
    upstream = torch.rand(theirs.shape).to(dtype)
    ours, theirs = (torch.autograd.grad(output, images, upstream)[0] for output in (ours, theirs))
    assert torch.equal(ours, theirs)


def test_the_fast_path_is_used_only_if_the_input_has_a_gradient():
    images = torch.rand(2, 10, 8, 8).to(memory_format=torch.channels_last)
    taken = {}
    for trains in (True, False):
        output = MaxPool2x2()(images.clone().requires_grad_(trains))
        taken[trains] = "_MaxPool" in type(output.grad_fn).__name__
    assert taken == {True: True, False: False}


def test_the_gradient_equals_finite_differences():
    images = torch.randperm(2 * 3 * 5 * 6).view(2, 3, 5, 6).double().to(memory_format=torch.channels_last)
    assert torch.autograd.gradcheck(_MaxPool.apply, images.requires_grad_())


def test_one_of_several_equal_values_receives_the_gradient():
    images = torch.zeros(1, 2, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    MaxPool2x2()(images).sum().backward()
    assert images.grad is not None
    assert images.grad.unique().tolist() == [0, 1]
    assert images.grad.sum() == 8, "one pixel of each square"
