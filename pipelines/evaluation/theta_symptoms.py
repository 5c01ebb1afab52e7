"""Measures the signs of trouble in θ of a trained model on the test images, see :mod:`stn.theta_trouble`."""

import torch
from torch import Tensor

from stn.classifiers import Network
from stn.theta_trouble import Symptoms, mirrored, one_color, spread

CHUNK = 1000  # images whose grids are computed at once


@torch.inference_mode()
def measure_symptoms(network: Network, theta: Tensor | None, sample: Tensor) -> Symptoms | None:
    """Measure the symptoms of a network's transformer; None without a transformer.

    Args:
        network: in evaluation mode.
        theta: its θ (N, P) of all test images; None without a transformer.
        sample: some test images, normalized, (E, C, H, W); they are rectified to find images of one color.
    """
    transformer = network.transformer
    if transformer is None or theta is None:
        return None
    transform, size = transformer.transform, transformer.output_size or sample.shape[2:]
    described = [transform.describe(part, *size) for part in theta.split(CHUNK)]
    outside = [
        torch.cat([part[name] for part in described]).double().mean().item()
        for name in described[0]
        if name.startswith("outside")  # of each head
    ]
    rectified = transformer.resample(sample, transformer.theta(sample))
    return Symptoms(
        outside=max(outside),
        mirrored=mirrored(transform, theta),
        one_color=one_color(sample, rectified, transform.heads),
        spread=spread(transform, theta),
    )
