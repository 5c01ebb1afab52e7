"""Muon, compared with a singular value decomposition, torch.optim.Muon and torch.optim.SGD."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from stn.muon import SCALE, Muon, orthogonalize


@pytest.mark.parametrize("shape", [(10, 75), (50, 500), (32, 160), (30, 30), (500, 50), (10, 1), (1, 7)])
def test_singular_vectors_are_kept_and_singular_values_approach_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ orthogonalize(matrix) @ right.T / max(1.0, shape[0] / shape[1]) ** 0.5
    assert (inside - inside.diag().diag()).abs().max() < 1e-9
    # Five steps bring singular values of at least 1/100 of the largest close to one.
    near = inside.diag()[values > 0.01 * values.max()]
    assert near.min() > 0.3 and near.max() < 1.3
    assert near.median() > 0.65


def test_a_zero_gradient_makes_no_step():
    assert torch.equal(orthogonalize(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_steps_of_matrices_equal_those_of_torchs_muon(shape):
    torch.manual_seed(0)
    start, lr, momentum, decay = torch.randn(shape), 0.1, 0.9, 0.01
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon([{"params": [ours], "orthogonal": True}], lr, momentum, decay)
    reference = torch.optim.Muon(
        [theirs], lr=SCALE * lr, weight_decay=decay / (1 - momentum) / SCALE, momentum=momentum, nesterov=True
    )
    for _ in range(5):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()
    moved = (ours - start).norm()
    assert moved > 0.1
    assert (ours - theirs).norm() < 0.02 * moved  # torch multiplies in bf16


def test_all_other_steps_equal_those_of_sgd():
    torch.manual_seed(0)
    start = torch.randn(4, 3)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon([{"params": [ours]}], 0.1, 0.9, 0.01)
    sgd = torch.optim.SGD([theirs], 0.1, 0.9, weight_decay=0.01, nesterov=True)
    for _ in range(5):
        ours.grad = torch.randn(4, 3)
        theirs.grad = ours.grad.clone()
        muon.step()
        sgd.step()
    torch.testing.assert_close(ours, theirs)


def test_filters_are_rows_of_a_matrix_in_any_memory_layout():
    torch.manual_seed(0)
    filters, gradient = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2)
    ends = []
    for shape, layout in [((5, 3, 2, 2), torch.channels_last), ((5, 12), torch.contiguous_format)]:
        parameter = nn.Parameter(filters.view(shape).clone().to(memory_format=layout))
        parameter.grad = gradient.view(shape).clone()
        Muon([{"params": [parameter], "orthogonal": True}], 0.1).step()
        ends.append(parameter.detach().reshape(5, 12))
    torch.testing.assert_close(*ends)


def test_training_continues_from_a_saved_state():
    torch.manual_seed(0)
    gradients = torch.randn(6, 4, 5)
    weights = {}
    for saved in (False, True):
        parameter, vector = nn.Parameter(torch.ones(4, 5)), nn.Parameter(torch.ones(4, 5))
        groups = [{"params": [parameter], "orthogonal": True}, {"params": [vector]}]
        optimizer = Muon(groups, 0.1, 0.9, 0.01)
        for number, gradient in enumerate(gradients):
            if saved and number == 3:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = Muon([{**group, "params": list(group["params"])} for group in groups], 0.1, 0.9, 0.01)
                optimizer.load_state_dict(state)
            parameter.grad, vector.grad = gradient.clone(), gradient.clone()
            optimizer.step()
        weights[saved] = torch.stack((parameter.detach(), vector.detach()))
    assert torch.equal(weights[True], weights[False])


@pytest.mark.parametrize("orthogonal", [True, False])
def test_a_learning_rate_may_be_a_tensor_and_is_never_read_by_python(orthogonal):
    torch.manual_seed(0)
    start, gradients = torch.randn(6, 20), torch.randn(3, 6, 20)
    ends = []
    for lr in (0.1, torch.tensor(0.1)):
        parameter = nn.Parameter(start.clone())
        muon = Muon([{"params": [parameter], "orthogonal": orthogonal}], 0.1, 0.9, 0.01)
        muon.param_groups[0]["lr"] = lr
        for gradient in gradients:
            parameter.grad = gradient.clone()
            muon.step()
        ends.append(parameter.detach())
    torch.testing.assert_close(ends[0], ends[1])
    with FakeTensorMode():  # its tensors have no values: reading one raises
        parameter = nn.Parameter(torch.zeros(6, 20))
        parameter.grad = torch.zeros(6, 20)
        muon = Muon([{"params": [parameter], "orthogonal": orthogonal}], 0.1, 0.9, 0.01)
        muon.param_groups[0]["lr"] = torch.tensor(0.1)
        muon.step()
