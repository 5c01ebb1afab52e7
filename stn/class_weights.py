"""Weights of classes in the training objective, for classes with few training images."""

import torch
from torch import Tensor


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return the weight of each class, fp32 (classes,): N / (K · n) for n of N images and K classes with images.

    The mean weight of an image is 1, so that the learning rate keeps its meaning. These are scikit-learn's weights
    ``class_weight="balanced"``, after King and Zeng, "Logistic Regression in Rare Events Data" (2001). A class without
    images has weight 0: no training image has it.

    Args:
        labels: int64 (N,) of the training images.
    """
    counts = labels.bincount(minlength=classes)
    weights = len(labels) / ((counts > 0).sum() * counts).float()
    return torch.where(counts > 0, weights, 0.0)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each image times its weight, (B,).

    The weight of an image is that of its class, and of a mixture the mean of both weights. It applies to the whole
    cross-entropy of the image. torch's :func:`~torch.nn.functional.cross_entropy` applies the weight of a class to its
    part of the smoothed label instead: with weights of 0.35 and 16.7 for classes of 95 and 2 % and a smoothing of 0.1,
    more than half of the weight of a frequent image would ask for the rare class.

    Args:
        logits: fp32 (B, classes).
        labels: int64 (B,), or probabilities of the classes (B, classes).
        weights: (classes,).
        smoothing: share of each label that is spread evenly over all classes.
    """
    costs = -logits.log_softmax(1)  # cross-entropy with each class
    if labels.ndim == 1:
        labels = torch.nn.functional.one_hot(labels, logits.shape[1]).to(costs)
    shares = labels * weights  # the weight of each part of a label
    return (1 - smoothing) * (shares * costs).sum(1) + smoothing * shares.sum(1) * costs.mean(1)
