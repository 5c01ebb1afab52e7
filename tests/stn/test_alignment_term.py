"""The term for undone motions: what it rewards, that it is drawn as the augmentation is, and that it teaches θ."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stn.alignment_term import AlignmentTerm, distances, draw_motions
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.classifiers import Network, build_network
from stn.composition import Parallel
from stn.distortions import Distortion, make_distortion, sampling_matrix
from stn.localization import Localization
from stn.optimizers import make_optimizer
from stn.settings import (
    AlignmentSettings,
    ClassifierSettings,
    LocalizationSettings,
    NetworkSettings,
    Normalization,
    Recipe,
)
from stn.settings import TransformerSettings as Settings
from stn.spatial_transformer import SpatialTransformer
from stn.theta_watch import watch_theta
from stn.training import one_cycle, predict, train_epoch
from stn.transforms import Affine, Similarity, Transform
from stn.transforms.coordinates import pixel_centers

CPU = torch.device("cpu")
POINTS = pixel_centers((4, 4), torch.empty(0))
MOTION = Distortion(rotation=50, scale=(0.7, 1.2), shift=0.2)
ITSELF, UPRIGHT = AlignmentSettings(1.0, "itself"), AlignmentSettings(1.0, "upright")
RECIPE = Recipe(epochs=2, batch_size=8, lr=0.05, max_grad_norm=1.0, alignment=ITSELF)
LOCALIZATION = LocalizationSettings(channels=(3,), kernel_sizes=(3,), hidden=(8,))


def make_batches(augmentation: Augmentation = Augmentation(), size: tuple[int, int] = (16, 16)) -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (24, 1, *size), dtype=torch.uint8, generator=generator)
    return Batches(images, torch.arange(24) % 3, Normalization([0.5], [0.25]), CPU, augmentation)


def make_network(family: Transform | None = None, **settings) -> Network:
    torch.manual_seed(0)
    if family is None:
        transformer = Settings(localization=LOCALIZATION, **settings)
        return build_network(NetworkSettings((1, 16, 16), 3, transformer, ClassifierSettings((4,), (3,))))
    localization = Localization((1, 16, 16), family.identity, channels=(3,), kernel_sizes=(3,), hidden=8)
    return Network(nn.Flatten(), SpatialTransformer(localization, transform=family))


def value_of(term: AlignmentTerm, thetas: dict[str, Tensor]) -> float:
    """Mean distance of the images of the first step."""
    before = term.total.item()
    term.loss(0, thetas)
    return (term.total.item() - before) / len(thetas["input"])


def motions_of(term: AlignmentTerm) -> Tensor:
    """The second motions of the epoch."""
    assert term.epoch.motions is not None
    return term.epoch.motions


def invert(matrices: Tensor) -> Tensor:
    """The inverse of matrices (B, 2, 3), flattened to θ (B, 6)."""
    last = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(len(matrices), 1, 3)
    return torch.linalg.inv(torch.cat((matrices, last), 1))[:, :2].flatten(1)


def identity(count: int) -> Tensor:
    return torch.tensor([Affine.identity]).expand(count, 6)


def zoomed(count: int, scale: float, x: float = 0.2) -> Tensor:
    return torch.tensor([[scale, 0.0, x, 0.0, scale, -0.1]]).expand(count, 6)


def similarity_matrix(angle: float, scale: float) -> Tensor:
    return sampling_matrix(torch.tensor([angle]), torch.tensor([scale]), torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize("angle", [0.3, 1.5, 3.0])
def test_the_distance_is_scale_free_and_an_unknown_rotation_rewards_no_zoom(angle):
    def distance(first: Tensor, second: Tensor) -> float:
        return distances(*(Affine().map(matrix.flatten(1), POINTS) for matrix in (first, second))).item()

    still, turned = similarity_matrix(0, 1), similarity_matrix(angle, 1)
    square = 2 - 2 * math.cos(angle)
    expected = square / 2 if square < 1 else math.sqrt(square) - 0.5
    assert distance(still, turned) == pytest.approx(expected, rel=1e-4)
    for scale in (0.01, 0.5, 3.0):
        both = similarity_matrix(0, scale), similarity_matrix(angle, scale)
        assert distance(*both) == pytest.approx(expected, rel=1e-3), "both zoom"
        assert distance(still, both[1]) > expected, "one zooms"


@pytest.mark.parametrize("size", [(16, 16), (32, 100), (94, 24)])
def test_the_distance_of_a_rotation_is_the_same_on_images_of_every_shape(size):
    angle = 0.7
    term = AlignmentTerm(make_network(Affine()), make_batches(size=size), RECIPE).start(0, 0)
    still, turned = torch.zeros(24), torch.full((24,), angle)
    motions = sampling_matrix(turned, still + 1, still, still, aspect=size[1] / size[0])
    term.load(term.epoch._replace(motions=motions), term.parts)
    value = value_of(term, {"input": identity(8), "second view": identity(4)})
    assert value == pytest.approx((2 - 2 * math.cos(angle)) / 2, rel=1e-4)


def test_upright_is_zero_for_the_inverse_of_the_distortion_and_positive_for_the_identity():
    batches = make_batches(Augmentation(distortion=MOTION))
    term = AlignmentTerm(make_network(Affine()), batches, replace(RECIPE, alignment=UPRIGHT)).start(3, 1)
    order, _, draws = batches.draw(3, 1)
    assert draws.motions is not None
    undone = invert(draws.motions[order[:8]])
    assert value_of(term, {"input": undone}) == pytest.approx(0, abs=1e-6)
    assert value_of(term, {"input": identity(8)}) > 0.05
    for scale in (1e-3, 0.1):
        assert value_of(term, {"input": zoomed(8, scale)}) > value_of(term, {"input": identity(8)})
    halfway = (undone + identity(8)) / 2
    assert 0 < value_of(term, {"input": halfway}) < value_of(term, {"input": identity(8)})


@pytest.mark.parametrize("target", [ITSELF, UPRIGHT], ids=lambda target: target.to)
def test_a_step_against_the_gradient_leads_to_what_undoes(target):
    batches = make_batches(Augmentation(distortion=replace(MOTION, scale=(1.0, 1.0), shift=0.0)))
    term = AlignmentTerm(make_network(Similarity()), batches, replace(RECIPE, alignment=target)).start(0, 0)
    theta = torch.tensor([Similarity.identity]).repeat(8, 1).requires_grad_()
    other = torch.tensor([Similarity.identity]).repeat(4, 1).requires_grad_()
    term.loss(0, {"input": theta, "second view": other}).backward()
    order, _, draws = batches.draw(0, 0)
    assert theta.grad is not None and draws.motions is not None
    if target.to == "upright":
        undone, moved = invert(draws.motions[order[:8]]), theta.grad
    else:
        assert other.grad is not None
        undone, moved, theta = invert(motions_of(term)[order[:4]]), other.grad, other
    wanted, step = Affine().matrix(undone), -(Similarity().matrix(theta.detach() + moved) - Similarity().matrix(theta))
    assert (wanted[:, 1, 0] * step[:, 1, 0] > 0).all(), "the rotation of the map"


def test_itself_is_zero_for_what_undoes_both_motions_and_zooming_to_a_point_is_not_rewarded():
    term = AlignmentTerm(make_network(Affine()), make_batches(), RECIPE).start(0, 0)
    order = make_batches().draw(0, 0).order
    undone = invert(motions_of(term)[order[:4]])  # the second view has half of the images
    assert value_of(term, {"input": identity(8), "second view": undone}) == pytest.approx(0, abs=1e-6)
    nothing = value_of(term, {"input": identity(8), "second view": identity(4)})
    assert nothing > 0.05
    values = [value_of(term, {"input": zoomed(8, s), "second view": zoomed(4, s)}) for s in (1.0, 0.3, 0.1, 0.01)]
    assert values == sorted(values) and values[0] > nothing * 0.9
    # Any common map behind both is as good; the gauge prefers the identity.
    common = torch.tensor([[0.0, -1.0, 0.3, 1.0, 0.0, 0.0]]).expand(8, 6)
    undone_and_turned = compose(undone, common[:4])
    assert value_of(term, {"input": common, "second view": undone_and_turned}) == pytest.approx(0, abs=1e-6)
    theta = common.clone().requires_grad_()
    term.loss(0, {"input": theta, "second view": undone_and_turned}).backward()
    assert theta.grad is not None
    assert torch.all(theta.grad * (common - identity(8)) >= -1e-7) and theta.grad.abs().max() > 0.01


def compose(first: Tensor, second: Tensor) -> Tensor:
    """θ (B, 6) of the map that applies the second to a point, then the first."""
    first, second = first.view(-1, 2, 3), second.view(-1, 2, 3)
    linear, shift = first[:, :, :2] @ second, first[:, :, 2:]
    return torch.cat((linear[:, :, :2], linear[:, :, 2:] + shift), 2).flatten(1)


def test_the_gauge_has_the_gradient_of_the_mean_of_a_batch():
    term = AlignmentTerm(make_network(Affine()), make_batches(), RECIPE).start(0, 0)
    mapped = (POINTS + torch.randn(8, len(POINTS), 2)).requires_grad_()
    (gradient,) = torch.autograd.grad(term._gauge(mapped) / 8, mapped)
    (expected,) = torch.autograd.grad(0.3 * (mapped.mean(0) - POINTS).square().sum(1).mean(), mapped)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("crop", [(1.0, 1.0), (0.3, 0.7)], ids=["whole", "cropped"])
@pytest.mark.parametrize("protocol", ["R", "RTS", "P", "E"])
def test_points_are_traced_to_where_the_augmentation_takes_them_from(protocol, crop, flips):
    """On images whose pixels are their own coordinates, an image shows the points that it is made of.

    The points are those of the flipped original, and the coordinates those of the original itself.
    """
    size, reach = (30, 42), 0.6
    y, x = torch.meshgrid(*((2 * torch.arange(n) + 1) / n - 1 for n in size), indexing="ij")
    pixels = (128 + 127 * torch.stack((x, y))).to(torch.uint8).expand(8, 2, *size)
    distortion = make_distortion(protocol, "border")
    augmentation = Augmentation(flips, 3, distortion, crop, vertical_flip=flips)
    batches = Batches(pixels, torch.arange(8), Normalization([0.0, 0.0], [1.0, 1.0]), CPU, augmentation)
    ((images, order),) = batches.shuffled(8, 0, 0)
    shown = (images * 255 - 128) / 127
    draws = batches.draw(0, 0).draws.select(order)
    traced = augmentation.trace(pixel_centers(size, shown).expand(8, -1, -1), draws, size).view(8, *size, 2)
    if draws.upended is not None:
        assert draws.mirrored.any() and draws.upended.any()
        traced = traced * (1 - 2 * torch.stack((draws.mirrored, draws.upended), 1).float()).view(8, 1, 1, 2)
    inside = (traced.abs() < reach).all(-1)
    assert inside.float().mean() > 0.1
    difference = (traced - shown.permute(0, 2, 3, 1))[inside].abs()
    assert difference.max() < 0.03, "half a pixel"


def test_the_mirrored_original_is_upright_and_the_frame_on_a_canvas_is_that_of_the_original():
    batches = make_batches(Augmentation(flip=True, distortion=MOTION))
    draws = batches.draw(0, 0).draws
    points = POINTS.expand(24, -1, -1)
    traced = batches.augmentation.trace(points, draws, (16, 16))
    unmirrored = draws._replace(mirrored=torch.zeros_like(draws.mirrored))
    assert draws.mirrored.any()
    assert torch.equal(traced, batches.augmentation.trace(points, unmirrored, (16, 16)))
    assert torch.equal(batches.augmentation.frame_of_original(POINTS, (16, 16)), POINTS)
    on_canvas = Augmentation(distortion=Distortion(canvas=1.5)).frame_of_original(POINTS, (42, 42))
    torch.testing.assert_close(on_canvas, POINTS * 28 / 42)


FAMILIES: dict[str, Callable[[], Network]] = {
    "affine": lambda: make_network(transform=("affine",)),
    "similarity": lambda: make_network(transform=("similarity",), bound=1.0),
    "attention": lambda: make_network(transform=("attention",)),
    "projective": lambda: make_network(transform=("projective",)),
    "tps": lambda: make_network(transform=("tps",), control_points=3),
    "series": lambda: make_network(transform=("similarity", "tps"), control_points=3),
    "parallel": lambda: make_network(Parallel(Affine(), 2)),
    "smaller output": lambda: make_network(transform=("affine",), output_size=(12, 10)),
}


@pytest.mark.parametrize("target", [ITSELF, UPRIGHT], ids=lambda target: target.to)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_finite_gradients_and_the_value_of_the_identity(family, target):
    batches, network = make_batches(Augmentation(distortion=MOTION)), FAMILIES[family]()
    term = AlignmentTerm(network, batches, replace(RECIPE, alignment=target)).start(0, 0)
    images, _ = next(batches.shuffled(8, 0, 0))
    _, thetas = network.predict(images, term.second_view(0, images))
    assert ("second view" in thetas) == (target.to == "itself")
    term.loss(0, thetas).backward()
    assert network.transformer is not None
    gradients = [p.grad for p in network.transformer.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    reference = AlignmentTerm(make_network(Affine()), batches, replace(RECIPE, alignment=target)).start(0, 0)
    of_identity = value_of(reference, {"input": identity(8), "second view": identity(4)})
    assert term.total.item() / 8 == pytest.approx(of_identity, rel=1e-3), "all networks start at the identity"


@pytest.mark.parametrize("family", ["affine", "parallel"])
@pytest.mark.parametrize(("batch_size", "ranks"), [(8, 2), (5, 2), (3, 3)])  # of (3, 3) one rank has no second view
@pytest.mark.parametrize("target", [ITSELF, UPRIGHT], ids=lambda target: target.to)
def test_the_shares_of_the_ranks_add_up_to_the_term_of_one(target, batch_size, ranks, family):
    batches, network = make_batches(Augmentation(distortion=MOTION)), FAMILIES[family]()

    def term(rank: int, world_size: int) -> AlignmentTerm:
        recipe = replace(RECIPE, alignment=target, batch_size=batch_size)
        return AlignmentTerm(network, batches, recipe, rank=rank, world_size=world_size).start(4, 1)

    for step in (0, 2):
        whole = term(0, 1)
        images, _ = list(batches.shuffled(batch_size, 4, 1))[step]
        view = whole.second_view(step, images)
        whole.loss(step, network.predict(images, view)[1])
        total = 0.0
        for rank in range(ranks):
            part = term(rank, ranks)
            own, _ = list(batches.shuffled(batch_size, 4, 1, rank, ranks))[step]
            own_view = part.second_view(step, own)
            if view is not None and own_view is not None:
                torch.testing.assert_close(own_view, view[rank::ranks], atol=1e-5, rtol=0)
            part.loss(step, network.predict(own, own_view)[1])
            total += part.total.item()
        assert total == pytest.approx(whole.total.item(), rel=1e-5)


def test_motions_are_drawn_for_each_epoch_and_seed_and_stay_in_their_ranges():
    def motions(seed: int, epoch: int) -> Tensor:
        return motions_of(AlignmentTerm(make_network(Affine()), make_batches(), RECIPE).start(seed, epoch))

    assert torch.equal(motions(0, 1), motions(0, 1))
    assert not torch.equal(motions(0, 1), motions(0, 0)) and not torch.equal(motions(0, 1), motions(1, 1))
    drawn = draw_motions(2000, 1.0, torch.Generator().manual_seed(0))
    described = Affine().describe(drawn.flatten(1), 8, 8)
    assert 175 < described["rotation"].max() <= 180 and -180 <= described["rotation"].min() < -175
    assert 0.79 < described["scale"].min() < 0.82 and 1.22 < described["scale"].max() < 1.26


def test_the_second_view_is_the_image_moved_on_black():
    batches = make_batches()
    term = AlignmentTerm(make_network(Affine()), batches, RECIPE).start(0, 0)
    white = batches.normalize(torch.full((8, 16, 16, 1), 255.0))
    view = term.second_view(0, white)
    assert view is not None
    pixels = batches.denormalize(view)
    assert pixels.min() == pytest.approx(0, abs=1e-3) and pixels.max() == pytest.approx(255, abs=1e-2)


def test_the_weight_rises_over_the_warm_up():
    def weights(warmup: float) -> list[float]:
        recipe = replace(RECIPE, alignment=replace(UPRIGHT, warmup=warmup, weight=0.5), epochs=2)
        batches, values = make_batches(Augmentation(distortion=MOTION)), []
        for epoch in (0, 1):
            term = AlignmentTerm(make_network(Affine()), batches, recipe).start(0, epoch)
            for step in range(3):
                before = term.total.item()
                values.append(term.loss(step, {"input": identity(8)}).item() / (term.total.item() - before))
        return values

    assert weights(0.0) == pytest.approx([0.5] * 6, rel=1e-4)
    assert weights(1.0) == pytest.approx([0.5 * i / 6 for i in range(1, 7)], rel=1e-4)
    assert weights(0.5) == pytest.approx([0.5 / 3, 1 / 3, 0.5, 0.5, 0.5, 0.5], rel=1e-4)


def test_what_makes_no_sense_is_refused():
    network, moved = make_network(Affine()), Augmentation(distortion=MOTION)
    for augmentation, settings, message in [
        (Augmentation(), UPRIGHT, "not distorted"),
        (replace(moved, mixup=0.2), ITSELF, "mixup"),
        (replace(moved, vertical_flip=True), UPRIGHT, "upended"),
        (moved, replace(UPRIGHT, to="sideways"), "sideways"),
    ]:
        with pytest.raises(ValueError, match=message):
            AlignmentTerm(network, make_batches(augmentation), replace(RECIPE, alignment=settings)).start(0, 0)


def glyphs() -> Tensor:
    """Draw the letters F and L, uint8 (2, 1, 20, 20). No turn but a whole one leaves them unchanged."""
    letters = torch.zeros(2, 1, 20, 20, dtype=torch.uint8)
    letters[:, :, 4:16, 6:9] = 255
    letters[0, :, 4:7, 6:15] = letters[0, :, 9:11, 6:13] = letters[1, :, 13:16, 6:15] = 255
    return letters


@pytest.mark.parametrize("target", [ITSELF, UPRIGHT], ids=lambda target: target.to)
def test_with_the_term_a_transformer_learns_to_undo_rotations(target):
    images, labels = glyphs().repeat(64, 1, 1, 1), torch.arange(128) % 2
    normalization, augmentation = Normalization([0.15], [0.35]), Augmentation(distortion=Distortion(rotation=60))
    batches = Batches(images, labels, normalization, CPU, augmentation)
    unmoved = Batches(images[:20], labels[:20], normalization, CPU)

    def slope(weight: float) -> float:
        torch.manual_seed(0)
        localization = Localization((1, 20, 20), Similarity.identity, channels=(8, 12), kernel_sizes=(5, 3), hidden=32)
        transformer = SpatialTransformer(localization, transform=Similarity(bound=1.5))
        network = Network(nn.Sequential(nn.Flatten(), nn.Linear(400, 2)), transformer)
        recipe = Recipe(12, 32, lr=0.05, max_grad_norm=1.0, alignment=replace(target, weight=weight))
        optimizer = make_optimizer(network, recipe)
        scheduler = one_cycle(optimizer, 12 * 4, 0.2)
        for epoch in range(12):
            term = AlignmentTerm(network, batches, recipe).start(0, epoch) if weight else None
            shuffled = batches.shuffled(32, 0, epoch)
            train_epoch(network, shuffled, optimizer, scheduler, recipe, precision=torch.float32, alignment=term)
        watch = watch_theta(network, unmoved, list(range(20)))
        assert watch is not None
        metrics = watch.measure(network, predict(network, unmoved.ordered(20)).thetas["input"])
        return metrics["theta_undone_rotation"]

    assert slope(3.0) > max(0.0, slope(0.0)) + 0.4
