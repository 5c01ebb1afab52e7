"""The images of an epoch: each once, or equally many of each class and all images of a class equally often."""

import pytest
import torch

from stn.sampling import deal, sample_images

LABELS = torch.tensor([1] * 19 + [4] * 3 + [0] * 2)[torch.randperm(24, generator=torch.Generator().manual_seed(0))]


def test_a_uniform_epoch_has_each_image_once():
    assert sample_images("uniform", LABELS, 3, 5).tolist() == list(range(24))


@pytest.mark.parametrize("labels", [LABELS, LABELS[:23], torch.arange(7) % 3, torch.zeros(5).long()], ids=len)
def test_a_balanced_epoch_has_as_many_images_of_each_class_and_uses_each_equally_often(labels):
    uses, of_class = torch.zeros(len(labels)).long(), torch.zeros(5).long()
    present = labels.unique()
    for epoch in range(40):
        images = sample_images("balanced", labels, 3, epoch)
        assert len(images) == len(labels)
        drawn = labels[images].bincount(minlength=5)
        assert drawn[present].max() - drawn[present].min() <= 1
        uses += images.bincount(minlength=len(labels))
        of_class += drawn
        assert of_class[present].max() - of_class[present].min() <= 1
        for label in present:  # after any number of epochs
            counts = uses[labels == label]
            assert counts.max() - counts.min() <= 1


def test_an_epoch_is_the_same_without_the_epochs_before_it_and_seeds_differ():
    chosen = [sample_images("balanced", LABELS, 0, epoch).tolist() for epoch in (2, 3, 2)]
    assert chosen[0] == chosen[2] != chosen[1]
    assert sample_images("balanced", LABELS, 1, 2).tolist() != chosen[0]


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="sampler: 'random' is not one of uniform, balanced"):
        sample_images("random", LABELS, 0, 0)


@pytest.mark.parametrize(("first", "end"), [(0, 0), (0, 5), (1, 4), (3, 7), (2, 12), (5, 10), (9, 31)])
def test_parts_of_an_endless_sequence_of_decks_fit_together(first, end):
    """Whole decks are not shuffled: they are compared by their cards."""
    deck, cards = torch.tensor([3, 5, 7, 11, 13]), []
    for number in range(first, end):
        cards += deal(deck, number, number + 1, 8).tolist()
    dealt = deal(deck, first, end, 8).tolist()
    assert sorted(dealt) == sorted(cards) and len(dealt) == end - first
