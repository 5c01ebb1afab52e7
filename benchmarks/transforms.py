"""Claim: each family's grid and sampling, forward and backward, take no longer than their equivalent in kornia.

Both sides warp the same batch by the same motions, in turns in one process. Each is given the numbers that it takes:
ours θ; kornia a matrix between pixels, shift, scale and angle where it makes a matrix of these, or control points.
Before anything is timed, the pixels of both are compared, but for splines: kornia solves its own anew in each step,
about the points' places in the input, ours about those in the output.

    pip install --no-deps kornia kornia_rs
    python -m benchmarks.transforms --repeats 5
"""

import argparse
import importlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.measure import report
from pipelines.runtime.errors import UserError, run
from stn import Affine, Affine3d, Attention, Projective, Similarity, SpatialTransformer, ThinPlateSpline
from stn.transforms import Transform

IMAGES = ((1, 28, 28), (3, 32, 32))
VOLUMES = ((1, 16, 16, 16),)
SPREAD = 0.1  # standard deviation of each number of θ about the identity
PASSES = ("forward", "backward to θ", "backward to θ and images")  # either backward with the forward before it


def other_side() -> Any:
    """kornia.geometry.transform.

    Raises:
        UserError: it is not installed; the project does not need it.
    """
    try:
        return importlib.import_module("kornia.geometry.transform")
    except ImportError as error:
        raise UserError(f"the other side is missing ({error}); pip install --no-deps kornia kornia_rs") from None


class Side(NamedTuple):
    """A way to warp a batch: a function of the images and of the numbers that are given."""

    warp: Callable[..., Tensor]
    numbers: tuple[Tensor, ...]

    def seconds(self, images: Tensor, gradient: Tensor, which: str) -> float:
        """What one of :data:`PASSES` takes."""
        images = images.detach().requires_grad_(which == PASSES[2])
        numbers = [given.detach().requires_grad_() for given in self.numbers]
        synchronize()
        started = time.perf_counter()
        with torch.set_grad_enabled(which != PASSES[0]):
            warped = self.warp(images, *numbers)
        if which != PASSES[0]:
            warped.backward(gradient)
        synchronize()
        return time.perf_counter() - started


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def random_theta(transform: Transform, count: int) -> Tensor:
    identity = torch.tensor(transform.identity)
    return identity + SPREAD * torch.randn(count, len(identity), generator=torch.Generator().manual_seed(0))


def between_pixels(matrices: Tensor, size: tuple[int, ...]) -> Tensor:
    """Square matrices (B, D + 1, D + 1) that map coordinates in [-1, 1] of the output to those of the input, as kornia
    has them: from the input's pixels to the output's."""
    half = torch.tensor([*reversed(size), 2.0]).double() / 2
    to_pixels = torch.diag(half)
    to_pixels[:-1, -1] = half[:-1] - 0.5
    return torch.linalg.inv(to_pixels @ matrices.double() @ torch.linalg.inv(to_pixels)).float()


def square(matrices: Tensor) -> Tensor:
    """Affine matrices (B, D, D + 1) with the row (0, ..., 0, 1) below."""
    bottom = torch.eye(matrices.shape[2])[-1:].expand(len(matrices), 1, -1)
    return torch.cat((matrices, bottom), 1)


def pairs(kornia: Any, count: int, size: tuple[int, ...], device: torch.device) -> Iterator[tuple[str, Side, Side]]:
    """For each family of images, or of volumes, of ``size`` its name, our side and kornia's."""

    def ours(transform: Transform) -> Side:
        numbers = (random_theta(transform, count).to(device),)
        return Side(SpatialTransformer(nn.Identity(), transform=transform).to(device).warp, numbers)

    def theirs(warp: Callable[..., Tensor], *numbers: Tensor) -> Side:
        return Side(warp, tuple(given.to(device) for given in numbers))

    def pixel_matrix(transform: Transform) -> Tensor:
        matrix = transform.readable(random_theta(transform, count))
        return between_pixels(matrix if matrix.shape[1] == matrix.shape[2] else square(matrix), size)

    if len(size) == 3:
        matrix = pixel_matrix(Affine3d())[:, :3]
        yield "affine of volumes", ours(Affine3d()), theirs(lambda x, m: kornia.warp_affine3d(x, m, size), matrix)
        return

    center = torch.tensor([[(size[1] - 1) / 2, (size[0] - 1) / 2]]).expand(count, 2)
    on_device, still = center.to(device), torch.zeros(count, device=device)

    def moved(images: Tensor, shift: Tensor, scale: Tensor, angle: Tensor) -> Tensor:
        matrix = kornia.get_affine_matrix2d(shift, on_device, scale[:, None].expand(-1, 2), angle)
        return kornia.warp_affine(images, matrix[:, :2], size)

    def motion(transform: Transform) -> tuple[Tensor, Tensor, Tensor]:
        """Shift in pixels, scale and angle in degrees, of the content."""
        matrix = pixel_matrix(transform)
        scale = torch.linalg.det(matrix).sqrt()
        angle = torch.rad2deg(torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]))
        shift = (matrix @ torch.cat((center, torch.ones(count, 1)), 1)[..., None])[:, :2, 0] - center
        return shift, scale, angle

    shift, scale, _ = motion(Attention())
    yield "attention", ours(Attention()), theirs(lambda x, t, s: moved(x, t, s, still), shift, scale)
    yield "similarity", ours(Similarity()), theirs(moved, *motion(Similarity()))
    matrix = pixel_matrix(Affine())[:, :2]
    yield "affine", ours(Affine()), theirs(lambda x, m: kornia.warp_affine(x, m, size), matrix)
    matrix = pixel_matrix(Projective())
    yield "projective", ours(Projective()), theirs(lambda x, m: kornia.warp_perspective(x, m, size), matrix)

    spline = ThinPlateSpline()
    start = spline.centers_N2.to(device)

    def bent(images: Tensor, points: Tensor) -> Tensor:
        return kornia.warp_image_tps(images, points, *kornia.get_tps_transform(start.expand_as(points), points))

    yield "tps", ours(ThinPlateSpline()), theirs(bent, spline.readable(random_theta(spline, count)))


def compare(name: str, ours: Side, theirs: Side, images: Tensor) -> None:
    """Whether both sides do the same."""
    mine, other = (side.warp(images, *side.numbers) for side in (ours, theirs))
    if name != "tps":
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=0)
    assert mine.shape == other.shape and (mine - images).abs().mean() > 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="each gives a median")
    parser.add_argument("--rounds", type=int, default=15, help="in each repeat, both sides in each")
    parser.add_argument("--batch", type=int, default=256, help="images; of volumes a sixteenth")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU; all cores if left out")
    arguments = parser.parse_args()
    kornia = other_side()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures: dict[str, list[float]] = defaultdict(list)
    for channels, *size in (*IMAGES, *VOLUMES):
        count = arguments.batch if len(size) == 2 else max(1, arguments.batch // 16)
        images = torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(1)).to(device)
        gradient = torch.randn_like(images)
        for name, mine, other in pairs(kornia, count, tuple(size), device):
            compare(name, mine, other, images)
            for which in PASSES:
                for number in range(-1, arguments.repeats):  # the first one warms up
                    taken: tuple[list[float], ...] = ([], [])
                    for turn in range(arguments.rounds):
                        for place in (turn % 2, 1 - turn % 2):  # who follows whom alternates, too
                            taken[place].append((mine, other)[place].seconds(images, gradient, which))
                    ours, theirs = (1e3 * statistics.median(seconds) for seconds in taken)
                    if number >= 0:
                        what = f"{name}, {count} × {'×'.join(map(str, (channels, *size)))}, {which}"
                        figures[f"{what}: ours, ms"].append(ours)
                        figures[f"{what}: kornia, ms"].append(theirs)
                        figures[f"{what}: kornia / ours"].append(theirs / ours)
    slower = [what for what, ratios in figures.items() if "/" in what and statistics.fmean(ratios) < 1]
    report("transforms", dict(figures))
    print(f"slower than kornia: {'; '.join(slower) or 'none'}")


if __name__ == "__main__":
    run(main)
