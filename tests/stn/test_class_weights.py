"""Class weights: scikit-learn's formula, and a weighted cross-entropy that also holds for mixtures and smoothing."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from stn.class_weights import balanced_weights, weighted_cross_entropy

LABELS = torch.tensor([0] * 95 + [2] * 3 + [3] * 2)  # class 1 has no images


def random_logits() -> torch.Tensor:
    return torch.randn(len(LABELS), 4, generator=torch.Generator().manual_seed(0))


def test_the_weights_are_those_of_scikit_learn_and_their_mean_over_the_images_is_1():
    weights = balanced_weights(LABELS, 4)
    expected = compute_class_weight("balanced", classes=LABELS.unique().numpy(), y=LABELS.numpy())
    assert weights[[0, 2, 3]].tolist() == pytest.approx(expected.tolist())
    assert weights[1] == 0 and weights[LABELS].mean().item() == pytest.approx(1)
    assert balanced_weights(torch.arange(12) % 3, 3).tolist() == [1, 1, 1]


def test_without_smoothing_the_loss_is_that_of_torch():
    weights, logits = balanced_weights(LABELS, 4), random_logits()
    expected = F.cross_entropy(logits, LABELS, weights, reduction="none")
    torch.testing.assert_close(weighted_cross_entropy(logits, LABELS, weights), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mixture_has_the_mean_of_the_losses_with_both_labels(smoothing):
    weights, logits, share = balanced_weights(LABELS, 4), random_logits(), 0.3
    others = LABELS.flip(0)
    mixed = share * F.one_hot(LABELS, 4) + (1 - share) * F.one_hot(others, 4)
    own, other = (
        weights[labels] * F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        for labels in (LABELS, others)
    )
    found = weighted_cross_entropy(logits, mixed, weights, smoothing)
    torch.testing.assert_close(found, share * own + (1 - share) * other)


def test_a_frequent_image_still_asks_for_its_own_class_when_labels_are_smoothed():
    weights, logits = balanced_weights(LABELS, 4), torch.zeros(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(weighted_cross_entropy(logits, LABELS[:1], weights, 0.1).sum(), logits)
    assert gradient[0, 0] < 0 and (gradient[0, 1:] > 0).all()
    loss = F.cross_entropy(logits, LABELS[:1], weights, reduction="sum", label_smoothing=0.1)
    (of_torch,) = torch.autograd.grad(loss, logits)
    assert (of_torch[0, 2:] < 0).all(), "torch's smoothing raises the rare classes"
