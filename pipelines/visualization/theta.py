"""Figures of what a transformer does to images."""

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from pipelines.outputs.prepared_data import Labeled
from pipelines.outputs.trained_models import ThetaHistory, Trained
from pipelines.visualization.animation import filmstrip, frame
from pipelines.visualization.figures import rectified_batch, sampling_grids, theta_distributions
from stn.batches import Batches

FRAMES, STRIPS = 30, 7  # at most so many epochs are shown in an animation and in a filmstrip


@torch.inference_mode()
def theta_figures(model: Trained, meta: dict, images: Tensor, labels: Tensor, examples: int) -> dict[str, Figure]:
    """Figures of one model's θ over test images uint8 (N, C, H, W): the first ``examples`` one by one, so many of those
    with the highest cross-entropy, and θ of all.
    """
    transformer = model.network.transformer
    assert transformer is not None
    batches = Batches(images, labels, meta["mean"], meta["std"], torch.device("cpu"))
    answers = [model.network.predict(batch) for batch, _ in batches.ordered(1000)]
    logits, theta = (torch.cat(parts) for parts in zip(*answers, strict=True))
    worst = F.cross_entropy(logits, labels, reduction="none").argsort(descending=True)[:examples]
    rectified, grids = _one_by_one(model, meta, images[:examples], labels[:examples])
    return {
        "rectified": rectified_batch(images[:examples].float(), rectified),
        "grids": grids,
        "worst": _one_by_one(model, meta, images[worst], labels[worst])[1],
        "theta": theta_distributions(transformer.transform.describe(theta, batches.height, batches.width)),
    }


def _one_by_one(model: Trained, meta: dict, images: Tensor, labels: Tensor) -> tuple[Tensor, Figure]:
    """What the classifier sees of these images, as pixels in [0, 255], and a figure of both with grids and θ."""
    transformer = model.network.transformer
    assert transformer is not None
    batches = Batches(images, labels, meta["mean"], meta["std"], torch.device("cpu"))
    shown, _ = next(batches.ordered(len(images)))
    theta = transformer.theta(shown)
    grid = transformer.transform(theta, *(transformer.output_size or (batches.height, batches.width)))
    rectified = batches.denormalize(transformer.resample(shown, theta))
    predicted = model.network(shown).argmax(1)
    titles = [
        meta["classes"][label] if label == answer else f"{meta['classes'][label]} (said {meta['classes'][answer]})"
        for label, answer in zip(labels.tolist(), predicted.tolist(), strict=True)
    ]
    return rectified, sampling_grids(images.float(), rectified, grid, transformer.transform.readable(theta), titles)


@torch.inference_mode()
def film(model: Trained, meta: dict, course: ThetaHistory, validation: Labeled) -> tuple[Figure, list[Image.Image]]:
    """What the transformer made of the same few validation images from epoch to epoch: a filmstrip, and the pictures of
    an animation, which begins before the first epoch. Drawn from θ alone, not from the networks of that time.
    """
    transformer = model.network.transformer
    assert transformer is not None
    images, labels = validation.images[course.images], validation.labels[course.images]
    batches = Batches(images, labels, meta["mean"], meta["std"], torch.device("cpu"))
    shown, _ = next(batches.ordered(len(images)))
    heads, epochs = transformer.transform.heads, len(course.theta)
    start = torch.tensor(transformer.transform.identity).expand_as(course.theta[:1])
    theta = torch.cat((start, course.theta))

    def rectified(epoch: int) -> Tensor:
        return batches.denormalize(transformer.resample(shown, theta[epoch]))

    def pictured(epoch: int) -> Image.Image:
        grid = transformer.transform(theta[epoch], *(transformer.output_size or (batches.height, batches.width)))
        caption = f"after epoch {epoch} of {epochs}" if epoch else "before the first epoch"
        return frame(images.float(), rectified(epoch), grid.unflatten(1, (heads, -1)), caption)

    # Evenly in time; and by factors, since most happens early.
    moments = np.linspace(0, epochs, min(FRAMES, epochs + 1)).round().astype(int)
    stops = np.unique(np.geomspace(1, epochs, STRIPS).round().astype(int))
    strip = filmstrip(
        images.float(), {f"epoch {epoch}": rectified(epoch) for epoch in stops.tolist()},
        [meta["classes"][label] for label in labels.tolist()],
    )  # fmt: skip
    return strip, [pictured(epoch) for epoch in moments.tolist()]
