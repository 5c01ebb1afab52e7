"""Measures what the term for undone motions costs: images per second of training without it and with it, in turns.

Each side trains one epoch of random, distorted images with the network of a variant, after a first epoch.

    python -m benchmarks.alignment --variant stn --size 32 --channels 3
"""

import argparse
from functools import partial

import torch

from benchmarks.measure import report
from pipelines.networks.build import network_settings
from pipelines.runtime.errors import run_main
from pipelines.settings.variants import VariantParams, load_variant
from pipelines.training.trainer import Trainer, TrainingData
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.classifiers import build_network
from stn.distortions import Distortion
from stn.settings import AlignmentSettings, Normalization, Recipe
from stn.training import default_device

CLASSES, VALIDATION = 10, 10
TERMS = {
    "no term": AlignmentSettings(), "upright": AlignmentSettings(1.0, "upright"),
    "itself": AlignmentSettings(1.0, "itself"),
}  # fmt: skip


def measure(variant: VariantParams, images: torch.Tensor, batch_size: int, term: AlignmentSettings) -> float:
    """Images per second of an epoch with a term."""
    _, channels, height, width = images.shape
    labels = torch.arange(len(images)) % CLASSES
    normalization = Normalization([0.5] * channels, [0.25] * channels)
    data = TrainingData(
        Batches(images, labels, normalization, default_device(), Augmentation(distortion=Distortion(rotation=90))),
        Batches(images[:VALIDATION], labels[:VALIDATION], normalization, default_device()),
    )
    recipe = Recipe(epochs=2, batch_size=batch_size, optimizer="muon", lr=0.01, capture="off", alignment=term)
    settings = network_settings(variant, (channels, height, width), CLASSES)
    trainer = Trainer(partial(build_network, settings), recipe, data, seed=0, precision=torch.float32)
    return [trainer.train_epoch()["images_per_second"] for _ in range(2)][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="stn", help="name of a file in variants/")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    variant = load_variant(given.variant)
    images = torch.randint(256, (given.images, given.channels, given.size, given.size), dtype=torch.uint8)
    speeds: dict[str, list[float]] = {name: [] for name in TERMS}
    for number in range(1, given.repeats + 1):
        for name, term in TERMS.items():
            speeds[name].append(measure(variant, images, given.batch_size, term))
        shown = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in speeds.items())
        print(f"{number} of {given.repeats}: images/s {shown}", flush=True)
    without, *with_term = speeds
    shares = {
        f"{name} / {without}": [a / b for a, b in zip(speeds[name], speeds[without], strict=True)] for name in with_term
    }
    report("alignment", {f"{name}, images/s": values for name, values in speeds.items()} | shares)


if __name__ == "__main__":
    run_main(main)
