"""Training: one epoch, one evaluation, precision and schedule. What runs inside a worker, without knowing of one."""

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from stn.batches import Batches
from stn.classifiers import Network
from stn.muon import Muon


class NotFiniteError(RuntimeError):
    """The loss became infinite or NaN."""


def choose_precision(setting: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype of autocast and the reason for it. ``setting`` is ``auto``, ``fp32`` or ``bf16``."""
    if setting != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[setting], "set by hand"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16, f"{name} multiplies bf16 matrices in hardware"
        return torch.float32, f"{name} has no bf16 hardware"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # newer than torch 2.9
    if capabilities.get("amx_bf16"):
        return torch.bfloat16, "this CPU multiplies bf16 matrices in hardware (AMX)"
    if capabilities.get("avx512_bf16"):
        return torch.bfloat16, "this CPU has bf16 instructions (AVX512-BF16)"
    return torch.float32, "this CPU has no bf16 instructions"


def make_optimizer(
    network: Network,
    lr: float,
    momentum: float,
    weight_decay: float,
    localization_lr: float,
    localization_weight_decay: float | None = None,
    kind: str = "sgd",
) -> Optimizer:
    """SGD with Nesterov momentum, or ``muon``: the same, but with orthogonal steps for all matrices and filters other
    than the last layer of the classifier and those of the localization networks.

    A localization network learns at ``localization_lr`` times ``lr``, with a weight decay of its own where given.
    """
    decay = weight_decay if localization_weight_decay is None else localization_weight_decay
    parts = [(network.classifier, lr, weight_decay)]
    if network.transformer is not None:
        parts += [(part, lr * localization_lr, decay) for part in network.transformer.localizations()]
    groups = []
    for part, part_lr, part_decay in parts:
        parameters = list(part.parameters())
        last = next(parameter for parameter in reversed(parameters) if parameter.ndim > 1)
        for orthogonal in (False, True):
            chosen = [p for p in parameters if (kind == "muon" and p.ndim > 1 and p is not last) == orthogonal]
            if chosen:
                groups.append({"params": chosen, "lr": part_lr, "weight_decay": part_decay, "orthogonal": orthogonal})
    if kind == "muon":
        return Muon(groups, lr, momentum, weight_decay)
    return SGD(groups, lr, momentum, weight_decay=weight_decay, nesterov=momentum > 0)


def one_cycle(optimizer: Optimizer, steps: int, warmup: float) -> LambdaLR:
    """Learning rate up linearly over the share ``warmup`` of all steps, then down to zero along a cosine.

    After Smith and Topin, "Super-Convergence" (2018), section 3, without its cycle of the momentum.
    """
    peak = warmup * steps

    def factor(step: int) -> float:
        if step < peak:
            return (step + 1) / (peak + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - peak) / max(1.0, steps - peak))))

    return LambdaLR(optimizer, factor)


def train_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    batch_size: int,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    precision: torch.dtype,
    world_size: int = 1,
    max_grad_norm: float = math.inf,
    theta_penalty: float = 0.0,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """One epoch over this rank's share of global batches of ``batch_size``; returns each step's loss, (steps,).

    Each rank's loss is its sum over ``batch_size / world_size``, whatever the rank's own count: averaged over the
    ranks, as DistributedDataParallel does with the gradients, it is the mean over the global batch. A gradient longer
    than ``max_grad_norm`` is shortened to it. ``theta_penalty`` times θ's squared distance from the identity is added
    to what is minimized, not to the losses returned.
    """
    network = cast(Network, model.module if isinstance(model, DistributedDataParallel) else model)
    identity = None
    if theta_penalty and network.transformer is not None:
        identity = torch.tensor(network.transformer.transform.identity, device=next(model.parameters()).device)
    model.train()
    losses = []
    for step, (images, labels) in enumerate(batches):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            logits, theta = model(images, with_theta=True)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum") * (world_size / batch_size)
        objective = loss
        if identity is not None:
            distance = (theta.float() - identity).square().sum()
            objective = loss + theta_penalty * distance * (world_size / batch_size)
        optimizer.zero_grad()
        objective.backward()
        # One steep step is enough to throw the grid off the image, and from there no gradient leads back.
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
        if on_step is not None:
            on_step(step + 1)
    return torch.stack(losses)


def check_finite(losses: Tensor) -> None:
    """Look at an epoch's losses (steps,) once it is over; a look at each step would make a GPU wait for the CPU.

    Raises:
        NotFiniteError: one is infinite or NaN; the message names the first such step.
    """
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0])
        raise NotFiniteError(f"the loss became {losses[step].item()} at step {step + 1} of {len(losses)}")


@torch.inference_mode()
def predict(
    network: Network, batches: Iterable[tuple[Tensor, Tensor]], precision: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits fp32 (N, classes), labels (N,) and θ (N, P) over all batches; θ is None without a transformer."""
    network.eval()
    logits, labels, thetas = [], [], []
    for images, label in batches:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            logit, theta = network.predict(images)
        logits.append(logit.float())
        labels.append(label)
        thetas.append(theta)
    theta = None if network.transformer is None else torch.cat(thetas).float()
    return torch.cat(logits), torch.cat(labels), theta


def metric_sums(network: Network, batches: Batches, outputs: tuple[Tensor, Tensor, Tensor | None]) -> dict[str, Tensor]:
    """Sums over the images of what :func:`predict` returned, to be added up over ranks and divided by ``count``.

    ``count``, ``loss`` (cross-entropy, nats), ``accuracy`` (0 or 1 for each image) and, with a transformer,
    ``theta_<name>`` for each of the family's :meth:`~stn.transforms.Transform.describe`. Scalars, fp64.
    """
    logits, labels, theta = outputs
    sums = {
        "count": torch.ones_like(labels),
        "loss": F.cross_entropy(logits, labels, reduction="none"),
        "accuracy": logits.argmax(1) == labels,
    }
    if network.transformer is not None and theta is not None:
        described = network.transformer.transform.describe(theta, batches.height, batches.width)
        sums |= {f"theta_{name}": value for name, value in described.items()}
    return {name: value.double().sum() for name, value in sums.items()}


def default_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
