"""Trouble in θ: each kind is found by its own sign, and a transformer that works shows none."""

import pytest
import torch
from torch import Tensor

from stn.composition import Parallel, compose
from stn.spatial_transformer import SpatialTransformer
from stn.theta_trouble import SAME, VARIED, Symptoms, Trouble, first_epochs, mirrored, one_color, spread
from stn.transforms import Affine, Projective, Similarity, ThinPlateSpline, Transform

HEALTHY = Symptoms(outside=0.3, mirrored=0.1, one_color=0.2, spread=0.05)
IDENTITY = torch.tensor(Affine.identity)


def epochs(*spreads: float, **signs: float) -> list[dict[str, float]]:
    """The metrics of epochs with these spreads of θ."""
    symptoms = HEALTHY._replace(**signs)._asdict()
    return [{f"theta_{name}": value for name, value in (symptoms | {"spread": each}).items()} for each in spreads]


@pytest.mark.parametrize(
    ("sign", "value", "kind"),
    [
        ("outside", 0.51, Trouble.OUTSIDE), ("mirrored", 0.51, Trouble.MIRRORED),
        ("one_color", 0.51, Trouble.ONE_COLOR), ("spread", 0.9 * SAME, Trouble.CONSTANT),
    ],
)  # fmt: skip
def test_each_sign_is_one_kind_of_trouble(sign, value, kind):
    assert HEALTHY.trouble == []
    assert HEALTHY._replace(**{sign: value}).trouble == [kind]
    assert kind.description


def test_half_of_the_grid_or_the_images_is_no_trouble_yet():
    assert Symptoms(0.5, 0.5, 0.5, SAME).trouble == []


def test_what_is_not_known_is_no_trouble():
    assert HEALTHY._replace(spread=None, outside=float("nan")).trouble == []


def test_metrics_without_a_spread_show_no_constant_theta():
    metrics = epochs(0.0)[0]
    del metrics["theta_spread"]
    assert Symptoms.from_metrics(metrics) == HEALTHY._replace(spread=None)
    assert first_epochs([metrics], 1) == {} and first_epochs(epochs(0.0), 1) == {Trouble.CONSTANT: 1}


def test_the_worst_head_counts_for_what_lies_outside():
    metrics = epochs(0.1)[0]
    outside = metrics.pop("theta_outside")
    symptoms = Symptoms.from_metrics(metrics | {"theta_outside_1": outside, "theta_outside_2": 0.9})
    assert symptoms is not None and symptoms.outside == 0.9
    assert Symptoms.from_metrics({"validation_loss": 1.0}) is None


def test_theta_that_starts_at_the_identity_is_trouble_only_at_the_end():
    assert first_epochs(epochs(0, 0, 0), epochs=4) == {}
    assert first_epochs(epochs(0, 0, 0, 0), epochs=4) == {Trouble.CONSTANT: 4}
    assert first_epochs(epochs(0, 0, 0, 0.1), epochs=4) == {}


def test_theta_that_has_differed_and_then_is_the_same_is_trouble_at_once():
    assert first_epochs(epochs(0, 2 * VARIED, 0, 0), epochs=9) == {Trouble.CONSTANT: 3}
    assert first_epochs(epochs(0, 0.5 * VARIED, 0, 0), epochs=9) == {}


def test_the_first_epoch_of_each_kind_is_kept():
    history = epochs(0.1) + epochs(0.1, 0.1, outside=0.9) + epochs(0.1, outside=0.9, mirrored=1.0) + epochs(0.1)
    assert first_epochs(history, epochs=5) == {Trouble.OUTSIDE: 2, Trouble.MIRRORED: 4}
    assert first_epochs([{"validation_loss": 1.0}], epochs=1) == {}


@pytest.mark.parametrize("transform", [Affine(), Similarity(), Projective(), ThinPlateSpline(), Parallel(Affine(), 2)])
def test_the_spread_is_that_of_the_parameter_that_differs_most(transform):
    theta = torch.tensor(transform.identity).repeat(4, 1)
    assert spread(transform, theta) == 0
    theta[:, 1] += torch.tensor([-0.2, 0.2, -0.2, 0.2])
    theta[:, 0] += torch.tensor([0.1, 0.1, -0.1, -0.1])
    assert spread(transform, theta) == pytest.approx(0.2)


@pytest.mark.parametrize("make", [lambda bound: Affine(bound), lambda bound: Parallel(Similarity(bound), 2),
                                  lambda bound: compose([Affine(bound), ThinPlateSpline()])])  # fmt: skip
def test_a_transformer_that_may_move_little_is_measured_by_its_bound(make):
    transform = make(0.05)
    theta = torch.tensor(transform.identity).repeat(2, 1)
    theta[0, 1] += 1e-3
    assert spread(transform, theta) == pytest.approx(0.01, rel=1e-3)
    of_wide = spread(make(10.0), theta)
    assert of_wide is not None and of_wide < SAME
    assert spread(make(0.9 * VARIED), theta) is None, "a control that is held at the identity"


def test_a_single_image_has_no_spread():
    assert spread(Affine(), IDENTITY[None]) is None


def test_large_theta_does_not_hide_that_it_differs():
    theta = torch.full((1000, 6), 600.0)
    assert spread(Affine(), theta) == 0
    theta[::2] += 0.01
    assert spread(Affine(), theta) == pytest.approx(0.005, rel=0.01)


@pytest.mark.parametrize("transform", [Affine(), Similarity(), Projective(), ThinPlateSpline()])
def test_images_that_are_mirrored_are_counted(transform: Transform):
    theta = torch.tensor(transform.identity).repeat(4, 1)
    assert mirrored(transform, theta) == 0
    if isinstance(transform, ThinPlateSpline):
        theta[:3] = (theta[:3].view(3, -1, 2) * torch.tensor([-1.0, 1.0])).flatten(1)
    else:
        theta[:3, 0] = -1
    assert mirrored(transform, theta) == (0 if isinstance(transform, Similarity) else 0.75)


def test_one_mirrored_head_counts():
    theta = torch.cat((IDENTITY, -IDENTITY, torch.tensor([-1.0, 0, 0, 0, 1, 0]))).repeat(5, 1)
    assert mirrored(Parallel(Affine(), 3), theta) == 1  # two negative factors turn the image and do not mirror it


def rectified(transform: Transform, theta: Tensor, images: Tensor, padding_mode: str) -> Tensor:
    return SpatialTransformer(torch.nn.Identity(), padding_mode, transform).resample(images, theta)


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_images_of_one_color_are_counted(padding_mode):
    images = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    theta = IDENTITY.repeat(4, 1)
    assert one_color(images, rectified(Affine(), theta, images, padding_mode), 1) == 0
    theta[:3, 2] = 9.0  # far to the right of the image: all zeros, or the right border
    theta[0, 4] = 0.0  # one row of it
    theta[1:3, 3:] = torch.tensor([0.0, 0.0, 9.0])
    theta[:3, 0] = 0.0
    assert one_color(images, rectified(Affine(), theta, images, padding_mode), 1) == 0.75
    images[:2] = 0.5  # were of one color before
    assert one_color(images, rectified(Affine(), theta, images, padding_mode), 1) <= 0.5


def test_one_head_that_shows_one_color_counts():
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    theta = torch.cat((IDENTITY, torch.tensor([1.0, 0, 9, 0, 1, 9]))).repeat(4, 1)
    heads = Parallel(Affine(), 2)
    assert one_color(images, rectified(heads, theta, images, "zeros"), 2) == 1
