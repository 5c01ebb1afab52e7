"""Clutter: small pieces of other images strewn over an image, as in the translated and cluttered MNIST of Jaderberg et
al. (2015), after Mnih et al., "Recurrent Models of Visual Attention" (2014)."""

import torch
from torch import Tensor

PIECE = 6 / 28  # share of the image that it is cut from, of MNIST's 6×6 pixels: a choice of this library


def draw_clutter(
    count: int, pieces: int, size: tuple[int, int], frame: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """For each of ``count`` images, int64 (count, pieces, 5): of which other image a piece is, its upper left corner
    there (row, column) and the one that it gets here.

    Uniform and independent, on the CPU. Images are of ``size`` (height, width); pieces are cut from the ``frame``
    (height, width) in their middle, where the content lies.
    """
    numbers = torch.arange(count)[:, None]
    # Any other image: one to count - 1 further on.
    source = (numbers + 1 + _below(max(1, count - 1), count, pieces, generator)) % count
    corners = []
    for whole, inner, piece in zip(size, frame, piece_size(frame), strict=True):
        corners.append((whole - inner) // 2 + _below(inner - piece + 1, count, pieces, generator))
    for whole, piece in zip(size, piece_size(frame), strict=True):
        corners.append(_below(whole - piece + 1, count, pieces, generator))
    return torch.stack((source, *corners), 2)


def add_clutter(images: Tensor, drawn: Tensor, sources: Tensor, frame: tuple[int, int]) -> Tensor:
    """Floating-point images (B, C, H, W) and on them the pieces ``drawn``, (B, pieces, 5), of ``sources`` (N, C, H, W).

    Of both the brighter one is seen.
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
    """Height and width in pixels of a piece of an image of ``frame`` (height, width)."""
    height, width = (max(1, round(pixels * PIECE)) for pixels in frame)
    return height, width


def _below(limit: int, count: int, pieces: int, generator: torch.Generator) -> Tensor:
    return torch.randint(limit, (count, pieces), generator=generator)
