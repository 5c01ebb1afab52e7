"""Several transforms in place of one: in series, the image resampled once, and in parallel, an image for each."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stn.spatial_transformer import SpatialTransformer
from stn.transforms import Affine, Attention, Transform


def compose(transforms: Sequence[Transform]) -> Transform:
    """One transform that does what these do one after another, the first one to the image itself.

    Its θ is theirs, side by side. A point of the output is mapped by the last transform first, so what the first one
    would have resampled is never made: the image is resampled once, by the composed map. Affine families are composed
    as matrices.
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
        """Where a regular 4×4 grid over the output lies in the input: (B, 16, 2), as for thin plate splines."""
        line = torch.linspace(-1, 1, 4, dtype=theta.dtype, device=theta.device)
        return self.map(theta, torch.cartesian_prod(line, line).flip(1))


class _AffineChain(Affine, _Chain):
    """Affine transforms composed as matrices; all but the parts is an affine transform's."""

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
    """Several transforms of one family on the same image, as for the birds and the addition of two digits in Jaderberg
    et al. (2015), section 4.3 and appendix A.

    θ (B, heads · P) holds theirs side by side, the grids (B, heads · height, width, 2) stand one above the other, so
    that all are computed and sampled at once. Crops of a fixed scale start spread evenly over the image, all others at
    the identity; what tells those apart is that the classifier has other weights for each.

    Args:
        transform: the family, with its bound.
        heads: how many of it.
    """

    def __init__(self, transform: Transform, heads: int):
        starts = [transform.identity] * heads
        if isinstance(transform, Attention) and transform.scale is not None:
            starts = _spread(heads, 1 - transform.scale)
        super().__init__(transform.bound, [number for start in starts for number in start])
        self.transform, self.heads = transform, heads

    def each(self, theta: Tensor) -> Tensor:
        """θ (B, heads · P) as that of each head, (B · heads, P)."""
        return theta.reshape(-1, len(self.transform.identity))

    def grid(self, theta: Tensor, *size: int) -> Tensor:
        grids = self.transform.grid(self.each(theta), *size)
        return grids.reshape(-1, self.heads * size[0], *grids.shape[2:])

    def readable(self, theta: Tensor) -> Tensor:
        """Each head's own form: (B, heads, 2, 3), (B, heads, 3, 3) or (B, heads, N, 2)."""
        return self.transform.readable(self.each(theta)).unflatten(0, (-1, self.heads))

    def describe(self, theta: Tensor, *size: int) -> dict[str, Tensor]:
        """The family's quantities for each head, its number behind the name: ``scale_1``, ``scale_2``, ..."""
        described = self.transform.describe(self.each(theta), *size)
        return {
            f"{name}_{head + 1}": values.view(-1, self.heads)[:, head]
            for head in range(self.heads)
            for name, values in described.items()
        }


def _spread(count: int, reach: float) -> list[tuple[float, float]]:
    """Shifts (x, y) of ``count`` crops in rows that together tile the image, each at most ``reach`` from its center."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    x, y = ([reach * (2 * i + 1 - n) / max(1, n - 1) for i in range(n)] for n in (columns, rows))
    return [(x[i % columns], y[i // columns]) for i in range(count)]


class Series(SpatialTransformer):
    """Spatial transformers one after another, each with a localization network that sees the image as the transforms
    before it left it. Each of these looks, and the result, is the image itself resampled once by the composed
    transforms, never a resampled image resampled (after Lin and Lucey, "Inverse Compositional Spatial Transformer
    Networks", 2017).

    Args:
        localizations: one for each transform, each for images of the input's shape.
        transforms: of any families, in the order in which they are applied to the image.
        options: those of :class:`SpatialTransformer`.
    """

    def __init__(self, localizations: Sequence[nn.Module], transforms: Sequence[Transform], **options):
        super().__init__(nn.ModuleList(localizations), transform=compose(transforms), **options)
        self.steps = nn.ModuleList(transforms)
        self.so_far = nn.ModuleList(compose(transforms[:i]) for i in range(1, len(transforms)))

    def localizations(self) -> list[nn.Module]:
        return list(self.localization.children())

    def theta(self, images: Tensor) -> Tensor:
        thetas: list[Tensor] = []
        for i, localization in enumerate(self.localizations()):
            seen = images
            if i > 0:
                seen = self.sampler(images, self.so_far[i - 1](torch.cat(thetas, 1), *images.shape[-2:]))
            thetas.append(self.steps[i].bounded(localization(seen)))  # pyright: ignore[reportCallIssue]
        return torch.cat(thetas, 1)
