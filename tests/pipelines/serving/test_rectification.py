"""Rectification of images by a predicted θ."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.preparation.images import to_pixels
from pipelines.serving.rectification import parse_theta, rectify, to_shown, view_of
from pipelines.settings.image_form import ImageForm
from stn import Affine, Parallel, Projective, Similarity, ThinPlateSpline
from stn.distortions import Distortion
from stn.spatial_transformer import Sampler

IDENTITY = np.array([[[1.0, 0, 0], [0, 1, 0]]])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def rectified(pixels: np.ndarray, theta: np.ndarray, mean: list[float], padding_mode: str) -> np.ndarray:
    height, width = pixels.shape[:2]
    form = ImageForm(height, width, len(mean))
    return np.asarray(rectify(Image.fromarray(pixels), *parse_theta(theta), mean, padding_mode=padding_mode, form=form))


@pytest.mark.parametrize("shape", [(9, 9), (9, 7, 3)])
def test_the_identity_returns_the_image(shape):
    pixels = noise(*shape)
    mean = [0.5] * (1 if len(shape) == 2 else 3)
    np.testing.assert_array_equal(rectified(pixels, IDENTITY, mean, "zeros"), pixels)


def test_a_half_turn_and_the_padding():
    pixels = noise(6, 4, 3)
    np.testing.assert_array_equal(rectified(pixels, -IDENTITY, [0.5] * 3, "border"), pixels[::-1, ::-1])
    # At scale 4 the corners lie outside the image; zeros there is the mean that was subtracted.
    assert rectified(pixels, 4 * IDENTITY, [0.2, 0.4, 0.6], "zeros")[0, 0].tolist() == [51, 102, 153]


@pytest.mark.parametrize(
    "transform",
    [Affine(), Similarity(), Projective(), ThinPlateSpline(control_points=3), Parallel(Similarity(), 2)],
    ids=lambda transform: type(transform).__name__,
)
def test_the_family_is_inferred_from_the_shape_of_theta(transform):
    """The inferred transform gives the grid that the network sampled on."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor(transform.identity) + 0.1 * torch.randn(4, len(transform.identity), generator=generator)
    inferred, parameters = parse_theta(transform.readable(theta).numpy())
    torch.testing.assert_close(inferred(parameters, 6, 5), transform(theta, 6, 5))


# Image and form of equal scale: the network's input then has the pixels of the image.
SAME_SCALE = [
    ((31, 50), ImageForm(31, 50, 3)),
    ((20, 50), ImageForm(32, 50, 3, "pad", (200, 10, 10))),
    ((33, 20), ImageForm(33, 57, 3, "pad", "edge")),
    ((31, 99), ImageForm(31, 40, 3, "crop")),
    ((60, 24), ImageForm(37, 24, 3, "crop")),
]
TURNED = torch.tensor([[0.9, 0.2, 0.1, -0.3, 0.8, -0.1]])
FAMILIES = {
    "affine": (Affine(), TURNED),
    "projective": (Projective(), torch.cat((TURNED, torch.tensor([[0.1, -0.2]])), 1)),
    "tps": (ThinPlateSpline(control_points=2), torch.tensor([[-0.9, -0.7, 0.8, -0.9, -1.1, 0.9, 0.9, 1.2]])),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("canvas", [1.0, 1.5])
@pytest.mark.parametrize(("size", "form"), SAME_SCALE, ids=lambda value: getattr(value, "fit", None))
def test_the_picture_shows_what_the_network_sampled(size, form, canvas, padding_mode, family):
    """The network's own resampling of its input, cut to the image, is the picture, wherever it shows the image."""
    transform, theta = FAMILIES[family]
    pixels, mean, distortion = noise(*size, 3), [0.2, 0.5, 0.7], Distortion(canvas=canvas)
    image = Image.fromarray(pixels)
    options = {"padding_mode": padding_mode, "distortion": distortion}
    picture = np.asarray(rectify(image, transform, theta, mean, form=form, **options)).transpose(2, 0, 1)
    seen = distortion.onto_canvas(torch.tensor(to_pixels(image, form))[None]).float()
    offset = torch.tensor(mean).view(1, 3, 1, 1) * 255
    grid = transform(theta, *seen.shape[-2:])
    sampled = (Sampler(padding_mode)(seen - offset, grid) + offset)[0].numpy()
    # The network may see less of the image than the picture shows: compare points within the frame, by a pixel.
    height, width = seen.shape[-2:]
    share = torch.tensor([form.width - 2, form.height - 2]) / torch.tensor([width, height])
    comparable = (grid[0].abs() < share).all(-1) if form.fit == "crop" else torch.ones(height, width, dtype=torch.bool)
    view = view_of(image.width, image.height, form, distortion)
    right, down = round(view.shown.left - view.seen.left), round(view.shown.top - view.seen.top)
    ours = shifted(picture.astype(float), right, down, (height, width))
    compared = comparable.numpy() & ~np.isnan(ours[0])
    assert compared.mean() > 0.2
    assert np.abs(ours - sampled)[:, compared].max() <= 0.51


def shifted(picture: np.ndarray, right: int, down: int, size: tuple[int, int]) -> np.ndarray:
    """Cut ``size`` out of pixels (C, H, W), which lie this many pixels from its corner; NaN where there are none."""
    beyond = [(0, 0), *((max(0, start), max(0, n)) for start, n in zip((down, right), size, strict=True))]
    extended = np.pad(picture, beyond, constant_values=np.nan)
    top, left = max(0, -down), max(0, -right)
    return extended[:, top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("canvas", [1.0, 60 / 28])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(24, 94), (50, 31), (31, 200)])
def test_the_identity_returns_an_image_of_any_shape(size, fit, canvas):
    pixels = noise(*size, 3)
    form, distortion = ImageForm(24, 94, 3, fit, 99), Distortion(canvas=canvas)
    picture = rectify(
        Image.fromarray(pixels), *parse_theta(IDENTITY), [0.5] * 3, padding_mode="zeros", form=form,
        distortion=distortion,
    )  # fmt: skip
    height, width = distortion.framed(*size)
    assert picture.size == (width, height)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    np.testing.assert_array_equal(np.asarray(picture)[top : top + size[0], left : left + size[1]], pixels)


@pytest.mark.parametrize("canvas", [1.0, 1.5])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(24, 94), (60, 50), (31, 200)])
def test_theta_in_the_coordinates_of_the_image_makes_the_same_picture(size: tuple[int, int], fit, canvas):
    """A network that sees the image itself, with this θ, samples the same points."""
    ramp = np.indices(size).transpose(1, 2, 0)[..., [0, 1, 1]].astype(np.uint8)
    image, distortion = Image.fromarray(ramp), Distortion(canvas=canvas)
    small = torch.tensor([[0.5, 0.05, 0.05, -0.1, 0.45, -0.05]])
    form, own = ImageForm(24, 94, 3, fit), ImageForm(*size, 3)
    mapped = to_shown(Affine(), small, view_of(image.width, image.height, form, distortion))
    options = {"padding_mode": "border", "distortion": distortion}
    first = rectify(image, Affine(), small, [0.5] * 3, form=form, **options)
    second = rectify(image, Affine(), mapped, [0.5] * 3, form=own, **options)
    difference = np.asarray(first).astype(int) - np.asarray(second)
    assert np.abs(difference).mean() < 0.5 and np.quantile(np.abs(difference), 0.98) <= 1
    if fit == "stretch" and canvas == 1:
        torch.testing.assert_close(mapped, small)
