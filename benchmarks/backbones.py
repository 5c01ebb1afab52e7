"""Measures what the training loop costs a network of timm: images per second beside a plain loop, in turns.

Both sides train the same network with the same optimizer on the same images. Our side draws its batches from the
prepared form, uint8 on the device, with flips and shifts. The plain loop indexes tensors that are normalized already,
and neither flips nor shifts. A ratio of 1 means that our loop costs nothing.

    python -m benchmarks.backbones --backbone resnet18 --size 64
"""

import argparse
import time
from functools import partial

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import report
from pipelines.networks.build import network_settings
from pipelines.runtime.errors import run_main
from pipelines.settings.variants import VariantParams
from pipelines.training.trainer import Trainer, TrainingData
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.classifiers import build_network
from stn.settings import Normalization, Recipe
from stn.training import default_device

CLASSES, VALIDATION = 10, 8
NORMALIZATION = Normalization([0.5] * 3, [0.25] * 3)


def measure_ours(backbone: str, images: Tensor, labels: Tensor, batch_size: int) -> float:
    """Images per second of one epoch of the trainer, after a first epoch."""
    variant = VariantParams.model_validate({"transformer": None, "classifier": {"backbone": backbone}})
    size, device = images.shape[-1], default_device()
    settings = network_settings(variant, (3, size, size), CLASSES)
    data = TrainingData(
        Batches(images, labels, NORMALIZATION, device, Augmentation(flip=True, shift=2)),
        Batches(images[:VALIDATION], labels[:VALIDATION], NORMALIZATION, device),
    )
    recipe = Recipe(epochs=2, batch_size=batch_size, optimizer="sgd", lr=0.01)
    trainer = Trainer(partial(build_network, settings), recipe, data, seed=0, precision=torch.float32)
    return [trainer.train_epoch()["images_per_second"] for _ in range(2)][-1]


def measure_plain(backbone: str, images: Tensor, labels: Tensor, batch_size: int) -> float:
    """Images per second of one epoch of a plain loop, after a first epoch."""
    device = default_device()
    network = timm.create_model(backbone, num_classes=CLASSES).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, nesterov=True)
    normalized = ((images.float() / 255 - 0.5) / 0.25).to(device).to(memory_format=torch.channels_last)
    labels, speed = labels.to(device), 0.0
    for _ in range(2):
        order = torch.randperm(len(labels), device=device)
        started = time.perf_counter()
        for index in order.split(batch_size):
            loss = F.cross_entropy(network(normalized[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        speed = len(labels) / (time.perf_counter() - started)
    return speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    images = torch.randint(256, (given.images, 3, given.size, given.size), dtype=torch.uint8)
    labels = torch.randint(CLASSES, (given.images,))
    metrics: dict[str, list[float]] = {"ours, images/s": [], "plain loop, images/s": [], "ratio": []}
    for number in range(1, given.repeats + 1):
        ours = measure_ours(given.backbone, images, labels, given.batch_size)
        plain = measure_plain(given.backbone, images, labels, given.batch_size)
        for name, value in zip(metrics, (ours, plain, ours / plain), strict=True):
            metrics[name].append(value)
        print(f"{number} of {given.repeats}: {ours:,.0f} and {plain:,.0f} images/s", flush=True)
    report("backbones", metrics)


if __name__ == "__main__":
    run_main(main)
