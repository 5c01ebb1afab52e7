"""How images of any shape are placed in the form of a data set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.settings.image_form import Area, ImageForm

SIDES = st.integers(4, 1024)
IMAGE_SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, IMAGE_SIDES, IMAGE_SIDES)
def test_padding_shows_the_whole_image_in_the_middle_with_its_aspect_ratio(height, width, image_width, image_height):
    source, target = ImageForm(height, width, 3, "pad").place(image_width, image_height)
    assert source == Area(0, 0, image_width, image_height)
    assert all(side == round(side) for side in target)
    assert target.width == width or target.height == height
    for before, after, whole in ((target.left, target.right, width), (target.top, target.bottom, height)):
        assert 0 <= before < after <= whole and 0 <= (whole - after) - before <= 1
    # One side is exact and the other one is rounded to a whole pixel, at least one.
    scale = min(width / image_width, height / image_height)
    assert abs(target.width - image_width * scale) <= 0.5 + 1e-6 or target.width == 1
    assert abs(target.height - image_height * scale) <= 0.5 + 1e-6 or target.height == 1


@given(SIDES, SIDES, IMAGE_SIDES, IMAGE_SIDES)
def test_cropping_fills_the_form_with_the_middle_of_the_image(height, width, image_width, image_height):
    source, target = ImageForm(height, width, 3, "crop").place(image_width, image_height)
    assert target == Area(0, 0, width, height)
    assert source.width == image_width or source.height == image_height
    assert source.width * height == pytest.approx(source.height * width)
    for before, after, whole in ((source.left, source.right, image_width), (source.top, source.bottom, image_height)):
        assert 0 <= before < after <= whole and before == round(before) and -1e-6 <= (whole - after) - before < 2


@given(SIDES, SIDES, st.integers(1, 5), st.sampled_from(["stretch", "pad", "crop"]))
def test_an_image_of_the_same_aspect_ratio_is_scaled_as_a_whole(height, width, factor, fit):
    form, image = ImageForm(height, width, 1, fit), (width * factor, height * factor)
    assert form.place(*image) == (Area(0, 0, *image), Area(0, 0, width, height))
    assert form.frame(*image) == pytest.approx((0, 0, *image))


@given(SIDES, SIDES, IMAGE_SIDES, IMAGE_SIDES, st.sampled_from(["stretch", "pad", "crop"]))
def test_the_frame_is_the_area_that_the_form_covers(height, width, image_width, image_height, fit):
    form = ImageForm(height, width, 1, fit)
    source, target = form.place(image_width, image_height)
    frame = form.frame(image_width, image_height)
    for low, high, pixels, start, end, first, last in (
        (frame.left, frame.right, width, target.left, target.right, source.left, source.right),
        (frame.top, frame.bottom, height, target.top, target.bottom, source.top, source.bottom),
    ):
        assert low + (high - low) * start / pixels == pytest.approx(first, abs=1e-6 * (high - low))
        assert low + (high - low) * end / pixels == pytest.approx(last, abs=1e-6 * (high - low))


def test_only_what_matters_is_recorded():
    assert ImageForm(4, 4, 1).fitting == ImageForm(4, 4, 1, fill=3).fitting == {}
    assert ImageForm(4, 4, 1, "crop", 3).fitting == {"fit": "crop"}
    assert ImageForm(4, 4, 3, "pad", (1, 2, 3)).fitting == {"fit": "pad", "fill": [1, 2, 3]}
    assert ImageForm(4, 4, 3, "pad", "edge").fitting == {"fit": "pad", "fill": "edge"}


@pytest.mark.parametrize(
    ("width", "height", "same"),
    [(100, 32, True), (1000, 320, True), (1001, 320, True), (334, 107, True), (100, 33, False), (32, 100, False)],
)
def test_an_aspect_ratio_is_the_same_up_to_a_pixel_of_the_form(width, height, same):
    assert ImageForm(32, 100, 3).has_aspect_of(width, height) is same
