"""Means and variances of classes, against numpy, and how they are drawn."""

import io
import math

import numpy as np
import pytest
import torch

from pipelines.visualization.class_means import ClassMeans, ClassSums, draw_class_means

LABELS = torch.tensor([0, 2, 1, 0, 2, 2, 3, 0])
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(8, 3, 4, 5, generator=GENERATOR) * 255


def class_means(images: torch.Tensor, labels: torch.Tensor, classes: int, at_once: int = 3) -> ClassMeans:
    sums = ClassSums(classes)
    for part, of_part in zip(images.split(at_once), labels.split(at_once), strict=True):
        sums.add(part, of_part)
    return sums.means()


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_means_and_variances_are_those_of_numpy(at_once):
    means = class_means(IMAGES, LABELS, classes=3, at_once=at_once)
    pixels, total = IMAGES.double().numpy() / 255, 0.0
    for label in range(3):
        of_class = pixels[LABELS.numpy() == label]
        np.testing.assert_allclose(means.images[label], 255 * of_class.mean(0), rtol=1e-5)
        assert means.variances[label].item() == pytest.approx(of_class.var(0).mean(), abs=1e-12)
        total += len(of_class) * of_class.var(0).mean()
    shown = pixels[LABELS.numpy() < 3]  # the fourth class is left out
    assert means.within == pytest.approx(total / len(shown) / shown.var(0).mean())


def test_equal_images_of_a_class_leave_no_variance_within():
    images = IMAGES[:4][LABELS]
    means = class_means(images, LABELS, classes=4)
    assert means.within == pytest.approx(0, abs=1e-9) and means.variances.max() < 1e-9
    assert class_means(0.5 * IMAGES, LABELS, 4).within == pytest.approx(class_means(IMAGES, LABELS, 4).within)


def test_images_of_one_color_and_classes_without_images():
    means = class_means(torch.full((2, 1, 4, 4), 7.0), torch.tensor([0, 2]), classes=3)
    assert math.isnan(means.within) and math.isnan(means.variances[1]) and means.images[1].max() == 0
    figure = draw_class_means(class_means(IMAGES, LABELS, 3), means, ["a", "b", "c"], 200)
    figure.savefig(io.BytesIO())
    assert figure.get_suptitle().endswith("rectified all images are equal")
    assert figure.get_suptitle().startswith("the first 3 of 200 classes; ")


@pytest.mark.parametrize("classes", [1, 2, 11])
def test_each_class_is_drawn_with_its_variance_before_and_after(classes):
    labels = torch.arange(3 * classes) % classes
    images = torch.rand(len(labels), 1, 4, 5, generator=GENERATOR) * 255
    before, after = class_means(images, labels, classes), class_means(images[..., 1:3], labels, classes)
    figure = draw_class_means(before, after, [f"us_${i}" for i in range(classes)], classes)
    figure.savefig(io.BytesIO())
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 2 * classes
    titles = [axes.get_title() for axes in drawn]
    for i in range(classes):
        assert (
            f"us_${i}\nvariance {before.variances[i]:.4f}" in titles and f"variance {after.variances[i]:.4f}" in titles
        )
    pixels = np.asarray(drawn[0].images[0].get_array())
    np.testing.assert_array_equal(pixels, before.images[0].round().byte()[0].numpy())
    assert figure.get_suptitle().endswith(f"input {before.within:.1%}, rectified {after.within:.1%}")
