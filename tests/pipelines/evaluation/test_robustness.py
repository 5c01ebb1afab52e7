"""Images moved by a known amount, and mean accuracy over a range of amounts."""

import pytest
import torch
from torch import Tensor

from pipelines.evaluation.robustness import area, move
from pipelines.outputs.motions import MOTIONS, ROTATION

SCALE, SHIFT = MOTIONS[1:]


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (5, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: motion.name)
def test_exactly_one_amount_leaves_the_images_unchanged(motion, images):
    same = [amount for amount in motion.amounts if torch.equal(move(images, motion, amount), images)]
    assert same == [motion.still] and list(motion.amounts) == sorted(motion.amounts)


@pytest.mark.parametrize("quarter_turns", [-1, 1])
def test_a_quarter_turn(quarter_turns, images):
    """Positive amounts rotate clockwise, ``torch.rot90`` counterclockwise."""
    assert torch.equal(move(images, ROTATION, 90 * quarter_turns), torch.rot90(images, -quarter_turns, (2, 3)))


def test_a_positive_shift_moves_content_to_the_right_and_down(images):
    moved = move(images, SHIFT, 0.25)
    assert torch.equal(moved[:, :, 3:, 3:], images[:, :, :-3, :-3])
    assert not moved[:, :, :3].any() and not moved[..., :3].any()


def test_at_half_scale_each_pixel_is_the_mean_of_a_two_by_two_block(images):
    moved = move(images, SCALE, 0.5)
    halved = torch.nn.functional.avg_pool2d(images.float(), 2)
    assert (moved[:, :, 3:9, 3:9] - halved).abs().max() <= 0.5
    assert moved.sum() == moved[:, :, 3:9, 3:9].sum()


def test_the_area_is_the_mean_over_the_range_and_not_over_the_amounts():
    assert area([0, 1, 2, 4], [0.5, 0.5, 0.5, 0.5]) == 0.5
    # A triangle over [0, 1] and zero over [1, 3].
    assert area([0, 1, 3], [1, 0, 0]) == pytest.approx(1 / 6)
