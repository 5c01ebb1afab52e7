"""One network being trained with one seed, an epoch at a time: what a training worker and a tuning trial share.

Random numbers are drawn anew from (seed, epoch, rank) at each epoch's start, so a fit that was saved and loaded goes
the same way as one that was not.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from stn.batches import Augmentation, Batches, derive_seed
from stn.classifiers import build_network
from stn.distortions import make_distortion
from stn.training import NotFiniteError, check_finite, make_optimizer, metric_sums, one_cycle, predict, train_epoch

WATCHED = 10  # validation images whose θ is kept after each epoch


def make_batches(
    arrays: dict[str, np.ndarray], meta: dict, recipe: dict[str, Any], device: torch.device
) -> tuple[Batches, Batches]:
    """Training and validation images, of which the batches hold copies of their own, on ``device``."""
    distortion = make_distortion(**meta["distortion"])
    augmentations = {"train": Augmentation(recipe["flip"], recipe["shift"], distortion), "validation": Augmentation()}
    data = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    training, validation = (
        Batches(data[f"{split}_images"], data[f"{split}_labels"], meta["mean"], meta["std"], device, augmentation)
        for split, augmentation in augmentations.items()
    )
    return training, validation


class Trainer:
    """A network, its optimizer, schedule and history; as one of ``world_size`` ranks where there are several.

    Args:
        recipe: the section ``train`` of params.yaml, as a dictionary.
        variant: a variant's file, as a dictionary.
        meta: meta.json of the prepared data.
        training, validation: of the same device, on which the network is trained.
        seed: of the weights, the order of the images, their augmentation and dropout.
        precision: the dtype of autocast.

    Beside ``history``, which has an entry for each epoch, ``course`` has the θ (E, P) of the validation images
    ``watched`` (E,) after each epoch, on the CPU; it stays empty without a transformer.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        variant: dict[str, Any],
        meta: dict,
        training: Batches,
        validation: Batches,
        seed: int,
        precision: torch.dtype,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.recipe, self.seed, self.precision = recipe, seed, precision
        self.training, self.validation = training, validation
        self.rank, self.world_size = rank, world_size
        self.theta_penalty = variant["theta_penalty"]
        torch.manual_seed(seed)
        network = build_network(
            meta["image_shape"], len(meta["classes"]), variant["transformer"], recipe["dropout"], variant["classifier"]
        )
        network.to(training.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.network = network
        self.optimizer = make_optimizer(
            network, recipe["lr"], recipe["momentum"], recipe["weight_decay"],
            variant["localization_lr"], variant["localization_weight_decay"], recipe["optimizer"],
        )  # fmt: skip
        self.epochs = recipe["epochs"]
        self.steps = len(training) // recipe["batch_size"]
        self.scheduler = one_cycle(self.optimizer, self.steps * self.epochs, recipe["warmup"])
        self.history: list[dict[str, float]] = []
        self.watched = spread_over_classes(validation.labels.cpu(), WATCHED)
        self.course: list[torch.Tensor] = []
        self.model = network if world_size == 1 else DistributedDataParallel(network)

    @property
    def done(self) -> int:
        """How many epochs are finished."""
        return len(self.history)

    def epoch(self, on_step: Callable[[int], None] | None = None) -> dict[str, float]:
        """Train one more epoch and evaluate it on the validation images; its metrics, also kept in ``history``.

        Raises:
            NotFiniteError: on every rank alike.
        """
        batch_size, epoch, started = self.recipe["batch_size"], self.done, time.perf_counter()
        torch.manual_seed(derive_seed(self.seed, epoch, self.rank))
        batches = self.training.shuffled(batch_size, self.seed, epoch, self.rank, self.world_size)
        losses = train_epoch(
            self.model, batches, batch_size, self.optimizer, self.scheduler, self.precision, self.world_size,
            self.recipe["max_grad_norm"], self.theta_penalty, on_step,
        )  # fmt: skip
        losses = all_reduce(losses) / self.world_size
        check_finite(losses)
        seconds = time.perf_counter() - started
        outputs = predict(self.network, self.validation.ordered(1000, self.rank, self.world_size), self.precision)
        sums = metric_sums(self.network, self.validation, outputs)
        total = dict(zip(sums, all_reduce(torch.stack(list(sums.values()))).tolist(), strict=True))
        if not math.isfinite(total["loss"]):  # the last step's weights, which no training loss has seen yet
            raise NotFiniteError(f"the validation loss became {total['loss']} after epoch {epoch + 1}")
        entry = {
            "epoch": epoch + 1,
            "timestamp": int(time.time() * 1000),
            "train_loss": losses.mean().item(),
            "lr": self.scheduler.get_last_lr()[0],
            "images_per_second": self.steps * batch_size / seconds,
            "epoch_seconds": seconds,
        } | {
            name if name.startswith("theta_") else f"validation_{name}": value / total["count"]
            for name, value in total.items()
            if name != "count"
        }
        self.history.append(entry)
        if outputs[2] is not None:
            self.course.append(self._of_watched(outputs[2]))
        return entry

    def _of_watched(self, theta: torch.Tensor) -> torch.Tensor:
        """The rows of the watched images, (E, P), on every rank; ``theta`` has those of this rank's share."""
        mine = self.watched % self.world_size == self.rank  # as Batches.ordered deals them out
        rows = torch.zeros(len(self.watched), theta.shape[1], device=theta.device)
        rows[mine] = theta[self.watched[mine] // self.world_size]
        return all_reduce(rows).cpu()

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on from here."""
        return {
            "epoch": self.done, "history": self.history, "course": self.course, "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state`` was taken."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history, self.course = state["history"], state["course"]

    def weights(self) -> dict[str, torch.Tensor]:
        """The network's tensors on the CPU."""
        return {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}


def spread_over_classes(labels: torch.Tensor, count: int) -> torch.Tensor:
    """The indices of ``count`` images, given their labels (N,): the first of each class in turn, then the second, and
    so on; of more classes than that, classes evenly apart.
    """
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    turn = torch.arange(len(labels)) - starts  # the how-manyth of its class each image of ``order`` is
    in_turn = order[turn.argsort(stable=True)]
    classes = int((counts > 0).sum())
    if classes > count:
        return in_turn[torch.linspace(0, classes - 1, count).round().long()]
    return in_turn[:count]


def all_reduce(values: torch.Tensor) -> torch.Tensor:
    """The sum of ``values`` over the ranks."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values
