"""Trainings that the phases share: the baseline network on images of CIFAR-10's size."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.gpu.packed_images import Split
from stn import NetworkSettings, Normalization, Recipe, TransformerSettings, build_network
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.captured_step import CapturedTraining, capture_graph, run_eagerly
from stn.memory_format import fastest_memory_format
from stn.optimizers import make_optimizer
from stn.side_by_side import NextEpoch, train_side_by_side
from stn.static_step import StaticStep, learning_rates
from stn.training import one_cycle

NORMALIZATION = Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
RECIPE = Recipe(epochs=2, batch_size=256, optimizer="muon", lr=0.1, warmup=0.1, max_grad_norm=1.0, localization_lr=0.1)


class Training:
    """A network with its optimizer, schedule and static step. An epoch is loaded into the step."""

    def __init__(
        self, split: Split, recipe: Recipe, device: torch.device, *, seed: int = 0,
        precision: torch.dtype = torch.float32, augmentation: Augmentation = Augmentation(),
        transformer: TransformerSettings | None = TransformerSettings(),
    ):  # fmt: skip
        self.recipe, self.device, self.precision = recipe, device, precision
        self.batches = Batches(split.images, split.labels, NORMALIZATION, device, augmentation, classes=10)
        torch.manual_seed(seed)
        self.network = build_network(NetworkSettings((3, 32, 32), 10, transformer)).to(device)
        self.network.to(memory_format=fastest_memory_format(device, precision))  # pyright: ignore[reportCallIssue]
        self.optimizer = make_optimizer(self.network, recipe)
        self.step = StaticStep(self.network, self.optimizer, self.batches, recipe, precision=precision)
        self.scheduler = one_cycle(self.optimizer, recipe.epochs * self.step.steps, recipe.warmup)
        self.load(seed, 0)

    def load(self, seed: int, epoch: int) -> None:
        """Load what an epoch draws, and the learning rates of the next steps, into the static step."""
        self.step.load(self.step.draw(seed, epoch), learning_rates(self.scheduler, self.step.steps))
        for group, rate in zip(self.optimizer.param_groups, self.step.rate, strict=True):
            group["lr"] = rate


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, if there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def capture(trainings: Sequence[Training]) -> Callable[[], None]:
    """Capture one step of each training, each on a stream of its own, in one graph; on a CPU, run them in turn.

    The warm-up trains three steps.
    """

    def run() -> None:
        for training in trainings:
            training.step.run()

    if trainings[0].device.type != "cuda":
        return run
    main = torch.cuda.Stream()
    main.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(main):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(main)
    for training in trainings:
        training.step.counter.zero_()
    sides = [torch.cuda.Stream() for _ in trainings]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=main):
        for training, side in zip(trainings, sides, strict=True):
            side.wait_stream(main)
            with torch.cuda.stream(side):
                training.step.run()
        for side in sides:
            main.wait_stream(side)
    return graph.replay


def images_per_second(
    run: Callable[[], None], trainings: Sequence[Training], seconds: float, windows: int = 5
) -> float:
    """Return the median over windows of the images per second of all trainings. The steps start again each epoch."""
    device, steps = trainings[0].device, trainings[0].step.steps
    done, speeds = 0, []

    def one() -> None:
        nonlocal done
        if done % steps == 0:
            for training in trainings:
                training.step.counter.zero_()
        run()
        done += 1

    one()
    synchronize(device)
    for _ in range(windows):
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            for _ in range(32 if device.type == "cuda" else 1):
                one()
                count += 1
            synchronize(device)
        speeds.append(count * len(trainings) * trainings[0].recipe.batch_size / (time.perf_counter() - started))
    return sorted(speeds)[windows // 2]


def captured_training(training: Training) -> CapturedTraining:
    """Return what trains whole epochs by a captured step; on a CPU the step runs eagerly."""
    return CapturedTraining(training.step, capture_graph if training.device.type == "cuda" else run_eagerly)


def images_per_second_of_epochs(
    trainings: Sequence[Training], seconds: float, before: Callable[[], Any] = lambda: None
) -> float:
    """Return the images per second of all trainings side by side, as the stage train does it: whole epochs, drawn anew.

    The first epochs, in which the steps are captured, are not counted.

    Args:
        before: called after these first epochs.
    """
    device, steps = trainings[0].device, trainings[0].step.steps
    captured = [captured_training(training) for training in trainings]

    def epochs(epoch: int) -> list[NextEpoch]:
        pairs = enumerate(zip(captured, trainings, strict=True))
        return [NextEpoch(own, seed, epoch, training.scheduler) for seed, (own, training) in pairs]

    for own, seed, epoch, scheduler in epochs(0):
        own.train_epoch(seed, epoch, scheduler)
    synchronize(device)
    before()
    started, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - started < seconds:
        train_side_by_side(epochs(done + 1))
        synchronize(device)
        done += 1
    images = done * len(trainings) * steps * trainings[0].recipe.batch_size
    return images / (time.perf_counter() - started)
