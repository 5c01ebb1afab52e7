"""Several trainers at once: side by side where their steps are captured, with the results of each alone."""

import pytest
import torch

from pipelines.training import trainer as trainer_module
from pipelines.training.several_trainers import train_epochs
from pipelines.training.trainer import Trainer, TrainingData
from stn import NetworkSettings, Normalization, Recipe, TransformerSettings, build_network
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.captured_step import CapturedTraining, run_eagerly
from stn.settings import AlignmentSettings
from stn.static_step import StaticStep
from stn.training import NotFiniteError

CPU = torch.device("cpu")
EPOCHS = 3


@pytest.fixture(autouse=True)
def captured(monkeypatch):
    """Trainers have a static step, which the CPU runs eagerly."""

    def static(*arguments, world_size, **options):
        return CapturedTraining(StaticStep(*arguments, **options), run_eagerly), ""

    monkeypatch.setattr(trainer_module, "captured_training", static)


def make_trainers(dropout: float = 0.0, **recipe) -> list[Trainer]:
    """Trainers of the seeds 0 and 1 on the same random images."""
    images = torch.randint(256, (24, 1, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = TrainingData(*(
        Batches(images, torch.arange(24) % 3, Normalization([0.5], [0.2]), CPU, augmentation, classes=3)
        for augmentation in (Augmentation(flip=True, shift=1), Augmentation())
    ))  # fmt: skip
    settings = Recipe(EPOCHS, batch_size=8, lr=0.01, **recipe)
    network = NetworkSettings((1, 20, 20), 3, TransformerSettings(), dropout=dropout)
    return [
        Trainer(lambda: build_network(network), settings, data, seed, precision=torch.float32) for seed in (0, 1)
    ]  # fmt: skip


def train(trainers: list[Trainer], together: bool) -> list[tuple[int, int]]:
    """Train to the end; returns the seed and the number of each step, in the order in which they were done."""
    order = []
    reporters = [lambda step, trainer=trainer: order.append((trainer.seed, step)) for trainer in trainers]
    groups = [slice(0, 2)] if together else [slice(0, 1), slice(1, 2)]
    for group in groups:
        for _ in range(EPOCHS):
            outcomes = train_epochs(trainers[group], reporters[group], (NotFiniteError,))
            assert outcomes == [trainer.history[-1] for trainer in trainers[group]]
    return order


def assert_equal(first: list[Trainer], second: list[Trainer]) -> None:
    for one, other in zip(first, second, strict=True):
        for name, tensor in one.weights().items():
            assert torch.equal(tensor, other.weights()[name]), (one.seed, name)
        for entry, same in zip(one.history, other.history, strict=True):
            clocks = ("timestamp", "images_per_second", "epoch_seconds")
            assert entry | {name: same[name] for name in clocks} == same
        assert one.scheduler.state_dict() == other.scheduler.state_dict()


def test_after_its_first_epoch_each_seed_takes_every_second_step_and_trains_what_it_trains_alone():
    alone, together = make_trainers(), make_trainers()
    train(alone, together=False)
    order = train(together, together=True)
    own = [(seed, step) for seed in (0, 1) for step in (1, 2, 3)]
    in_turn = [(seed, step) for step in (1, 2, 3) for seed in (0, 1)]
    assert order == own + in_turn * (EPOCHS - 1)
    assert_equal(alone, together)
    assert together[0].history[-1]["train_loss"] != together[1].history[-1]["train_loss"]


def test_each_seed_has_an_average_and_a_term_of_its_own():
    recipe = {"ema": 0.7, "alignment": AlignmentSettings(0.5, "itself", 0.5)}
    alone, together = make_trainers(**recipe), make_trainers(**recipe)
    train(alone, together=False)
    train(together, together=True)
    assert_equal(alone, together)
    eager, history = make_trainers(**recipe)[0], together[0].history
    eager.captured = None
    for _ in range(EPOCHS):
        eager.train_epoch()
    for entry, same in zip(eager.history, history, strict=True):
        assert entry["alignment_loss"] == pytest.approx(same["alignment_loss"], rel=1e-3)
        assert entry["validation_loss"] == pytest.approx(same["validation_loss"], rel=1e-3)
    assert eager.average is not None and together[0].average is not None
    assert eager.average.steps == together[0].average.steps == 3 * EPOCHS


def test_with_dropout_whole_epochs_alternate():
    """Both seeds would draw from torch's one generator in turn."""
    alone, together = make_trainers(dropout=0.5), make_trainers(dropout=0.5)
    train(alone, together=False)
    order = train(together, together=True)
    assert order == [(seed, step) for seed in (0, 1) for step in (1, 2, 3)] * EPOCHS
    assert_equal(alone, together)


@pytest.mark.parametrize("broken", [0, 1])
def test_a_loss_that_is_not_finite_leaves_the_other_seed_alone(broken):
    alone, together = make_trainers(), make_trainers()
    for trainers in (alone, together):
        train_epochs(trainers, [None, None], (NotFiniteError,))
    with torch.no_grad():
        next(together[broken].network.classifier.parameters()).fill_(torch.nan)
    outcomes = train_epochs(together, [None, None], (NotFiniteError,))
    assert isinstance(outcomes[broken], NotFiniteError) and "at step 1" in str(outcomes[broken])
    alone[1 - broken].train_epoch()
    assert_equal([alone[1 - broken]], [together[1 - broken]])
