"""ThetaWatch: what is undone is right for transformers whose answer is known, and watching changes nothing."""

import math

import pytest
import torch
from torch import Tensor

from stn.batches import Augmentation, Batches
from stn.classifiers import Network
from stn.composition import Parallel
from stn.distortions import sampling_matrix
from stn.settings import Normalization
from stn.spatial_transformer import SpatialTransformer
from stn.theta_watch import VIEWS, ThetaWatch, watch_theta
from stn.transforms import Affine, Transform

SIZE, WATCHED = (20, 30), [5, 0, 3]
IMAGES = torch.randint(256, (6, 1, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NAMES = {"theta_undone_rotation", "theta_undone_scale", "theta_undone_shift"}


def batches(margin: int = 0) -> Batches:
    normalization = Normalization([0.5], [0.25])
    augmentation = Augmentation(flip=margin > 0, shift=margin)
    return Batches(IMAGES, torch.zeros(6, dtype=torch.long), normalization, torch.device("cpu"), augmentation)


class Oracle(SpatialTransformer):
    """Undoes ``share`` of the motion of each view, which it knows from their order, after a turn of its own."""

    def __init__(self, share: float, transform: Transform | None = None, output_size: tuple[int, int] | None = None):
        super().__init__(torch.nn.Identity(), transform=transform, output_size=output_size)
        self.share = share

    def theta(self, images: Tensor) -> Tensor:
        angle, scale, shift = (column * 1.0 for column in torch.tensor(VIEWS).unbind(1))
        undone = self.share * angle, scale**self.share, self.share * shift, self.share * shift
        last = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(len(VIEWS), 1, 3)
        motions = torch.cat((sampling_matrix(*undone, aspect=1.5), last), 1)
        own = torch.tensor([[0.5, 0.3, 0.0], [-0.4, 0.6, 0.0], [0.0, 0.0, 1.0]]) if self.share else torch.eye(3)
        maps = (torch.linalg.inv(motions) @ own)[:, :2]
        per_view = len(images) // len(VIEWS)
        return maps.flatten(1).repeat_interleave(per_view, 0).repeat(1, self.transform.heads)


def measured(transformer: SpatialTransformer, images: Batches) -> dict[str, float]:
    network = Network(torch.nn.Identity(), transformer)
    watch = watch_theta(network, images, WATCHED)
    assert watch is not None
    return watch.measure(network, torch.tensor(transformer.transform.identity).repeat(6, 1))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("transform", [Affine(), Parallel(Affine(), 2)], ids=["affine", "parallel"])
@pytest.mark.parametrize("output_size", [None, (10, 15)])
def test_the_slopes_are_the_share_that_is_undone(share, transform, output_size):
    metrics = measured(Oracle(share, transform, output_size), batches())
    assert {name: metrics[name] for name in NAMES} == pytest.approx(dict.fromkeys(NAMES, share), abs=1e-5)


def test_one_image_whose_theta_jumps_by_half_a_turn_does_not_count():
    class Jumps(Oracle):
        def theta(self, images: Tensor) -> Tensor:
            maps = super().theta(images)
            maps[len(images) // len(VIEWS) * 2] *= -1  # the first image, turned by the third view
            return maps

    assert measured(Jumps(1.0), batches())["theta_undone_rotation"] == pytest.approx(1, abs=1e-5)


def test_the_views_are_those_of_the_watched_images():
    """The second view is the image itself, also for images with a margin and mirrored copies."""
    for images in (batches(), batches(margin=3)):
        transformer = Oracle(0.0)
        views = ThetaWatch(transformer, images, WATCHED).views.unflatten(0, (len(VIEWS), -1))
        assert torch.allclose(images.denormalize(views[1]), IMAGES[WATCHED].float(), atol=1e-3)
        assert not torch.allclose(views[0], views[1])
        shown = images.denormalize(views[6])  # shifted by a tenth of the size to the right and down
        assert torch.allclose(shown[..., 2:, 3:], IMAGES[WATCHED].float()[..., :-2, :-3], atol=1e-3)
        assert shown[..., :2, :].abs().max() < 1e-3, "uncovered pixels are black"


def test_a_transformer_that_looks_outside_shows_one_color():
    class Lost(SpatialTransformer):
        def theta(self, images: Tensor) -> Tensor:
            return torch.tensor([[-1.0, 0, 9, 0, 1, 9]]).repeat(len(images), 1)

    transformer = Lost(torch.nn.Identity())
    network = Network(torch.nn.Identity(), transformer)
    metrics = ThetaWatch(transformer, batches(), WATCHED).measure(network, transformer.theta(IMAGES))
    assert metrics["theta_one_color"] == metrics["theta_mirrored"] == 1 and metrics["theta_spread"] == 0
    assert {name: metrics[name] for name in NAMES} == dict.fromkeys(NAMES, 0.0)


def test_the_metrics_of_a_transformer_held_at_the_identity_are_numbers():
    """JSON has no NaN: such a training could not be recorded."""
    metrics = measured(Oracle(0.0, Affine(bound=1e-6)), batches())
    assert "theta_spread" not in metrics and all(math.isfinite(value) for value in metrics.values())


def test_watching_draws_no_random_numbers():
    state = torch.get_rng_state()
    measured(Oracle(1.0), batches())
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_transformer_nothing_is_watched():
    assert watch_theta(Network(torch.nn.Identity()), batches(), WATCHED) is None
