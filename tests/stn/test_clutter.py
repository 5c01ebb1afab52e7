"""Clutter: source and target positions of the pieces, their distributions, and the maximum of pixels."""

import numpy as np
import pytest
import scipy.stats
import torch

from stn.clutter import add_clutter, draw_clutter, piece_size

SIZE, FRAME = (60, 60), (28, 28)


def draw(count: int, pieces: int = 6, size=SIZE, frame=FRAME) -> torch.Tensor:
    return draw_clutter(count, pieces, size, frame, torch.Generator().manual_seed(0))


def test_pieces_of_mnist_digits_have_6_pixels_and_scale_with_the_image():
    assert piece_size((28, 28)) == (6, 6)
    assert piece_size((56, 14)) == (12, 3)
    assert piece_size((2, 2)) == (1, 1)


def test_sources_and_positions_of_pieces_are_uniform():
    values = draw(3000).reshape(-1, 5).numpy()
    own = np.repeat(np.arange(3000), 6)
    ahead = (values[:, 0] - own) % 3000
    assert ahead.min() == 1, "an image has a piece of itself"
    assert scipy.stats.kstest(ahead, "uniform", args=(1, 2999)).pvalue > 0.01
    # Pieces are cut from the central 28 pixels, which hold the digit, and placed entirely inside the image.
    for column, low, high in [(1, 16, 16 + 22), (2, 16, 16 + 22), (3, 0, 54), (4, 0, 54)]:
        places, counts = np.unique(values[:, column], return_counts=True)
        assert places.tolist() == list(range(low, high + 1))
        assert scipy.stats.chisquare(counts).pvalue > 0.01
    correlations = np.corrcoef(values[:, 1:].T) - np.eye(4)
    assert np.abs(correlations).max() < 0.03


@pytest.mark.parametrize("channels", [1, 3])
def test_pieces_are_copied_from_the_sources_and_the_brighter_pixel_is_kept(channels):
    random = np.random.default_rng(0)
    sources = random.integers(256, size=(5, channels, 30, 40), dtype=np.uint8)
    images = random.integers(256, size=(5, channels, 30, 40)).astype(np.float32)
    pieces = draw(5, 4, (30, 40), (14, 28))  # 3×6 pixels
    expected = images.copy()
    for i, of_image in enumerate(pieces.tolist()):
        for source, from_y, from_x, to_y, to_x in of_image:
            place = expected[i, :, to_y : to_y + 3, to_x : to_x + 6]
            np.maximum(place, sources[source, :, from_y : from_y + 3, from_x : from_x + 6], out=place)
    cluttered = add_clutter(torch.from_numpy(images), pieces, torch.from_numpy(sources), (14, 28))
    np.testing.assert_array_equal(cluttered.numpy(), expected)
    assert (expected != images).any((1, 2, 3)).all()


def test_zero_pieces_change_nothing_and_a_single_image_is_its_own_source():
    images = torch.rand(1, 1, 28, 28)
    assert torch.equal(add_clutter(images, draw(1, 0, FRAME), images, FRAME), images)
    assert (draw(1, 6, FRAME)[..., 0] == 0).all()
