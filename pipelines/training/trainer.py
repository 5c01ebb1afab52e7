"""Trains one network with one seed, an epoch at a time, in a training worker or a tuning trial.

Imports only torch, numpy and the library ``stn``. Random numbers are derived from (seed, epoch, rank) at the start of
each epoch, so that a trainer whose state was saved and loaded continues as if it had not been interrupted.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from pipelines.training.ranks import all_reduce, average_buffers, distribute, gather_rows
from stn.alignment_term import AlignmentTerm
from stn.averaging import WeightAverage
from stn.batches import Batches, limit_batch
from stn.captured_step import CaptureError, captured_training
from stn.class_scores import class_counts, class_scores
from stn.class_weights import balanced_weights
from stn.classifiers import INPUT, Network
from stn.memory_format import fastest_memory_format
from stn.optimizers import make_optimizer
from stn.seeds import derive_seed
from stn.settings import Recipe
from stn.theta_watch import watch_theta
from stn.training import NotFiniteError, check_finite, make_schedule, metric_sums, predict, train_epoch

WATCHED = 10  # number of validation images whose θ is kept after each epoch
VALIDATION_BATCH_SIZE = 1000


class TrainingData(NamedTuple):
    """Training and validation images on the device of the network."""

    training: Batches
    validation: Batches


class Trainer:
    """A network with its optimizer, schedule and history, on one of ``world_size`` ranks.

    Args:
        make_network: builds the network. Called once, after torch's random state is set from ``seed``.
        recipe: how the network is trained.
        data: images for training and validation.
        seed: determines weights, order of the images, augmentation and dropout.
        precision: the dtype of autocast.

    Attributes:
        history: metrics of each finished epoch; with a transformer, also those of :mod:`stn.theta_watch`, and
            ``alignment_loss``, the mean of the term ``alignment`` of the recipe without its weight.
        watched: indices (E,) of a few validation images, see :data:`WATCHED`.
        theta_history: θ (E, P) of these images after each epoch, on the CPU, by the transformer in front of the
            classifier. Empty without one.
        captured, reason_against_capture: what repeats a captured step on a GPU, or None and the reason.
    """

    def __init__(
        self, make_network: Callable[[], Network], recipe: Recipe, data: TrainingData, seed: int, *,
        precision: torch.dtype, rank: int = 0, world_size: int = 1,
    ):  # fmt: skip
        self.recipe, self.seed, self.precision = recipe, seed, precision
        self.training, self.validation = data
        self.rank, self.world_size = rank, world_size
        torch.manual_seed(seed)
        self.network = make_network()
        memory_format = fastest_memory_format(self.training.device, precision)
        self.network.to(self.training.device).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
        self.average = WeightAverage(self.network, recipe.ema) if recipe.ema else None
        self.optimizer = make_optimizer(self.network, recipe)
        self.class_weights = class_weights(recipe.class_weights, self.training)
        self.steps = len(self.training) // recipe.batch_size
        self.scheduler = make_schedule(recipe, self.optimizer, self.steps * recipe.epochs)
        self.history: list[dict[str, float]] = []
        self.watched = spread_over_classes(self.validation.labels.cpu(), WATCHED)
        self.theta_history: list[torch.Tensor] = []
        self.theta_watch = watch_theta(self.network, self.validation, self.watched.tolist())
        self.model = self.network if world_size == 1 else distribute(self.network, self.training.device)
        self.captured, self.reason_against_capture = captured_training(
            self.network, self.optimizer, self.training, recipe, precision=precision,
            class_weights=self.class_weights, average=self.average, world_size=world_size,
        )  # fmt: skip

    @property
    def result(self) -> Network:
        """The network that is validated and kept: the averaged one if the recipe has ``ema``."""
        return self.network if self.average is None else self.average.network

    @property
    def done(self) -> int:
        """The number of finished epochs."""
        return len(self.history)

    @property
    def epochs(self) -> int:
        """The number of epochs of the whole training."""
        return self.recipe.epochs

    def train_epoch(self, on_step: Callable[[int], None] | None = None) -> dict[str, float]:
        """Train one epoch and evaluate the validation images. Returns the metrics and appends them to ``history``.

        Args:
            on_step: called after each step with the number of steps done in this epoch.

        Raises:
            NotFiniteError: a loss is infinite or NaN. All ranks raise it.
        """
        started = time.perf_counter()
        trained = train_batches(self, self.done, on_step)
        return finish_epoch(self, trained, time.perf_counter() - started)

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs to continue from here."""
        average = {} if self.average is None else {"average": self.average.state_dict()}
        return average | {
            "epoch": self.done,
            "history": self.history,
            "theta_history": self.theta_history,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict`. Refused after the first epoch of a captured training."""
        assert self.captured is None or self.captured.replay is None, "the captured step has other addresses"
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history, self.theta_history = state["history"], state["theta_history"]

    def weights(self) -> dict[str, torch.Tensor]:
        """The tensors of :attr:`result`, on the CPU and contiguous."""
        return {name: tensor.cpu().contiguous() for name, tensor in self.result.state_dict().items()}


def train_batches(trainer: Trainer, epoch: int, on_step: Callable[[int], None] | None) -> dict[str, float]:
    """Train on the batches of one epoch; returns the means of its losses over all ranks."""
    torch.manual_seed(derive_seed(trainer.seed, epoch, trainer.rank))
    losses, alignment = replay_batches(trainer, epoch, on_step) or train_eagerly(trainer, epoch, on_step)
    return end_steps(trainer, losses, alignment)


def end_steps(trainer: Trainer, losses: torch.Tensor, alignment: AlignmentTerm | None) -> dict[str, float]:
    """Average buffers over all ranks after the steps of an epoch; returns the means of its losses over all ranks.

    Args:
        losses: of each step, on this rank (steps,).

    Raises:
        NotFiniteError: a loss is infinite or NaN.
    """
    losses = all_reduce(losses) / trainer.world_size
    check_finite(losses)
    average_buffers(trainer.network, trainer.world_size)
    if trainer.average is not None:
        average_buffers(trainer.average.network, trainer.world_size)
    trained = {"train_loss": losses.mean().item()}
    if alignment is not None:
        trained["alignment_loss"] = all_reduce(alignment.total).item() / (trainer.steps * trainer.recipe.batch_size)
    return trained


def finish_epoch(trainer: Trainer, trained: dict[str, float], seconds: float) -> dict[str, float]:
    """Evaluate the validation images after an epoch. Returns the metrics and appends them to ``history``.

    Args:
        trained: means of the epoch's losses.
        seconds: how long the steps of the epoch took.

    Raises:
        NotFiniteError: the validation loss is infinite or NaN. All ranks raise it.
    """
    epoch = trainer.done
    means, thetas = validate(trainer.result, trainer.validation, trainer.precision, trainer.rank, trainer.world_size)
    check_validation(means, epoch)
    metrics = {
        "epoch": epoch + 1,
        "timestamp": int(time.time() * 1000),
        **trained,
        "lr": trainer.scheduler.get_last_lr()[0],
        "images_per_second": trainer.steps * trainer.recipe.batch_size / seconds,
        "epoch_seconds": seconds,
    } | means
    if trainer.theta_watch is not None:
        theta = gather_rows(thetas[INPUT], torch.arange(len(trainer.validation)), trainer.rank, trainer.world_size)
        trainer.theta_history.append(theta[trainer.watched])
        metrics |= trainer.theta_watch.measure(trainer.result, theta)
    trainer.history.append(metrics)
    return metrics


def replay_batches(
    trainer: Trainer, epoch: int, on_step: Callable[[int], None] | None
) -> tuple[torch.Tensor, AlignmentTerm | None] | None:
    """Train one epoch by the captured step, as :func:`train_eagerly` does; None if the step is not captured.

    Raises:
        ValueError: ``capture`` is ``on``, and the step cannot be captured.
    """
    if trainer.captured is None:
        return None
    try:
        losses = trainer.captured.train_epoch(trainer.seed, epoch, trainer.scheduler, on_step)
        return losses, trainer.captured.step.alignment
    except CaptureError as error:
        if trainer.recipe.capture == "on":
            raise ValueError(f"capture: on given, but the step cannot be captured: {error}") from error
        trainer.captured, trainer.reason_against_capture = None, str(error)
        return None


def train_eagerly(
    trainer: Trainer, epoch: int, on_step: Callable[[int], None] | None
) -> tuple[torch.Tensor, AlignmentTerm | None]:
    """Train one epoch step by step; returns its losses (steps,) and the term of the epoch."""
    batches = trainer.training.shuffled(
        trainer.recipe.batch_size, trainer.seed, epoch, trainer.rank, trainer.world_size
    )
    alignment = term_of_epoch(trainer, epoch)
    losses = train_epoch(
        trainer.model, batches, trainer.optimizer, trainer.scheduler, trainer.recipe,
        precision=trainer.precision, world_size=trainer.world_size, average=trainer.average, alignment=alignment,
        class_weights=trainer.class_weights, on_step=on_step,
    )  # fmt: skip
    return losses, alignment


def class_weights(setting: str, training: Batches) -> torch.Tensor | None:
    """The weight of each class (classes,) by ``train.class_weights``, from the training images; None: no weights.

    Raises:
        ValueError: the setting is unknown.
    """
    if setting not in ("none", "balanced"):
        raise ValueError(f"class_weights: {setting!r} is not one of none, balanced")
    return balanced_weights(training.labels, training.classes) if setting == "balanced" else None


def term_of_epoch(trainer: Trainer, epoch: int) -> AlignmentTerm | None:
    """The term of an epoch for undone motions; None if it has no weight or the network no transformer in front."""
    if not trainer.recipe.alignment.weight or trainer.network.transformer is None:
        return None
    return AlignmentTerm(
        trainer.network, trainer.training, trainer.recipe, rank=trainer.rank, world_size=trainer.world_size,
        all_reduce=all_reduce,
    ).start(trainer.seed, epoch)  # fmt: skip


def validate(
    network: Network, images: Batches, precision: torch.dtype, rank: int, world_size: int
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Means of the metrics over all ranks' images, and θ (n, P) of this rank's images by place."""
    batches = images.ordered(limit_batch(images, VALIDATION_BATCH_SIZE), rank, world_size)
    outputs = predict(network, batches, precision)
    sums = metric_sums(network, images, outputs)
    total = dict(zip(sums, all_reduce(torch.stack(list(sums.values()))).tolist(), strict=True))
    count = total.pop("count")
    means = {
        name if name.startswith("theta_") else f"validation_{name}": value / count for name, value in total.items()
    }
    scores = class_scores(all_reduce(class_counts(outputs.logits.argmax(1), outputs.labels, outputs.logits.shape[1])))
    means["validation_balanced_accuracy"] = scores.recall.nanmean().item()
    means["validation_macro_f1"] = scores.f1.nanmean().item()
    return means, outputs.thetas


def check_validation(means: dict[str, float], epoch: int) -> None:
    """Check that the validation loss is finite. Training losses do not show the effect of the last step.

    Raises:
        NotFiniteError: it is not.
    """
    if not math.isfinite(loss := means["validation_loss"]):
        raise NotFiniteError(f"the validation loss became {loss} after epoch {epoch + 1}")


def spread_over_classes(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Choose ``count`` images from their labels (N,); returns their indices.

    The first image of each class comes first, then the second of each class, and so on. If there are more classes than
    ``count``, one image is taken from each of ``count`` evenly spaced classes.
    """
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    index_within_class = torch.arange(len(labels)) - starts
    in_turn = order[index_within_class.argsort(stable=True)]
    classes = int((counts > 0).sum())
    if classes > count:
        return in_turn[torch.linspace(0, classes - 1, count).round().long()]
    return in_turn[:count]
