"""Figures of what the spatial transformer of a trained model does to images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from pipelines.outputs.class_results import LONGEST_TITLE, shorten
from pipelines.outputs.prepared_data import DatasetMeta, Labeled
from pipelines.outputs.trained_models import ThetaHistory, Trained
from pipelines.visualization.animation import draw_filmstrip, draw_frame
from pipelines.visualization.charts import draw_theta_distributions
from pipelines.visualization.class_means import ClassSums, draw_class_means
from pipelines.visualization.figures import draw_rectified_batch, draw_sampling_grids
from stn.batches import Batches
from stn.classifiers import INPUT
from stn.spatial_transformer import SpatialTransformer
from stn.training import predict

MAX_FRAMES, MAX_COLUMNS = 30, 7  # epochs shown in an animation and in a filmstrip
BATCH_SIZE = 1000
CPU = torch.device("cpu")


class Rectifier:
    """Applies a model's spatial transformer to a fixed set of images.

    Args:
        model: a model with a transformer.
        split: images uint8 (B, C, H, W) with labels.
    """

    def __init__(self, model: Trained, meta: DatasetMeta, split: Labeled):
        self.transformer = transformer_of(model)
        self.batches = meta.batches(split, CPU)
        self.images, _ = next(self.batches.ordered(len(split.labels)))  # normalized

    def theta(self) -> Tensor:
        """θ (B, P) by the localization network."""
        return self.transformer.theta(self.images)

    def grids(self, theta: Tensor) -> Tensor:
        """Sampling grids (B, heads · h, w, 2) of θ (B, P)."""
        size = self.transformer.output_size or (self.batches.height, self.batches.width)
        return self.transformer.transform(theta, *size)

    def rectify(self, theta: Tensor) -> Tensor:
        """Rectified images (B, C, heads · h, w) by θ (B, P), pixel values in [0, 255]."""
        return self.batches.denormalize(self.transformer.resample(self.images, theta))


class ThetaFigures(NamedTuple):
    """Figures of one model on test images; the field names are the file names."""

    rectified: Figure
    grids: Figure
    worst: Figure
    theta: Figure
    means: Figure


@torch.inference_mode()
def draw_theta(model: Trained, meta: DatasetMeta, test: Labeled, examples: int) -> ThetaFigures:
    """Draw rectified images and sampling grids of some test images, and θ and class means over all of them.

    Args:
        model: a model with a transformer.
        examples: number of images in ``rectified`` and ``grids`` (the first ones) and in ``worst`` (those with the
            highest cross-entropy); number of classes in ``means`` (the first ones).
    """
    batches = meta.batches(test, CPU)
    logits, labels, thetas = predict(model.network, batches.ordered(BATCH_SIZE))
    worst = F.cross_entropy(logits, labels, reduction="none").argsort(descending=True)[:examples]
    first = Labeled(test.images[:examples], test.labels[:examples])
    rectifier = Rectifier(model, meta, first)
    described = transformer_of(model).transform.describe(thetas[INPUT], batches.height, batches.width)
    return ThetaFigures(
        rectified=draw_rectified_batch(first.images.float(), rectifier.rectify(rectifier.theta())),
        grids=_draw_grids(model, meta, first),
        worst=_draw_grids(model, meta, Labeled(test.images[worst], test.labels[worst])),
        theta=draw_theta_distributions(described),
        means=_draw_means(model, batches, thetas[INPUT], meta.classes[:examples]),
    )


def _draw_means(model: Trained, batches: Batches, theta: Tensor, classes: Sequence[str]) -> Figure:
    """Draw the mean image of each of the first classes before and after the transformer with θ (N, P)."""
    total = batches.classes
    transformer, before, after = transformer_of(model), ClassSums(len(classes)), ClassSums(len(classes))
    for (images, labels), of_batch in zip(batches.ordered(BATCH_SIZE), theta.split(BATCH_SIZE), strict=True):
        before.add(batches.denormalize(images), labels)
        after.add(batches.denormalize(transformer.resample(images, of_batch)), labels)
    return draw_class_means(before.means(), after.means(), classes, total)


def _draw_grids(model: Trained, meta: DatasetMeta, split: Labeled) -> Figure:
    """Draw the sampling grids of images, titled with the class and, if it is wrong, the predicted class."""
    rectifier = Rectifier(model, meta, split)
    theta = rectifier.theta()
    predicted = model.network(rectifier.images).argmax(1)
    classes = [shorten(name, LONGEST_TITLE) for name in meta.classes]
    titles = [
        classes[label] if label == answer else f"{classes[label]} (predicted {classes[answer]})"
        for label, answer in zip(split.labels.tolist(), predicted.tolist(), strict=True)
    ]
    readable = rectifier.transformer.transform.readable(theta)
    return draw_sampling_grids(split.images.float(), rectifier.rectify(theta), rectifier.grids(theta), readable, titles)


class TrainingPictures(NamedTuple):
    """How the rectified images change during a training: a figure, and the frames of an animation."""

    filmstrip: Figure
    frames: list[Image.Image]


@torch.inference_mode()
def draw_theta_history(
    model: Trained, meta: DatasetMeta, history: ThetaHistory, validation: Labeled
) -> TrainingPictures:
    """Draw the rectified validation images after each epoch, from the recorded θ alone.

    The animation starts at the identity, before the first epoch. Its frames are spaced evenly over the epochs. The
    columns of the filmstrip are spaced geometrically, because most changes happen early.
    """
    split = Labeled(validation.images[history.images], validation.labels[history.images])
    rectifier = Rectifier(model, meta, split)
    transform = rectifier.transformer.transform
    epochs = len(history.theta)
    identity = torch.tensor(transform.identity).expand_as(history.theta[:1])
    theta_of_epoch = torch.cat((identity, history.theta))  # index 0: before the first epoch

    columns = np.unique(np.geomspace(1, epochs, MAX_COLUMNS).round().astype(int)).tolist()
    filmstrip = draw_filmstrip(
        split.images.float(), {epoch: rectifier.rectify(theta_of_epoch[epoch]) for epoch in columns},
        [shorten(meta.classes[int(label)], LONGEST_TITLE) for label in split.labels],
    )  # fmt: skip
    frames = []
    for epoch in np.linspace(0, epochs, min(MAX_FRAMES, epochs + 1)).round().astype(int).tolist():
        theta = theta_of_epoch[epoch]
        grids = rectifier.grids(theta).unflatten(1, (transform.heads, -1))
        caption = f"after epoch {epoch} of {epochs}" if epoch else "before the first epoch"
        frames.append(draw_frame(split.images.float(), rectifier.rectify(theta), grids, caption))
    return TrainingPictures(filmstrip, frames)


def transformer_of(model: Trained) -> SpatialTransformer:
    """The transformer of a model that is known to have one."""
    assert model.network.transformer is not None
    return model.network.transformer
