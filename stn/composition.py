"""Compositions of transforms: in series, with one resampling, and in parallel, with one image per transform."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stn.spatial_transformer import SpatialTransformer
from stn.transforms import Affine, Attention, Transform


def compose(transforms: Sequence[Transform]) -> Transform:
    """Compose transforms into one transform. The first one is applied first to the image.

    The θ of the composition is the concatenation of their θ. A point of the output is mapped by the last transform
    first. Intermediate images are therefore never computed: the image is resampled once, by the composed map. Affine
    families are composed as matrices.
    """
    if len(transforms) == 1:
        return transforms[0]
    affine = all(isinstance(transform, Affine) for transform in transforms)
    return _AffineChain(transforms) if affine else _Chain(transforms)


class _Chain(Transform):
    """Transforms of any families, composed as maps."""

    def __init__(self, parts: Sequence[Transform]):
        super().__init__(identity=[number for part in parts for number in part.identity])
        self.parts = nn.ModuleList(parts)
        self.sizes = [len(part.identity) for part in parts]

    def map(self, theta: Tensor, points: Tensor) -> Tensor:
        for part, own in reversed(list(zip(self.parts, theta.split(self.sizes, 1), strict=True))):
            points = part.map(own, points)  # pyright: ignore[reportCallIssue]
        return points

    def readable(self, theta: Tensor) -> Tensor:
        """Return the input positions (B, 16, 2) of a regular 4×4 grid of the output, as for thin plate splines."""
        line = torch.linspace(-1, 1, 4, dtype=theta.dtype, device=theta.device)
        return self.map(theta, torch.cartesian_prod(line, line).flip(1))


class _AffineChain(Affine, _Chain):
    """Affine transforms composed as matrices. Everything except the parts is inherited from the affine family."""

    def matrix(self, theta: Tensor) -> Tensor:
        first, *others = (
            part.matrix(own)  # pyright: ignore[reportCallIssue]
            for part, own in zip(self.parts, theta.split(self.sizes, 1), strict=True)
        )
        for other in others:
            linear, shift = first[:, :, :-1] @ other, first[:, :, -1:]
            first = torch.cat((linear[:, :, :-1], linear[:, :, -1:] + shift), 2)
        return first


class Parallel(Transform):
    """Several transforms of one family applied to the same image.

    Jaderberg et al. (2015) use parallel transformers for birds (section 4.3) and for the addition of two digits
    (appendix A). θ (B, heads · P) is the concatenation of the θ of all heads. The grids are stacked vertically,
    (B, heads · height, width, 2), so that all heads are computed and sampled at once. Crops of a fixed scale start
    evenly spread over the image. All other heads start at the identity and differ only because the classifier has
    different weights for each head.

    Args:
        transform: the family, with its bound.
        heads: number of transforms.
    """

    def __init__(self, transform: Transform, heads: int):
        starts = [transform.identity] * heads
        if isinstance(transform, Attention) and transform.scale is not None:
            starts = _tile_centers(heads, 1 - transform.scale)
        super().__init__(transform.bound, [number for start in starts for number in start])
        self.transform, self.heads = transform, heads

    def split_heads(self, theta: Tensor) -> Tensor:
        """Reshape θ (B, heads · P) to the θ of each head, (B · heads, P)."""
        return theta.reshape(-1, len(self.transform.identity))

    def grid(self, theta: Tensor, *size: int) -> Tensor:
        grids = self.transform.grid(self.split_heads(theta), *size)
        return grids.reshape(-1, self.heads * size[0], *grids.shape[2:])

    def readable(self, theta: Tensor) -> Tensor:
        """Return the usual form of each head: (B, heads, 2, 3), (B, heads, 3, 3) or (B, heads, N, 2)."""
        return self.transform.readable(self.split_heads(theta)).unflatten(0, (-1, self.heads))

    def describe(self, theta: Tensor, *size: int) -> dict[str, Tensor]:
        """Describe each head by the quantities of the family, numbered by head: ``scale_1``, ``scale_2``, ..."""
        described = self.transform.describe(self.split_heads(theta), *size)
        return {
            f"{name}_{head + 1}": values.view(-1, self.heads)[:, head]
            for head in range(self.heads)
            for name, values in described.items()
        }


def _tile_centers(count: int, reach: float) -> list[tuple[float, float]]:
    """Return shifts (x, y) of ``count`` crops in rows that tile the image, each shift at most ``reach``."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    x, y = ([reach * (2 * i + 1 - n) / max(1, n - 1) for i in range(n)] for n in (columns, rows))
    return [(x[i % columns], y[i // columns]) for i in range(count)]


class Series(SpatialTransformer):
    """Spatial transformers in series, resampled once.

    Each localization network sees the image as rectified by the transforms before it. Each of these images, and the
    result, is resampled once from the input image by the composed transforms, so that no image is resampled twice
    (after Lin and Lucey, "Inverse Compositional Spatial Transformer Networks", 2017).

    Args:
        localizations: one network for each transform, each for images of the input's shape.
        transforms: of any families, in the order in which they are applied to the image.
        options: options of :class:`SpatialTransformer`.
    """

    def __init__(self, localizations: Sequence[nn.Module], transforms: Sequence[Transform], **options):
        super().__init__(nn.ModuleList(localizations), transform=compose(transforms), **options)
        self.steps = nn.ModuleList(transforms)
        self.prefixes = nn.ModuleList(compose(transforms[:i]) for i in range(1, len(transforms)))

    def localizations(self) -> list[nn.Module]:
        return list(self.localization.children())

    def theta(self, images: Tensor) -> Tensor:
        thetas: list[Tensor] = []
        for i, localization in enumerate(self.localizations()):
            seen = images
            if i > 0:
                seen = self.sampler(images, self.prefixes[i - 1](torch.cat(thetas, 1), *images.shape[-2:]))
            thetas.append(self.steps[i].bounded(localization(seen)))  # pyright: ignore[reportCallIssue]
        return torch.cat(thetas, 1)
