"""Figures of what spatial transformers inside a network do."""

import torch
from matplotlib.figure import Figure

from pipelines.outputs.class_results import LONGEST_TITLE, shorten
from pipelines.outputs.prepared_data import DatasetMeta, Labeled
from pipelines.outputs.trained_models import Trained
from pipelines.visualization.charts import draw_theta_distributions
from pipelines.visualization.figures import draw_sampling_grids
from stn.classifiers import INPUT
from stn.training import predict

CPU = torch.device("cpu")


@torch.inference_mode()
def draw_inner_theta(model: Trained, meta: DatasetMeta, test: Labeled, examples: int) -> dict[str, Figure]:
    """Draw each transformer inside a model: the distribution of its θ, and its sampling grids on a few test images.

    Such a transformer warps features. Its sampling grid is drawn on the image that the classifier sees, and that image
    is resampled by the same grid: features lie where the image has what they respond to.

    Returns:
        ``theta-<place>`` and ``grids-<place>`` → figure. Empty if there is none.
    """
    network, batches = model.network, meta.batches(test, CPU)
    classes = [shorten(name, LONGEST_TITLE) for name in meta.classes]
    if not network.inner:
        return {}
    thetas = predict(network, batches.ordered(1000)).thetas
    images, labels = next(batches.ordered(examples))
    if network.transformer is not None:
        images = network.transformer.warp(images, thetas[INPUT][: len(images)])
    images = images[:, : meta.image_shape[0]]  # the first of several crops
    size = images.shape[-2:]
    titles = [classes[label] for label in labels.tolist()]
    figures = {}
    for place, transformer in network.transformers.items():
        if place == INPUT:
            continue
        theta = thetas[place][: len(images)]
        grids = transformer.transform(theta, *size)
        figures[f"theta-{place}"] = draw_theta_distributions(transformer.transform.describe(thetas[place], *size))
        figures[f"grids-{place}"] = draw_sampling_grids(
            batches.denormalize(images),
            batches.denormalize(transformer.sampler(images, grids)),
            grids,
            transformer.transform.readable(theta),
            titles,
        )
    return figures
