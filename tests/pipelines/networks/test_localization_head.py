"""The head of localization networks of timm: it starts at the identity and keeps where something is."""

import pytest
import torch
from torch import nn

from pipelines.networks.localization_head import HeadedLocalization, features_shape
from pipelines.settings.variants import LocalizationHeadParams

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def make_head(size: tuple[int, int], **params) -> HeadedLocalization:
    """A head on the pixels of gray images, whose last layer is no longer zero."""
    torch.manual_seed(0)
    head = HeadedLocalization(
        nn.Identity(), (1, *size), IDENTITY, LocalizationHeadParams(channels=2, hidden=[], **params)
    )  # fmt: skip
    nn.init.normal_(head.head[-1].weight)  # pyright: ignore[reportArgumentType]
    return head


@pytest.mark.parametrize("size", [(1, 8), (8, 1), (2, 16), (8, 8)])
def test_a_pool_keeps_the_position_along_each_side_that_is_long_enough(size):
    """θ differs between images with a bright spot at either end of the longer side."""
    head = make_head(size, pool=4)
    spots = torch.zeros(2, 1, *size)
    spots[0, 0, 0, 0] = spots[1, 0, -1, -1] = 9.0
    first, last = head(spots)
    assert (first - last).abs().max() > 0.1
    assert not torch.equal(head(spots), torch.tensor(IDENTITY).expand(2, 6))


def test_the_input_size_decides_what_the_features_see():
    assert features_shape(nn.Identity(), (3, 40, 20), None) == (3, 40, 20)
    assert features_shape(nn.Identity(), (3, 40, 20), [10, 5]) == (3, 10, 5)
    head = make_head((8, 4), input_size=[8, 4])
    assert head(torch.rand(2, 1, 40, 20)).shape == (2, 6)
    with pytest.raises(ValueError, match="no image features"):
        features_shape(nn.Flatten(), (3, 40, 20), None)
