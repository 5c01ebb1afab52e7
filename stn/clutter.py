"""Clutter: small pieces of other images placed on an image.

The translated and cluttered MNIST of Jaderberg et al. (2015) has such clutter, after Mnih et al., "Recurrent Models of
Visual Attention" (2014).
"""

import torch
from torch import Tensor

PIECE = 6 / 28  # side of a piece as a share of the source image, from 6×6 pixels of MNIST: a choice of this library


def draw_clutter(
    count: int, pieces: int, size: tuple[int, int], frame: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Draw the pieces of clutter for ``count`` images: int64 (count, pieces, 5), on the CPU.

    The last dimension holds the index of the source image, the upper left corner of the piece in the source image
    (row, column), and its upper left corner in the cluttered image (row, column). The source is never the image itself
    unless ``count`` is 1. All values are independent and uniform.

    Args:
        count: number of images.
        pieces: number of pieces on each image.
        size: height and width of the images.
        frame: height and width of the central area that holds the content. Pieces are cut from this area.
        generator: source of random numbers.
    """
    numbers = torch.arange(count)[:, None]
    source = (numbers + 1 + _draw_below(max(1, count - 1), count, pieces, generator)) % count
    corners = []
    for whole, inner, piece in zip(size, frame, piece_size(frame), strict=True):
        corners.append((whole - inner) // 2 + _draw_below(inner - piece + 1, count, pieces, generator))
    for whole, piece in zip(size, piece_size(frame), strict=True):
        corners.append(_draw_below(whole - piece + 1, count, pieces, generator))
    return torch.stack((source, *corners), 2)


def add_clutter(images: Tensor, drawn: Tensor, sources: Tensor, frame: tuple[int, int]) -> Tensor:
    """Add pieces of ``sources`` (N, C, H, W) to floating-point images (B, C, H, W).

    ``drawn`` (B, pieces, 5) is a result of :func:`draw_clutter`. Each pixel of the result is the maximum of image and
    piece.
    """
    width = images.shape[3]
    rows, columns = piece_size(frame)
    source, from_y, from_x, to_y, to_x = drawn.unbind(2)
    pieces_BNCPQ = sources.unfold(2, rows, 1).unfold(3, columns, 1)[source, :, from_y, from_x].to(images.dtype)
    y = to_y[..., None] + torch.arange(rows, device=images.device)
    x = to_x[..., None] + torch.arange(columns, device=images.device)
    places_BM = (y[..., :, None] * width + x[..., None, :]).flatten(1)
    places_BCM = places_BM[:, None].expand(-1, images.shape[1], -1)
    pieces_BCM = pieces_BNCPQ.transpose(1, 2).flatten(2)
    return images.flatten(2).scatter_reduce(2, places_BCM, pieces_BCM, "amax").view_as(images)


def piece_size(frame: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width in pixels of a piece of an image of ``frame`` (height, width)."""
    height, width = (max(1, round(pixels * PIECE)) for pixels in frame)
    return height, width


def _draw_below(limit: int, count: int, pieces: int, generator: torch.Generator) -> Tensor:
    return torch.randint(limit, (count, pieces), generator=generator)
