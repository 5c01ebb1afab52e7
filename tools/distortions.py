"""Draw docs/distortions.png: scikit-learn's digits under each of the paper's distortions.

python -m tools.distortions
"""

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor

from stn.distortions import distort_once, make_distortion

COLUMNS = 10
CAPTIONS = {
    "R": "rotated",
    "RTS": "rotated, scaled, translated",
    "P": "projective",
    "E": "elastic",
    "TC": "translated, cluttered",
}


def digits() -> Tensor:
    """One of each digit, enlarged from 8×8 to 28×28 pixels: uint8 (10, 1, 28, 28)."""
    images, labels = load_digits(return_X_y=True)
    chosen = [int(np.flatnonzero(labels == label)[1]) for label in range(COLUMNS)]
    small = torch.from_numpy(images[chosen]).float().view(-1, 1, 8, 8) * (255 / 16)
    enlarged = F.interpolate(small, size=(20, 20), mode="bicubic").clamp(0, 255).to(torch.uint8)
    return F.pad(enlarged, (4, 4, 4, 4))  # the margin of MNIST's digits


def main() -> None:
    images = digits()
    rows = {"undistorted": images}
    for name, caption in CAPTIONS.items():
        distortion = make_distortion(name)
        generator = torch.Generator().manual_seed(4)
        rows[f"{name}: {caption}"] = distort_once(distortion.onto_canvas(images), distortion, generator)
    figure = Figure(figsize=(8.2, 5.2), layout="constrained")
    for axes_of_row, (title, row) in zip(figure.subplots(len(rows), COLUMNS), rows.items(), strict=True):
        for axes, image in zip(axes_of_row, row, strict=True):
            axes.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=255)
            axes.axis("off")
        axes_of_row[0].set_title(title, loc="left", fontsize=8)
    figure.savefig("docs/distortions.png", dpi=110)


if __name__ == "__main__":
    main()
