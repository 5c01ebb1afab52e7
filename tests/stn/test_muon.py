"""Muon, compared with a singular value decomposition, torch.optim.Muon and torch.optim.SGD."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from stn.batched_muon import can_be_stacked
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


SHAPES = [(10, 3, 5, 5), (20, 10, 5, 5), (50, 500), (8, 3, 7, 7), (10, 8, 5, 5), (32, 160), (60, 30)]


def make_muon(batched: bool, dtype: torch.dtype = torch.float32) -> tuple[Muon, list[nn.Parameter]]:
    """Muon for matrices and biases in four groups, as for the baseline network."""
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]
    others = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in [(10,), (50,), (10, 50), (6, 32)]]
    for parameter in matrices:
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    groups = [
        {"params": matrices[:3], "lr": 0.1, "orthogonal": True},
        {"params": others[:2], "lr": 0.1},
        {"params": matrices[3:], "lr": 0.05, "orthogonal": True},
        {"params": others[2:], "lr": 0.05, "weight_decay": 0.0},
    ]
    return Muon(groups, 0.1, 0.9, 0.01, batched=batched), [*matrices, *others]


def set_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        gradient = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.grad = gradient.to(memory_format=torch.preserve_format)


def test_batched_steps_are_as_close_to_exact_ones_as_single_steps():
    exact, expected = make_muon(False, torch.float64)
    starts = [parameter.detach().clone() for parameter in expected]
    ends = {}
    for batched in (False, True):
        muon, parameters = make_muon(batched)
        for step in range(3):
            set_gradients(parameters, step)
            muon.step()
            if not batched:
                set_gradients(expected, step)
                exact.step()
        ends[batched] = parameters
    for i, parameter in enumerate(expected):
        moved = (parameter - starts[i]).norm()
        errors = {batched: ((ends[batched][i].double() - parameter).norm() / moved).item() for batched in ends}
        assert errors[True] < max(1e-5, 3 * errors[False]), errors
    assert make_muon(False)[0]._batched is None and make_muon(True)[0]._batched is not None


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(func.name())
        return func(*args, **(kwargs or {}))


def test_a_batched_step_takes_few_calls_after_the_first():
    muon, parameters = make_muon(True)
    set_gradients(parameters, 0)
    muon.step()
    for group in muon.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    with Count() as count:
        muon.step()
    views = {"slice", "select", "unbind", "view", "expand", "unsqueeze", "transpose", "permute", "alias"}
    names = [name.removeprefix("aten::").partition(".")[0] for name in count.calls if name.startswith("aten::")]
    kernels = [name for name in names if name not in views]
    kernels += ["copy_"] * kernels.count("baddbmm")  # which copies a sum that it must not overwrite
    assert len(kernels) <= 45, " ".join(kernels)


def test_a_batched_step_with_a_missing_gradient_changes_the_others_alone():
    ends = []
    for batched in (False, True):
        muon, parameters = make_muon(batched)
        set_gradients(parameters, 0)
        parameters[1].grad = None
        before = parameters[1].detach().clone()
        muon.step()
        assert torch.equal(parameters[1], before)
        ends.append(parameters)
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_a_loaded_state_continues_batched_steps():
    ends = []
    for interrupted in (False, True):
        muon, parameters = make_muon(True)
        for step in range(4):
            if interrupted and step == 2:
                state, weights = copy.deepcopy(muon.state_dict()), [parameter.detach() for parameter in parameters]
                muon, parameters = make_muon(True)
                for parameter, weight in zip(parameters, weights, strict=True):
                    parameter.data.copy_(weight)
                muon.load_state_dict(state)
            set_gradients(parameters, step)
            muon.step()
        ends.append(parameters)
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.parametrize(("shapes", "small"), [([(50, 500)] * 160, True), ([(50, 500)] * 161, False), ([], True)])
def test_matrices_are_stacked_only_if_the_padded_stack_is_small(shapes, small):
    """Matrices of fewer rows or columns count as the largest ones."""
    parameters = [nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes]
    assert can_be_stacked([{"orthogonal": True, "params": parameters}]) is small
    if shapes:
        mixed = [parameters[0], *(nn.Parameter(torch.empty(1, 2, device="meta")) for _ in parameters[1:])]
        assert can_be_stacked([{"orthogonal": True, "params": mixed}]) is small
