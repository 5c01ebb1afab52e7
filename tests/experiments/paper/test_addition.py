"""The addition of digits: which images are paired, and their labels. All pixels of an image here are its number."""

import pytest
import torch

from experiments.paper.addition import Sums, make_pairs
from pipelines.outputs.prepared_data import Labeled
from stn.alignment_term import AlignmentTerm
from stn.augmentation import Augmentation
from stn.classifiers import build_network
from stn.distortions import Distortion
from stn.optimizers import make_optimizer
from stn.settings import AlignmentSettings, NetworkSettings, Normalization, Recipe, TransformerSettings
from stn.static_step import StaticStep

COUNT = 40
NUMBERS = torch.arange(COUNT)
IMAGES = NUMBERS.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
LABELS = (NUMBERS * 7) % 10


def sums(distortion: Distortion = Distortion()) -> Sums:
    normalization = Normalization(mean=[0.0], std=[1 / 255])
    return Sums(IMAGES, LABELS, normalization, torch.device("cpu"), Augmentation(distortion=distortion))


def numbers(images: torch.Tensor) -> torch.Tensor:
    """The numbers of the images in the two channels, (b, 2)."""
    assert (images == images[:, :, :1, :1]).all()
    return images[:, :, 0, 0].round().long()


def test_each_image_is_paired_with_another_and_their_labels_are_added():
    batches = list(sums().shuffled(10, seed=0, epoch=0))
    pairs = torch.cat([numbers(images) for images, _ in batches])
    assert torch.equal(torch.cat([labels for _, labels in batches]), LABELS[pairs].sum(1))
    for column in pairs.unbind(1):
        assert torch.equal(column.sort().values, NUMBERS)
    assert (pairs[:, 0] != pairs[:, 1]).float().mean() > 0.8
    again = torch.cat([numbers(images) for images, _ in sums().shuffled(10, seed=0, epoch=0)])
    later = torch.cat([numbers(images) for images, _ in sums().shuffled(10, seed=0, epoch=1)])
    assert torch.equal(pairs, again) and not torch.equal(pairs, later)


def test_a_static_step_sees_the_pairs_of_an_epoch(monkeypatch):
    """The step that a GPU repeats makes the batches that an eager epoch makes."""
    batches = sums(Distortion(rotation=50, scale=(0.7, 1.2), shift=0.2))
    network = build_network(NetworkSettings((2, 20, 20), 19, None))
    recipe = Recipe(epochs=2, batch_size=10, optimizer="sgd")
    step = StaticStep(network, make_optimizer(network, recipe), batches, recipe, precision=torch.float32)
    seen = []

    def keep(model, made, *_, **options):
        seen.extend(made)
        return torch.zeros(1)

    monkeypatch.setattr("stn.static_step.train_epoch", keep)
    for epoch in (0, 1):
        step.load(step.draw(5, epoch), torch.zeros(step.steps, len(step.rate)))
        for _ in range(step.steps):
            step.run()
    expected = [batch for epoch in (0, 1) for batch in batches.shuffled(10, 5, epoch)]
    assert len(seen) == len(expected) == 8
    for (images, labels), (same_images, same_labels) in zip(seen, expected, strict=True):
        assert torch.equal(images, same_images) and torch.equal(labels, same_labels)


def test_a_second_view_moves_both_digits():
    batches = sums()
    network = build_network(NetworkSettings((2, 20, 20), 19, TransformerSettings(parallel=2)))
    recipe = Recipe(epochs=1, batch_size=8, alignment=AlignmentSettings(1.0, "itself"))
    term = AlignmentTerm(network, batches, recipe).start(0, 0)
    images, _ = next(batches.shuffled(8, 0, 0))
    view = term.second_view(0, images)
    assert view is not None and view.shape == (4, 2, 4, 4)
    both = torch.cat([term.second_view(0, own.repeat(1, 2, 1, 1)) for own in images.split(1, 1)])  # pyright: ignore
    assert torch.equal(view[:, 0], both[:4, 0]) and torch.equal(view[:, 1], both[4:, 1])
    assert not torch.equal(view, images[:4])


def test_held_out_pairs_are_drawn_once():
    paired = make_pairs(Labeled(IMAGES, LABELS), seed=3)
    assert paired.images.shape == (COUNT, 2, 4, 4) and paired.images.dtype == torch.uint8
    members = numbers(paired.images.float())
    assert torch.equal(members[:, 0], NUMBERS) and torch.equal(members[:, 1].sort().values, NUMBERS)
    assert torch.equal(paired.labels, LABELS[members].sum(1))
    assert torch.equal(make_pairs(Labeled(IMAGES, LABELS), seed=3).images, paired.images)
    assert not torch.equal(make_pairs(Labeled(IMAGES, LABELS), seed=4).images, paired.images)


def test_each_of_two_heads_is_to_undo_the_motion_of_one_digit():
    batches = sums(Distortion(rotation=50, scale=(0.7, 1.2), shift=0.2))
    network = build_network(NetworkSettings((2, 20, 20), 19, TransformerSettings(parallel=2)))
    recipe = Recipe(epochs=1, batch_size=8, alignment=AlignmentSettings(1.0, "upright"))
    term = AlignmentTerm(network, batches, recipe).start(3, 1)
    last = torch.tensor([0.0, 0.0, 1.0]).expand(8, 1, 3)
    undone = []
    for order, _, draws in batches.draw_parts(3, 1):
        assert draws.motions is not None
        undone.append(torch.linalg.inv(torch.cat((draws.motions[order[8:16]], last), 1))[:, :2].flatten(1))
    assert term.loss(1, {"input": torch.cat(undone, 1)}).item() == pytest.approx(0, abs=1e-5)
    assert term.loss(1, {"input": torch.cat(undone[::-1], 1)}).item() > 1
    assert term.loss(0, {"input": torch.cat(undone, 1)}).item() > 1, "another step"
