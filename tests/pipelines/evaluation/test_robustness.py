"""Images that are moved by a known amount, and the mean accuracy over a range of amounts."""

import pytest
import torch
from torch import Tensor

from pipelines.evaluation.robustness import area, move
from pipelines.outputs.evaluation_results import MOTIONS, ROTATION

SCALE, SHIFT = MOTIONS[1:]


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (5, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: motion.name)
def test_there_is_one_amount_at_which_nothing_moves(motion, images):
    same = [amount for amount in motion.amounts if torch.equal(move(images, motion, amount), images)]
    assert same == [motion.still] and list(motion.amounts) == sorted(motion.amounts)


@pytest.mark.parametrize("quarter_turns", [-1, 1])
def test_a_quarter_turn(quarter_turns, images):
    """Clockwise by 90 degrees is what rot90 does the other way around."""
    assert torch.equal(move(images, ROTATION, 90 * quarter_turns), torch.rot90(images, -quarter_turns, (2, 3)))


def test_shifted_by_whole_pixels_to_the_right_and_downward(images):
    moved = move(images, SHIFT, 0.25)
    assert torch.equal(moved[:, :, 3:, 3:], images[:, :, :-3, :-3])
    assert not moved[:, :, :3].any() and not moved[..., :3].any()


def test_shrunk_to_half_each_pixel_is_the_mean_of_two_by_two(images):
    moved = move(images, SCALE, 0.5)
    halved = torch.nn.functional.avg_pool2d(images.float(), 2)
    assert (moved[:, :, 3:9, 3:9] - halved).abs().max() <= 0.5
    assert moved.sum() == moved[:, :, 3:9, 3:9].sum()


def test_the_area_is_the_mean_over_the_range_not_over_the_amounts():
    assert area([0, 1, 2, 4], [0.5, 0.5, 0.5, 0.5]) == 0.5
    # A triangle over [0, 1], nothing over [1, 3].
    assert area([0, 1, 3], [1, 0, 0]) == pytest.approx(1 / 6)
