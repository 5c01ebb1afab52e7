"""Claim: grid and sampling of each family, forward and backward, are as fast as in kornia or faster.

Both sides warp the same batch by the same motions, alternating in one process. The input of our side is θ. The input of
kornia is a matrix between pixels, or shift, scale and angle, from which kornia computes a matrix, or control points.
The pixels of both sides are compared before the measurement, except for splines: kornia solves the spline in each step,
for the positions of the control points in the input; ours is for their positions in the output.

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
from pipelines.runtime.errors import UserError, run_main
from stn import Affine, Affine3d, Attention, Projective, Similarity, SpatialTransformer, ThinPlateSpline
from stn.training import default_device
from stn.transforms import Transform

IMAGES = ((1, 28, 28), (3, 32, 32))
VOLUMES = ((1, 16, 16, 16),)
SPREAD = 0.1  # standard deviation of each parameter of θ around the identity
PASSES = ("forward", "backward to θ", "backward to θ and images")  # backward passes include the forward pass


def import_kornia() -> Any:
    """Import kornia.geometry.transform.

    Raises:
        UserError: kornia is not installed. It is not a dependency of the project.
    """
    try:
        return importlib.import_module("kornia.geometry.transform")
    except ImportError as error:
        raise UserError(f"kornia is missing ({error}); pip install --no-deps kornia kornia_rs") from None


class Side(NamedTuple):
    """One side of a comparison: a function that warps images, and its parameters."""

    warp: Callable[..., Tensor]
    parameters: tuple[Tensor, ...]

    def measure(self, images: Tensor, gradient: Tensor, which: str) -> float:
        """Return the seconds of one of :data:`PASSES`."""
        images = images.detach().requires_grad_(which == PASSES[2])
        parameters = [parameter.detach().requires_grad_() for parameter in self.parameters]
        synchronize()
        started = time.perf_counter()
        with torch.set_grad_enabled(which != PASSES[0]):
            warped = self.warp(images, *parameters)
        if which != PASSES[0]:
            warped.backward(gradient)
        synchronize()
        return time.perf_counter() - started


def synchronize() -> None:
    """Wait for the GPU if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def random_theta(transform: Transform, count: int) -> Tensor:
    identity = torch.tensor(transform.identity)
    return identity + SPREAD * torch.randn(count, len(identity), generator=torch.Generator().manual_seed(0))


def between_pixels(matrices: Tensor, size: tuple[int, ...]) -> Tensor:
    """Convert matrices to kornia's form, from pixels of the input to pixels of the output.

    The argument (B, D + 1, D + 1) maps coordinates in [-1, 1] of the output to those of the input.
    """
    half = torch.tensor([*reversed(size), 2.0]).double() / 2
    to_pixels = torch.diag(half)
    to_pixels[:-1, -1] = half[:-1] - 0.5
    return torch.linalg.inv(to_pixels @ matrices.double() @ torch.linalg.inv(to_pixels)).float()


def append_last_row(matrices: Tensor) -> Tensor:
    """Append the row (0, ..., 0, 1) to affine matrices (B, D, D + 1)."""
    bottom = torch.eye(matrices.shape[2])[-1:].expand(len(matrices), 1, -1)
    return torch.cat((matrices, bottom), 1)


def pairs(kornia: Any, count: int, size: tuple[int, ...], device: torch.device) -> Iterator[tuple[str, Side, Side]]:
    """Yield name, our side and kornia's side of each family for images, or volumes, of ``size``."""

    def ours(transform: Transform) -> Side:
        parameters = (random_theta(transform, count).to(device),)
        return Side(SpatialTransformer(nn.Identity(), transform=transform).to(device).warp, parameters)

    def theirs(warp: Callable[..., Tensor], *parameters: Tensor) -> Side:
        return Side(warp, tuple(parameter.to(device) for parameter in parameters))

    def pixel_matrix(transform: Transform) -> Tensor:
        matrix = transform.readable(random_theta(transform, count))
        return between_pixels(matrix if matrix.shape[1] == matrix.shape[2] else append_last_row(matrix), size)

    if len(size) == 3:
        matrix = pixel_matrix(Affine3d())[:, :3]
        yield "affine of volumes", ours(Affine3d()), theirs(lambda x, m: kornia.warp_affine3d(x, m, size), matrix)
        return

    center = torch.tensor([[(size[1] - 1) / 2, (size[0] - 1) / 2]]).expand(count, 2)
    center_on_device, no_angle = center.to(device), torch.zeros(count, device=device)

    def warp_similarity(images: Tensor, shift: Tensor, scale: Tensor, angle: Tensor) -> Tensor:
        matrix = kornia.get_affine_matrix2d(shift, center_on_device, scale[:, None].expand(-1, 2), angle)
        return kornia.warp_affine(images, matrix[:, :2], size)

    def motion(transform: Transform) -> tuple[Tensor, Tensor, Tensor]:
        """Return shift in pixels, scale, and angle in degrees of the content."""
        matrix = pixel_matrix(transform)
        scale = torch.linalg.det(matrix).sqrt()
        angle = torch.rad2deg(torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]))
        shift = (matrix @ torch.cat((center, torch.ones(count, 1)), 1)[..., None])[:, :2, 0] - center
        return shift, scale, angle

    shift, scale, _ = motion(Attention())
    yield "attention", ours(Attention()), theirs(lambda x, t, s: warp_similarity(x, t, s, no_angle), shift, scale)
    yield "similarity", ours(Similarity()), theirs(warp_similarity, *motion(Similarity()))
    matrix = pixel_matrix(Affine())[:, :2]
    yield "affine", ours(Affine()), theirs(lambda x, m: kornia.warp_affine(x, m, size), matrix)
    matrix = pixel_matrix(Projective())
    yield "projective", ours(Projective()), theirs(lambda x, m: kornia.warp_perspective(x, m, size), matrix)

    spline = ThinPlateSpline()
    start = spline.centers_N2.to(device)

    def warp_spline(images: Tensor, points: Tensor) -> Tensor:
        return kornia.warp_image_tps(images, points, *kornia.get_tps_transform(start.expand_as(points), points))

    yield "tps", ours(ThinPlateSpline()), theirs(warp_spline, spline.readable(random_theta(spline, count)))


def compare(name: str, ours: Side, theirs: Side, images: Tensor) -> None:
    """Check that both sides return the same pixels."""
    our_pixels, their_pixels = (side.warp(images, *side.parameters) for side in (ours, theirs))
    if name != "tps":
        torch.testing.assert_close(our_pixels, their_pixels, atol=1e-3, rtol=0)
    assert our_pixels.shape == their_pixels.shape and (our_pixels - images).abs().mean() > 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="each repeat gives one median")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each side per repeat")
    parser.add_argument("--batch", type=int, default=256, help="number of images; a sixteenth for volumes")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads; default: all cores")
    arguments = parser.parse_args()
    kornia = import_kornia()
    torch.set_num_threads(arguments.threads)
    device = default_device()
    metrics: dict[str, list[float]] = defaultdict(list)
    for channels, *size in (*IMAGES, *VOLUMES):
        count = arguments.batch if len(size) == 2 else max(1, arguments.batch // 16)
        images = torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(1)).to(device)
        gradient = torch.randn_like(images)
        for name, ours, theirs in pairs(kornia, count, tuple(size), device):
            compare(name, ours, theirs, images)
            for which in PASSES:
                label = f"{name}, {count} × {'×'.join(map(str, (channels, *size)))}, {which}"
                for number in range(-1, arguments.repeats):  # the first one warms up
                    seconds: tuple[list[float], ...] = ([], [])
                    for turn in range(arguments.rounds):
                        for index in (turn % 2, 1 - turn % 2):  # the order alternates
                            seconds[index].append((ours, theirs)[index].measure(images, gradient, which))
                    our_ms, their_ms = (1e3 * statistics.median(values) for values in seconds)
                    if number >= 0:
                        metrics[f"{label}: ours, ms"].append(our_ms)
                        metrics[f"{label}: kornia, ms"].append(their_ms)
                        metrics[f"{label}: kornia / ours"].append(their_ms / our_ms)
    slower = [metric for metric, ratios in metrics.items() if "/" in metric and statistics.fmean(ratios) < 1]
    report("transforms", dict(metrics))
    print(f"slower than kornia: {'; '.join(slower) or 'none'}")


if __name__ == "__main__":
    run_main(main)
