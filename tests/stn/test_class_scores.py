"""Scores of classes against scikit-learn."""

import torch
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from stn.class_scores import class_counts, class_scores


def test_the_scores_are_those_of_scikit_learn_and_parts_can_be_added():
    """Class 2 is never predicted. Class 4 has no images and is predicted; class 5 has neither."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.tensor([0.8, 0.1, 0.05, 0.05]), 200, True, generator=generator)
    predicted = torch.tensor([0, 1, 3, 4])[torch.randint(4, (200,), generator=generator)]
    parts = [class_counts(predicted[part], labels[part], 6) for part in (slice(0, 70), slice(70, 200))]
    scores = class_scores(sum(parts, torch.zeros(3, 6)))
    assert scores.recall.isnan().tolist() == scores.f1.isnan().tolist() == [False] * 4 + [True] * 2
    assert scores.f1[2] == 0
    present = labels.unique().tolist()
    _, _, expected, _ = precision_recall_fscore_support(labels, predicted, labels=present, zero_division=0)  # pyright: ignore[reportArgumentType]
    expected = torch.tensor(expected)
    torch.testing.assert_close(scores.f1[:4], expected)
    torch.testing.assert_close(scores.recall.nanmean().item(), balanced_accuracy_score(labels, predicted))
    torch.testing.assert_close(scores.f1.nanmean(), expected.mean())
