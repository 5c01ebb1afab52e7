"""The captured step: run eagerly or replayed from a trace, it trains as train_epoch does. A GPU test is at the end."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from stn import LocalizationSettings, NetworkSettings, Normalization, Recipe, TransformerSettings, build_network
from stn.alignment_term import AlignmentTerm
from stn.augmentation import Augmentation
from stn.averaging import WeightAverage
from stn.batches import Batches, derive_seed
from stn.captured_step import (
    CAPTURE_OR_PIN,
    CapturedTraining,
    CaptureError,
    capture_graph,
    captured_training,
    reason_against_capture,
    run_eagerly,
)
from stn.distortions import make_distortion
from stn.memory_format import fastest_memory_format
from stn.muon import Muon
from stn.optimizers import make_optimizer
from stn.settings import AlignmentSettings
from stn.static_step import StaticStep
from stn.training import one_cycle, train_epoch

CPU = torch.device("cpu")
LOCALIZATION = LocalizationSettings(channels=(4, 4), kernel_sizes=(5, 3), hidden=(8,))
FRONT = TransformerSettings(localization=LOCALIZATION)
RECIPE = Recipe(
    epochs=2, batch_size=8, lr=0.05, weight_decay=0.01, localization_lr=0.5, theta_penalty=0.01, max_grad_norm=1.0,
    label_smoothing=0.1,
)  # fmt: skip
AUGMENTATIONS = {
    "flip and shift": Augmentation(flip=True, shift=2),
    "crop, colors and mixup": Augmentation(crop=(0.5, 1.0), color_jitter=0.3, mixup=0.4, vertical_flip=True),
    "P": Augmentation(distortion=make_distortion("P")),
    "P grows": Augmentation(distortion=make_distortion("P"), distortion_ramp=1),
    "TC": Augmentation(distortion=make_distortion("TC")),
}


RECIPES = {
    "ema": (replace(RECIPE, ema=0.7), "flip and shift"),
    "itself": (replace(RECIPE, alignment=AlignmentSettings(0.5, "itself", 0.7)), "flip and shift"),
    "upright": (replace(RECIPE, alignment=AlignmentSettings(0.5, "upright", 0.7)), "P"),
}


class Training:
    """A network, its optimizer and its schedule, on random images."""

    def __init__(
        self, recipe: Recipe = RECIPE, augmentation: Augmentation = AUGMENTATIONS["flip and shift"], *,
        dropout: float = 0.2, make: Callable = make_optimizer, device: torch.device = CPU,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (37, 1, 24, 24), dtype=torch.uint8, generator=generator)
        self.batches = Batches(
            images, torch.arange(37) % 4, Normalization([0.5], [0.25]), device, augmentation, classes=4
        )
        torch.manual_seed(0)
        self.network = build_network(NetworkSettings((1, 24, 24), 4, FRONT, dropout=dropout))
        memory_format = fastest_memory_format(device, torch.float32)
        self.network.to(device).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
        self.recipe, self.optimizer = recipe, make(self.network, recipe)
        self.scheduler = one_cycle(self.optimizer, 8, 0.3)
        self.average = WeightAverage(self.network, recipe.ema) if recipe.ema else None
        self.step = StaticStep(
            self.network, self.optimizer, self.batches, recipe, precision=torch.float32, average=self.average
        )
        self.distances: list[Tensor] = []  # the term of each epoch

    def train_eagerly(self, epochs: int = 2) -> Tensor:
        losses = []
        for epoch in range(epochs):
            torch.manual_seed(derive_seed(0, epoch))
            batches, term = self.batches.shuffled(8, 0, epoch), None
            if self.recipe.alignment.weight:
                term = AlignmentTerm(self.network, self.batches, self.recipe).start(0, epoch)
            losses.append(
                train_epoch(
                    self.network, batches, self.optimizer, self.scheduler, self.recipe, precision=torch.float32,
                    average=self.average, alignment=term,
                )
            )  # fmt: skip
            self.distances += [] if term is None else [term.total]
        return torch.cat(losses)

    def train_captured(self, capture: Callable, epochs: int = 2) -> Tensor:
        self.captured = CapturedTraining(self.step, capture)
        losses = []
        for epoch in range(epochs):
            torch.manual_seed(derive_seed(0, epoch))
            losses.append(self.captured.train_epoch(0, epoch, self.scheduler))
            self.distances += [] if self.step.alignment is None else [self.step.alignment.total.clone()]
        return torch.cat(losses)

    def state(self) -> dict[str, Tensor]:
        """The weights, their average, the state of the optimizer, and the distances of the term."""
        states = {f"distance {i}": distance for i, distance in enumerate(self.distances)}
        if self.average is not None:
            average = self.average.state_dict()
            states |= {f"average {name}": value for name, value in average["network"].items()}
            states["averaged steps"] = torch.tensor(average["steps"])
        states |= {f"{i} {name}": value for i, ((_, name), value) in enumerate(self.step.states().items())}
        return self.network.state_dict() | states


def assert_equal(one: Training, other: Training) -> None:
    assert one.state().keys() == other.state().keys()
    for name, tensor in one.state().items():
        assert torch.equal(tensor, other.state()[name]), name
    assert one.scheduler.state_dict() == other.scheduler.state_dict()
    for group, same in zip(one.optimizer.param_groups, other.optimizer.param_groups, strict=True):
        assert {n: v for n, v in group.items() if n != "params"} == {n: v for n, v in same.items() if n != "params"}


def trace(step: StaticStep) -> Callable[[], None]:
    """Record the operations of one step, as a CUDA graph does: numbers of Python are frozen."""
    unused = torch.zeros(1)

    def run(_: Tensor) -> None:
        step.run()

    traced = make_fx(run)(unused)
    return torch.no_grad()(lambda: traced(unused) and None)


def batched_muon(network, recipe):
    """Muon that never reads its learning rates on the CPU."""
    groups = make_optimizer(network, replace(recipe, optimizer="muon")).param_groups
    return Muon(groups, recipe.lr, batched=True)


def batched_sgd(network, recipe):
    """The same without orthogonal steps: SGD."""
    return Muon(make_optimizer(network, recipe).param_groups, recipe.lr, batched=True)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_static_steps_run_eagerly_train_bit_for_bit_as_an_epoch_with_sgd(name):
    expected, static = Training(augmentation=AUGMENTATIONS[name]), Training(augmentation=AUGMENTATIONS[name])
    assert torch.equal(expected.train_eagerly(), static.train_captured(run_eagerly))
    assert_equal(expected, static)


@pytest.mark.parametrize("name", RECIPES)
def test_static_steps_with_an_average_or_a_term_train_bit_for_bit_as_an_epoch(name):
    recipe, augmentation = RECIPES[name]
    expected, static = (Training(recipe, AUGMENTATIONS[augmentation]) for _ in range(2))
    assert torch.equal(expected.train_eagerly(), static.train_captured(run_eagerly))
    assert_equal(expected, static)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_static_steps_of_other_optimizers_are_equal_up_to_rounding(optimizer):
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.01)
    expected, static = Training(recipe), Training(recipe)
    torch.testing.assert_close(expected.train_eagerly(1), static.train_captured(run_eagerly, 1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [batched_sgd, batched_muon])
def test_a_traced_step_replayed_over_two_epochs_trains_as_the_step_run_eagerly(make):
    """A learning rate, a batch or a mask of dropout that the trace has frozen fails it."""
    expected, traced = Training(make=make), Training(make=make)
    assert torch.equal(expected.train_captured(run_eagerly), traced.train_captured(trace))
    assert_equal(expected, traced)
    assert len(set(traced.step.rates.flatten().tolist())) > 4


@pytest.mark.parametrize("name", RECIPES)
def test_a_traced_step_with_an_average_or_a_term_trains_as_the_step_run_eagerly(name):
    """A weight that the trace has frozen fails it."""
    recipe, augmentation = RECIPES[name]
    expected, traced = (Training(recipe, AUGMENTATIONS[augmentation], make=batched_sgd) for _ in range(2))
    assert torch.equal(expected.train_captured(run_eagerly), traced.train_captured(trace))
    assert_equal(expected, traced)


def test_a_frozen_learning_rate_is_noticed():
    """The test above can fail: torch's plain SGD reads the learning rate, which a trace refuses."""
    with pytest.raises(CaptureError):
        Training().train_captured(trace)


def test_addresses_stay_and_a_state_loaded_after_the_capture_is_refused():
    training = Training()
    training.train_captured(run_eagerly, 1)
    before = [tensor.data_ptr() for tensor in training.step.tensors()]
    state = copy.deepcopy(training.optimizer.state_dict())
    training.captured.train_epoch(0, 1, training.scheduler)
    assert [tensor.data_ptr() for tensor in training.step.tensors()] == before
    training.optimizer.load_state_dict(state)
    with pytest.raises(RuntimeError, match="state was loaded after"):
        training.captured.train_epoch(0, 1, training.scheduler)
    assert all(isinstance(group["lr"], float) for group in training.optimizer.param_groups)


@pytest.mark.parametrize("name", [None, *RECIPES])
def test_a_failed_capture_leaves_everything_as_it_was(name):
    recipe, augmentation = RECIPES.get(name, (RECIPE, "flip and shift"))
    failed, untouched = (Training(recipe, AUGMENTATIONS[augmentation]) for _ in range(2))
    torch.manual_seed(3)

    def refuse(_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with pytest.raises(CaptureError, match=r"^operation not permitted when stream is capturing$"):
        CapturedTraining(failed.step, refuse).train_epoch(0, 0, failed.scheduler)
    after = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(3))
    assert torch.equal(failed.train_eagerly(), untouched.train_eagerly())
    assert_equal(failed, untouched)


def test_no_memory_is_pinned_during_a_capture():
    """Another training of this process may be drawing its next epoch."""
    training, held = Training(), []

    def capture(step):
        held.append(CAPTURE_OR_PIN.locked())
        return step.run

    training.train_captured(capture)
    assert held == [True] and not CAPTURE_OR_PIN.locked()


@pytest.mark.parametrize("recipe", [RECIPE, RECIPES["ema"][0]], ids=["without an average", "with one"])
def test_a_training_continues_with_a_new_capture(recipe):
    whole, first, second = Training(recipe), Training(recipe), Training(recipe)
    whole.train_captured(run_eagerly)
    first.train_captured(run_eagerly, 1)
    second.network.load_state_dict(first.network.state_dict())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.scheduler.load_state_dict(first.scheduler.state_dict())
    if first.average is not None and second.average is not None:
        second.average.load_state_dict(copy.deepcopy(first.average.state_dict()))
    torch.manual_seed(derive_seed(0, 1))
    CapturedTraining(second.step, run_eagerly).train_epoch(0, 1, second.scheduler)
    assert_equal(whole, second)


def test_what_cannot_be_captured_is_said():
    cuda = torch.device("cuda")
    assert reason_against_capture(cuda) is None
    assert "only a GPU" in (reason_against_capture(CPU) or "")
    assert "several workers" in (reason_against_capture(cuda, 2) or "")
    training = Training()
    arguments = training.network, training.optimizer, training.batches
    captured, reason = captured_training(*arguments, RECIPE, precision=torch.float32)
    assert captured is None and "only a GPU" in reason
    with pytest.raises(ValueError, match="capture: on given, but only a GPU"):
        captured_training(*arguments, replace(RECIPE, capture="on"), precision=torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a CUDA graph is captured")
@pytest.mark.parametrize(
    ("optimizer", "name"),
    [("sgd", None), ("muon", None), ("adamw", None), ("sgd", "ema"), ("sgd", "itself"), ("muon", "upright")],
)
def test_a_graph_trains_as_eager_steps(optimizer, name):
    cuda, (recipe, augmentation) = torch.device("cuda"), RECIPES.get(name, (RECIPE, "flip and shift"))
    recipe = replace(recipe, optimizer=optimizer, lr=0.01)
    eager, graph = (Training(recipe, AUGMENTATIONS[augmentation], dropout=0.0, device=cuda) for _ in range(2))
    torch.testing.assert_close(eager.train_eagerly(), graph.train_captured(capture_graph), rtol=1e-3, atol=1e-3)
