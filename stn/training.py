"""Training and evaluation: precision, schedule, one epoch, predictions and metrics.

This code runs inside training workers but does not depend on them.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from stn.alignment_term import AlignmentTerm
from stn.averaging import WeightAverage
from stn.batches import Batches
from stn.class_weights import weighted_cross_entropy
from stn.classifiers import INPUT, Network
from stn.memory_format import in_fastest_memory_format
from stn.settings import Recipe
from stn.tf32 import without_tf32
from stn.transforms.coordinates import constant


class NotFiniteError(RuntimeError):
    """The loss is infinite or NaN."""


def one_cycle(optimizer: Optimizer, steps: int, warmup: float) -> LambdaLR:
    """Make a schedule that raises the learning rate linearly, then lowers it to zero along a cosine.

    The learning rate rises during the share ``warmup`` of all steps. The schedule follows Smith and Topin,
    "Super-Convergence" (2018), section 3, without the momentum cycle.
    """
    peak = warmup * steps

    def factor(step: int) -> float:
        if step < peak:
            return (step + 1) / (peak + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - peak) / max(1.0, steps - peak))))

    return LambdaLR(optimizer, factor)


def thirds(optimizer: Optimizer, steps: int) -> LambdaLR:
    """Make a schedule that lowers the learning rate to a tenth after each third of the steps.

    It is that of Jaderberg et al., "Spatial Transformer Networks" (2015), appendix A.4, where a third has 50,000 steps.
    """
    third = steps / 3
    return LambdaLR(optimizer, lambda step: 0.1 ** min(2, int(step / third)))


def make_schedule(recipe: Recipe, optimizer: Optimizer, steps: int) -> LambdaLR:
    """Make the schedule of a recipe for a number of steps: :func:`one_cycle` or :func:`thirds`.

    Raises:
        ValueError: ``recipe.schedule`` is unknown.
    """
    if recipe.schedule == "thirds":
        return thirds(optimizer, steps)
    if recipe.schedule != "one_cycle":
        raise ValueError(f"schedule: {recipe.schedule!r} is not one of one_cycle, thirds")
    return one_cycle(optimizer, steps, recipe.warmup)


@without_tf32()
def train_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    recipe: Recipe,
    *,
    precision: torch.dtype,
    world_size: int = 1,
    average: WeightAverage | None = None,
    alignment: AlignmentTerm | None = None,
    class_weights: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Train one epoch on this rank's share of the global batches; return the loss of each step, (steps,).

    The loss of a rank is the sum over its images divided by ``recipe.batch_size / world_size``, not by the number of
    its images. The mean over the ranks, which DistributedDataParallel takes of the gradients, is then the mean over the
    global batch.

    The returned losses are the cross-entropy alone, so that trainings with different recipes can be compared. The
    training objective differs from it in four ways. ``recipe.label_smoothing`` replaces this share of each label by
    the uniform distribution. ``class_weights`` multiply the cross-entropy of each image by the weight of its class.
    ``recipe.theta_penalty`` times the squared distance of θ from the identity is added for
    each transformer, and so is the term ``alignment``. For images mixed by :mod:`stn.mixup` all cross-entropies are
    computed for the labels of the mixture. They are higher than those of the images before mixing.

    Args:
        model: a :class:`~stn.classifiers.Network`, or one wrapped in DistributedDataParallel.
        batches: images (b, C, H, W) of each step, and their labels (b,) or probabilities of the classes (b, classes).
        optimizer, scheduler: both step once per batch.
        recipe: supplies ``batch_size``, ``label_smoothing``, ``max_grad_norm`` and ``theta_penalty``.
        precision: dtype of autocast, bf16 or fp32. Convolutions in fp32 are not rounded to TF32.
        world_size: number of ranks.
        average: updated after each step.
        alignment: the term of this epoch for undone motions.
        class_weights: weight of each class in the training objective, fp32 (classes,) on the network's device, see
            :mod:`stn.class_weights`. None: all classes have weight 1.
        on_step: called after each step with the number of finished steps.
    """
    batch_size = recipe.batch_size
    network = cast(Network, model.module if isinstance(model, DistributedDataParallel) else model)
    identities = {}
    if recipe.theta_penalty:
        for place, transformer in network.transformers.items():
            identities[place] = constant(transformer.transform.identity, next(model.parameters()))
    model.train()
    losses = []
    for step, (images, labels) in enumerate(batches):
        images = in_fastest_memory_format(images, precision)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            second_view = None if alignment is None else alignment.second_view(step, images)
            if second_view is not None:
                second_view = in_fastest_memory_format(second_view, precision)
            logits, thetas = model(images, with_theta=True, second_view=second_view)
        logits, share = logits.float(), world_size / batch_size
        loss = objective = F.cross_entropy(logits, labels, reduction="sum") * share
        smoothing = recipe.label_smoothing
        if class_weights is not None:
            objective = weighted_cross_entropy(logits, labels, class_weights, smoothing).sum() * share
        elif smoothing:
            objective = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing) * share
        for place, identity in identities.items():
            distance = (thetas[place].float() - identity).square().sum()
            objective = objective + recipe.theta_penalty * distance * share
        if alignment is not None:
            objective = objective + alignment.loss(step, thetas) * share
        optimizer.zero_grad()
        objective.backward()
        # One large step can move the grid off the image, and no gradient moves it back.
        nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        scheduler.step()
        if average is not None:
            average.update()
        losses.append(loss.detach())
        if on_step is not None:
            on_step(step + 1)
    return torch.stack(losses)


def check_finite(losses: Tensor) -> None:
    """Check that all losses (steps,) of an epoch are finite.

    Call this once per epoch: a check after each step would make a GPU wait for the CPU.

    Raises:
        NotFiniteError: a loss is infinite or NaN. The message names the first such step.
    """
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0])
        raise NotFiniteError(f"the loss became {losses[step].item()} at step {step + 1} of {len(losses)}")


class Outputs(NamedTuple):
    """Outputs of a network for N images.

    Args:
        logits: fp32 (N, classes).
        labels: int64 (N,).
        thetas: θ fp32 (N, P) of each transformer, by its place; see :attr:`stn.classifiers.Network.transformers`.
    """

    logits: Tensor
    labels: Tensor
    thetas: dict[str, Tensor]


@torch.inference_mode()
@without_tf32()
def predict(
    network: Network, batches: Iterable[tuple[Tensor, Tensor]], precision: torch.dtype = torch.float32
) -> Outputs:
    """Predict all batches, in evaluation mode. Convolutions in fp32 are not rounded to TF32."""
    network.eval()
    logits, labels = [], []
    thetas: dict[str, list[Tensor]] = {place: [] for place in network.transformers}
    for images, label in batches:
        images = in_fastest_memory_format(images, precision)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            logit, of_batch = network.predict(images)
        logits.append(logit.float())
        labels.append(label)
        for place, theta in of_batch.items():
            thetas[place].append(theta)
    return Outputs(
        torch.cat(logits), torch.cat(labels), {place: torch.cat(parts).float() for place, parts in thetas.items()}
    )


def metric_sums(network: Network, batches: Batches, outputs: Outputs) -> dict[str, Tensor]:
    """Sum metrics over the images of ``outputs``.

    The sums can be added over ranks and divided by ``count``. They are fp64 scalars:

    - ``count``: number of images.
    - ``loss``: cross-entropy in nats.
    - ``accuracy``: 1 for each correct prediction, else 0.
    - ``theta_<name>``, with a transformer in front: each quantity of :meth:`stn.transforms.Transform.describe`.
    - ``theta_<place>_<name>``: the same for each transformer inside.
    """
    logits, labels, thetas = outputs
    sums = {
        "count": torch.ones_like(labels),
        "loss": F.cross_entropy(logits, labels, reduction="none"),
        "accuracy": logits.argmax(1) == labels,
    }
    for place, transformer in network.transformers.items():
        prefix = "theta" if place == INPUT else f"theta_{place}"
        described = transformer.transform.describe(thetas[place], batches.height, batches.width)
        sums |= {f"{prefix}_{name}": value for name, value in described.items()}
    return {name: value.double().sum() for name, value in sums.items()}


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
