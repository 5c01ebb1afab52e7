"""The phases of the script. Each returns its results by name."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile

from benchmarks.baseline_network import BaselineNetwork
from benchmarks.gpu.packed_images import Split
from benchmarks.gpu.trainings import (
    NORMALIZATION,
    RECIPE,
    Training,
    capture,
    captured_training,
    images_per_second,
    images_per_second_of_epochs,
    synchronize,
)
from stn import TransformerSettings
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.distortions import PROTOCOLS, make_distortion
from stn.muon import Muon
from stn.training import metric_sums, one_cycle, predict, train_epoch

Results = dict[str, Any]
CPU = torch.device("cpu")
FLOP, BYTES = 12.6e6, 0.45e6  # of one image in training: 2.1 million multiply-adds times 6, and activations


def machine(device: torch.device) -> Results:
    """Versions, and the bandwidth of a copy in bytes per second."""
    results: Results = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": str(device)}
    size = 1 << (28 if device.type == "cuda" else 22)
    if device.type == "cuda":
        results |= {"gpu": torch.cuda.get_device_name(), "cudnn": torch.backends.cudnn.version()}
    source = torch.empty(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    target.copy_(source)
    synchronize(device)
    started = time.perf_counter()
    for _ in range(20):
        target.copy_(source)
    synchronize(device)
    return results | {"bytes read and written per second": 40 * size / (time.perf_counter() - started)}


def checks(split: Split, device: torch.device) -> Results:
    """Compare the device with the CPU, and captured steps with eager ones. Each value has a limit; see ``failures``."""
    small = Split(split.images[:512], split.labels[:512])
    sgd = replace(RECIPE, optimizer="sgd", lr=0.02, batch_size=64)
    values: dict[str, tuple[float, float]] = {}
    for name in ("none", *PROTOCOLS):
        augmentation = (
            Augmentation(flip=True, shift=2) if name == "none" else Augmentation(distortion=make_distortion(name))
        )
        batches = [Batches(*small, NORMALIZATION, where, augmentation, classes=10) for where in (CPU, device)]
        (expected, _), (images, _) = (next(of.shuffled(64, 0, 0)) for of in batches)
        wrong = ((expected - images.cpu()).abs() > 1e-2).float().mean().item()  # edges may fall to another pixel
        values[f"share of pixels of a batch that differ, {name}"] = wrong, 0.0 if name == "none" else 2e-3
    precisions = {torch.float32: 1e-4} | ({torch.bfloat16: 3e-2} if device.type == "cuda" else {})
    for precision, limit in precisions.items():
        there, exact = Training(small, sgd, device), Training(small, sgd, CPU)
        images, _ = next(exact.batches.shuffled(64, 0, 0))
        with torch.no_grad():
            expected = copy.deepcopy(exact.network).double()(images.double())
            outputs = predict(there.network, [(images.to(device), torch.zeros(64))], precision)
        values[f"logits, {precision}"] = relative(outputs.logits.cpu().double(), expected), limit
    torch.manual_seed(0)
    gradients = [torch.randn(shape, device=device) for shape in ((10, 75), (50, 500), (60, 30))]
    ends = []
    for batched in (False, True):
        parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
        muon = Muon([{"params": parameters, "orthogonal": True}], 0.1, batched=batched)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        muon.step()
        ends.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    values["Muon batched and not"] = relative(ends[1], ends[0]), 3e-5
    losses = {where: train_steps(Training(small, sgd, where), False) for where in (CPU, device)}
    values["loss of an epoch of SGD, CPU and device"] = (losses[CPU] - losses[device].cpu()).abs().max().item(), 5e-3
    for optimizer in ("sgd", "muon", "adamw"):
        recipe = replace(sgd, optimizer=optimizer, lr=1e-3 if optimizer == "adamw" else 0.02)
        trained = [train_steps(Training(small, recipe, device), captured) for captured in (False, True)]
        limit = 1e-3 if optimizer == "sgd" else 5e-2
        values[f"loss of an epoch, eager and captured, {optimizer}"] = (
            (trained[0] - trained[1]).abs().max().item(),
            limit,
        )
    return {
        "values": {name: {"value": value, "limit": limit} for name, (value, limit) in values.items()},
        "failures": [name for name, (value, limit) in values.items() if not value <= limit],
    }


def relative(values: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative difference of two tensors."""
    return ((values - expected).norm() / expected.norm()).item()


def train_steps(training: Training, captured: bool) -> torch.Tensor:
    """Train one epoch eagerly or captured; returns the losses (steps,)."""
    for group, rate in zip(training.optimizer.param_groups, training.scheduler.get_last_lr(), strict=True):
        group["lr"] = rate
    if captured:
        return captured_training(training).train_epoch(0, 0, training.scheduler)
    batches = training.batches.shuffled(training.recipe.batch_size, 0, 0)
    return train_epoch(
        training.network, batches, training.optimizer, training.scheduler, training.recipe,
        precision=training.precision,
    )  # fmt: skip


def throughput(
    split: Split, device: torch.device, seconds: float, small: bool
) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield the name of each configuration, and what measures its images per second."""
    sizes = (64,) if small else (256, 512, 1024, 2048)
    layouts = {"NHWC": torch.channels_last} if small else {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}
    modes = ("fp32",) if small else ("fp32", "TF32", "bf16")
    augmentation = Augmentation(flip=True, shift=2)

    def rows(size: int, ways: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], float]]]:
        for mode, layout in product(modes, layouts):
            recipe, precision = replace(RECIPE, batch_size=size), torch.bfloat16 if mode == "bf16" else torch.float32
            make = partial(Training, split, recipe, device, precision=precision, augmentation=augmentation)
            for way in ways:
                yield f"{way}, {mode}, {layout}, {size}", partial(step_speed, make, way, mode, seconds, layouts[layout])

    yield from rows(sizes[0], ("eager", "captured"))
    name = f"fp32, {sizes[0]}"
    make = partial(Training, split, replace(RECIPE, batch_size=sizes[0], epochs=10_000), device)
    for seeds in (1, 2) if small else (1, 2, 4, 8):
        row = f"captured, {name}, {seeds} seed(s) on streams, whole epochs"
        yield row, partial(speed_on_streams, make, seeds, 5 * seconds)
    for seeds in (2,) if small else (2, 4, 8):
        yield f"captured, {name}, {seeds} seeds in one graph", partial(speed_in_one_graph, make, seeds, seconds)
    for family in ("affine",) if small else ("affine", "projective", "tps"):
        recipe = replace(RECIPE, batch_size=64 if small else 128)
        make = partial(Training, split, recipe, device, transformer=TransformerSettings(transform=(family,)))
        yield f"captured, fp32, {recipe.batch_size}, {family}", partial(step_speed, make, "captured", "fp32", seconds)
    for size in sizes[1:]:
        yield from rows(size, ("captured",))


def step_speed(
    make: Callable[[], Training], way: str, mode: str, seconds: float, memory_format: torch.memory_format | None = None
) -> float:
    """Images per second of one training. None is the memory format that ``train`` chooses."""
    with ExitStack() as stack:
        if mode == "TF32":
            # train_epoch refuses TF32 itself; without its decorator cuDNN's default holds, which is TF32.
            plain = train_epoch.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
            stack.enter_context(patch("stn.static_step.train_epoch", plain))
        if memory_format is not None:
            for module in ("stn.memory_format", "benchmarks.gpu.trainings"):
                stack.enter_context(patch(f"{module}.fastest_memory_format", lambda *_: memory_format))
        training = make()
        return images_per_second(training.step.run if way == "eager" else capture([training]), [training], seconds)


def speed_in_one_graph(make: Callable[..., Training], seeds: int, seconds: float) -> float:
    """Images per second of several seeds, whose steps are captured in one graph."""
    trainings = [make(seed=seed) for seed in range(seeds)]
    return images_per_second(capture(trainings), trainings, seconds)


def speed_on_streams(make: Callable[..., Training], seeds: int, seconds: float) -> float:
    """Images per second of several seeds, each on a stream of its own, as the stage train runs them."""
    return images_per_second_of_epochs([make(seed=seed) for seed in range(seeds)], seconds)


class TutorialImages(torch.utils.data.Dataset):
    """Images as the tutorial reads them: one at a time, from an array through PIL."""

    def __init__(self, split: Split):
        self.images, self.labels = split.images.permute(0, 2, 3, 1).contiguous().numpy(), split.labels.tolist()
        self.mean = torch.tensor(NORMALIZATION.mean)[:, None, None]
        self.std = torch.tensor(NORMALIZATION.std)[:, None, None]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        import numpy as np
        from PIL import Image

        pixels = torch.from_numpy(np.array(Image.fromarray(self.images[index]))).permute(2, 0, 1).float() / 255
        return (pixels - self.mean) / self.std, self.labels[index]


def tutorial(split: Split, device: torch.device, seconds: float) -> Results:
    """Images per second of the tutorial's loop: as it is, its loader alone, and with its data on the device."""
    torch.manual_seed(0)
    network = BaselineNetwork().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(
        TutorialImages(split), batch_size=64, shuffle=True, num_workers=2, pin_memory=device.type == "cuda"
    )
    first_images, first_labels = next(iter(loader))
    on_device = first_images.to(device), first_labels.to(device)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        F.nll_loss(network(images.to(device)), labels.to(device)).backward()
        optimizer.step()

    def measure(batches: Iterator, use: Any) -> float:
        started, count = None, 0
        for images, labels in batches:
            use(images, labels)
            if started is None:  # after the start of the workers and of CUDA
                synchronize(device)
                started = time.perf_counter()
                continue
            count += len(images)
            if time.perf_counter() - started > seconds:
                break
        synchronize(device)
        return count / (time.perf_counter() - (started or 0.0))

    same = (on_device for _ in range(10**9))
    return {
        "loop, images/s": measure(iter(loader), step),
        "loader alone, images/s": measure(iter(loader), lambda *_: None),
        "data on the device, images/s": measure(same, step),
    }


def accuracy(splits: dict[str, Split], device: torch.device, seeds: int, steps: int) -> Results:
    """Seconds and test accuracy of captured trainings of so many steps, after one that is not counted."""
    seconds, accuracies = [], []
    epoch_steps = len(splits["train"].labels) // RECIPE.batch_size
    test = Batches(*splits["test"], NORMALIZATION, device)
    for seed in range(-1, seeds):
        training = Training(splits["train"], RECIPE, device, seed=max(0, seed))
        training.scheduler = one_cycle(training.optimizer, steps, RECIPE.warmup)
        training.load(max(0, seed), 0)
        run = capture([training])
        fresh = Training(splits["train"], RECIPE, device, seed=max(0, seed))
        with torch.no_grad():  # the warm-up has trained
            for tensor, start in zip(training.network.parameters(), fresh.network.parameters(), strict=True):
                tensor.copy_(start)
            for state in training.step.states().values():
                state.zero_()
        training.load(max(0, seed), 0)
        synchronize(device)
        started = time.perf_counter()
        for number in range(steps):
            if number and number % epoch_steps == 0:
                training.scheduler.last_epoch += epoch_steps
                training.load(max(0, seed), number // epoch_steps)
            run()
        synchronize(device)
        if seed >= 0:
            seconds.append(time.perf_counter() - started)
            sums = metric_sums(training.network, test, predict(training.network, test.ordered(1000)))
            accuracies.append(100 * (sums["accuracy"] / sums["count"]).item())
    return {"steps": steps, "seconds without the capture": seconds, "test accuracy, %": accuracies}


def kernels(split: Split, device: torch.device, batch_size: int) -> Results:
    """How many kernels an eager step starts, and those that take longest, in µs per step. On a CPU: operations."""
    training = Training(split, replace(RECIPE, batch_size=batch_size), device)
    training.step.run()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with torch.autograd.set_multithreading_enabled(False), profile(activities=activities) as profiler:
        for _ in range(20):
            training.step.counter.zero_()
            training.step.run()
        synchronize(device)
    on_gpu = device.type == "cuda"
    own, kind = ("self_device_time_total", DeviceType.CUDA) if on_gpu else ("self_cpu_time_total", DeviceType.CPU)
    events = [e for e in profiler.key_averages() if e.device_type == kind and not e.is_user_annotation]
    events.sort(key=lambda event: -getattr(event, own))
    return {
        "calls": sum(event.count for event in events) / 20,
        "µs": sum(getattr(event, own) for event in events) / 20,
        "longest, µs": {event.key: getattr(event, own) / 20 for event in events[:15]},
    }


def limits(results: dict[str, Results]) -> Results:
    """The share of the limit by bytes that the fastest configuration reaches."""
    best = max(results["throughput"].values())
    by_bytes = results["machine"]["bytes read and written per second"] / BYTES
    return {"best images/s": best, "limit by bytes, images/s": by_bytes, "share": best / by_bytes,
            "TFLOP/s reached": best * FLOP / 1e12}  # fmt: skip
