"""Training: gradients, schedule, metrics and precision, and a task that only a transformer can solve."""

import copy
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stn import (
    Affine,
    Localization,
    Network,
    NetworkSettings,
    Normalization,
    Recipe,
    SpatialTransformer,
    TransformerSettings,
    build_network,
)
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.distortions import Distortion, distort
from stn.optimizers import make_optimizer
from stn.training import (
    NotFiniteError,
    Outputs,
    check_finite,
    make_schedule,
    metric_sums,
    one_cycle,
    predict,
    train_epoch,
)

CPU = torch.device("cpu")
SHAPE = (1, 20, 20)
BASELINE = NetworkSettings(SHAPE, 4, TransformerSettings())
PLAIN = NetworkSettings(SHAPE, 4)
RECIPE = Recipe(epochs=1, batch_size=8, lr=0.1, momentum=0.9, weight_decay=0.01, localization_lr=0.5)


def random_batches(count: int, classes: int = 4, augmentation: Augmentation = Augmentation()) -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *SHAPE), dtype=torch.uint8, generator=generator)
    return Batches(images, torch.arange(count) % classes, Normalization([0.5], [0.3]), CPU, augmentation)


def moved_network() -> Network:
    """Build a network whose θ is not the identity and depends on the image."""
    torch.manual_seed(0)
    network = build_network(BASELINE)
    assert network.transformer is not None
    for parameter in network.transformer.localization.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def one_step(network, batches, batch_size, rank=0, world_size=1) -> torch.Tensor:
    """Return the loss of a first step with a learning rate of zero; the gradients stay in the network."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    first = next(batches.shuffled(batch_size, 0, 0, rank, world_size))
    losses = train_epoch(
        network, [first], optimizer, one_cycle(optimizer, 1, 0.0), Recipe(1, batch_size),
        precision=torch.float32, world_size=world_size,
    )  # fmt: skip
    return losses[0]


@pytest.mark.parametrize("world_size", [1, 3])
def test_weighted_gradients_averaged_over_ranks_are_those_of_the_global_batch(world_size):
    """The weighted loss is divided by the number of images, not by the sum of their weights, which ranks differ in."""
    batches, network, weights = random_batches(20), moved_network(), torch.tensor([0.2, 0.5, 1.0, 3.0])
    images, labels = next(batches.shuffled(8, 0, 0))
    costs = F.cross_entropy(network(images), labels, reduction="none")
    expected = torch.autograd.grad((weights[labels] * costs).mean(), list(network.parameters()), retain_graph=True)
    gradients, losses = [], []
    for rank in range(world_size):
        copied = copy.deepcopy(network)
        optimizer = torch.optim.SGD(copied.parameters(), lr=0.0)
        losses += train_epoch(
            copied, [next(batches.shuffled(8, 0, 0, rank, world_size))], optimizer, one_cycle(optimizer, 1, 0.0),
            Recipe(1, 8), precision=torch.float32, world_size=world_size, class_weights=weights,
        )  # fmt: skip
        gradients.append([parameter.grad for parameter in copied.parameters()])
    averaged = [torch.stack(of_ranks).mean(0) for of_ranks in zip(*gradients, strict=True)]
    torch.testing.assert_close(averaged, list(expected), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(torch.stack(losses).mean(), costs.mean().detach(), msg="reported without weights")


@pytest.mark.parametrize(("batch_size", "world_size"), [(8, 1), (8, 2), (7, 2), (7, 3)])
def test_gradients_averaged_over_ranks_are_those_of_the_global_batch(batch_size, world_size):
    batches, network = random_batches(20, augmentation=Augmentation(flip=True, shift=2)), moved_network()
    images, labels = next(batches.shuffled(batch_size, 0, 0))
    loss = F.cross_entropy(network(images), labels)  # the mean over the global batch
    expected = torch.autograd.grad(loss, list(network.parameters()))

    ranks = [copy.deepcopy(network) for _ in range(world_size)]
    losses = [one_step(copied, batches, batch_size, rank, world_size) for rank, copied in enumerate(ranks)]
    # DistributedDataParallel averages the gradients of the ranks like this.
    averaged = [
        torch.stack([parameter.grad for parameter in parameters]).mean(0)
        for parameters in zip(*(copied.parameters() for copied in ranks), strict=True)
    ]
    torch.testing.assert_close(averaged, list(expected), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(torch.stack(losses).mean(), loss.detach())


@pytest.mark.parametrize(("localization_decay", "penalty"), [(None, 0.0), (0.3, 0.0), (None, 0.7)])
def test_an_epoch_is_sgd_step_by_step(localization_decay, penalty):
    batches, network = random_batches(24), moved_network()
    by_hand = copy.deepcopy(network)
    recipe = replace(RECIPE, localization_weight_decay=localization_decay, theta_penalty=penalty)
    optimizer = make_optimizer(network, recipe)
    steps = []
    losses = train_epoch(
        network, batches.shuffled(8, 0, 0), optimizer, one_cycle(optimizer, 3, 0.0), recipe,
        precision=torch.float32, on_step=steps.append,
    )  # fmt: skip
    assert steps == [1, 2, 3]

    velocity = {name: torch.zeros_like(parameter) for name, parameter in by_hand.named_parameters()}
    for step, (images, labels) in enumerate(batches.shuffled(8, 0, 0)):
        loss = F.cross_entropy(by_hand(images), labels)
        torch.testing.assert_close(losses[step], loss.detach())
        assert by_hand.transformer is not None
        theta = by_hand.transformer.theta(images)
        loss = loss + penalty * (theta - torch.tensor([1.0, 0, 0, 0, 1, 0])).square().sum(1).mean()
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(by_hand.named_parameters(), gradients, strict=True):
                in_localization = name.startswith("transformer.localization")
                lr = 0.1 * (0.5 if in_localization else 1)
                decay = 0.01 if localization_decay is None or not in_localization else localization_decay
                gradient = gradient + decay * parameter
                velocity[name] = 0.9 * velocity[name] + gradient
                nesterov = gradient + 0.9 * velocity[name]
                parameter -= lr * (1 + math.cos(math.pi * step / 3)) / 2 * nesterov
    for (name, parameter), expected in zip(network.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(
            parameter, expected, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_the_objective_is_smoothed_and_the_reported_loss_is_not(smoothing, mixup):
    batches, network = random_batches(8, augmentation=Augmentation(mixup=mixup)), moved_network()
    ((images, labels),) = batches.shuffled(8, 0, 0)
    assert labels.ndim == (2 if mixup else 1)
    loss = F.cross_entropy(network(images), labels, label_smoothing=smoothing)
    expected = torch.autograd.grad(loss, list(network.parameters()))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    (reported,) = train_epoch(
        network, [(images, labels)], optimizer, one_cycle(optimizer, 1, 0.0),
        Recipe(1, batch_size=8, label_smoothing=smoothing), precision=torch.float32,
    )  # fmt: skip
    torch.testing.assert_close([p.grad for p in network.parameters()], list(expected), atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        log_probabilities = network(images).log_softmax(1)
    own = (labels * log_probabilities).sum(1) if mixup else log_probabilities[range(8), labels]
    torch.testing.assert_close(reported, -own.mean())


def test_training_repeats_bit_for_bit():
    augmentation = Augmentation(flip=True, shift=2, distortion=Distortion(rotation=30))

    def weights() -> list[torch.Tensor]:
        network, batches = moved_network(), random_batches(24, augmentation=augmentation)
        recipe = replace(RECIPE, weight_decay=1e-4)
        optimizer = make_optimizer(network, recipe)
        scheduler = one_cycle(optimizer, 6, 0.3)
        for epoch in range(2):
            shuffled = batches.shuffled(8, 0, epoch)
            train_epoch(network, shuffled, optimizer, scheduler, recipe, precision=torch.float32)
        return [parameter.detach() for parameter in network.parameters()]

    first, second = weights(), weights()
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_bf16_is_used_only_if_it_is_requested():
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, images):
            logits = self.linear(images)
            seen.append((logits.dtype, self.training))
            return logits

    network, batch = Network(Spy()), (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    recipe = Recipe(epochs=1, batch_size=5, lr=0.1, momentum=0.0)
    for precision in (torch.bfloat16, torch.float32):
        optimizer = make_optimizer(network, recipe)
        losses = train_epoch(network, [batch], optimizer, one_cycle(optimizer, 1, 0.0), recipe, precision=precision)
        logits, _, _ = predict(network, [batch], precision)
        assert seen[-2:] == [(precision, True), (precision, False)]
        assert losses.dtype == logits.dtype == network.state_dict()["classifier.linear.weight"].dtype == torch.float32


def test_one_cycle_rises_to_its_peak_and_falls_to_zero():
    network = moved_network()
    optimizer = make_optimizer(network, replace(RECIPE, lr=0.2, weight_decay=0.0, localization_lr=0.1))
    scheduler = one_cycle(optimizer, steps=10, warmup=0.3)
    rates = []
    for _ in range(11):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    # Three steps of warm-up, the peak in the fourth step, then a cosine of seven steps.
    expected = [0.05, 0.1, 0.15] + [0.1 * (1 + math.cos(math.pi * step / 7)) for step in range(8)]
    assert [classifier for classifier, _ in rates] == pytest.approx(expected, abs=1e-9)
    assert [localization for _, localization in rates] == pytest.approx([0.1 * rate for rate in expected], abs=1e-9)
    assert (max(expected), expected[-1]) == pytest.approx((0.2, 0), abs=1e-9)


def test_thirds_lowers_the_rate_to_a_tenth_twice():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler, rates = make_schedule(Recipe(1, 8, schedule="thirds"), optimizer, 150), []
    for _ in range(150):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.01] * 50 + [0.001] * 50 + [0.0001] * 50)
    with pytest.raises(ValueError, match="'halves' is not one of one_cycle, thirds"):
        make_schedule(Recipe(1, 8, schedule="halves"), optimizer, 150)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.5), (7, 0.25), (7, 1.0), (40, 0.0)])
def test_one_cycle_never_exceeds_its_peak_and_every_step_learns(steps, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = one_cycle(optimizer, steps, warmup)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    top = rates.index(max(rates))
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)
    assert min(rates) > 0
    assert max(rates) <= 1
    assert top == pytest.approx(warmup * steps, abs=1)


def test_the_localization_network_learns_at_its_own_rate():
    network = moved_network()
    recipe = replace(RECIPE, lr=0.2, momentum=0.0, weight_decay=0.0, localization_lr=0.0)
    optimizer = make_optimizer(network, recipe)
    before = copy.deepcopy(network.state_dict())
    batch = next(random_batches(8).shuffled(8, 0, 0))
    train_epoch(network, [batch], optimizer, one_cycle(optimizer, 1, 0.0), recipe, precision=torch.float32)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("classifier")}
    everything = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(everything) == sorted(id(parameter) for parameter in network.parameters())


def test_a_network_without_transformer_has_one_group():
    network = build_network(PLAIN)
    (group,) = make_optimizer(network, replace(RECIPE, lr=0.2, weight_decay=0.1, localization_lr=0.0)).param_groups
    assert (group["lr"], len(group["params"])) == (0.2, 8)


@pytest.mark.parametrize(("bad", "word"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_check_finite_names_the_first_bad_step(bad, word):
    check_finite(torch.tensor([2.0, 1e30, 0.0]))
    with pytest.raises(NotFiniteError, match=f"became {word} at step 3 of 5"):
        check_finite(torch.tensor([2.0, 1.0, bad, 1.0, float("nan")]))


def test_predict_and_metric_sums_equal_direct_computation():
    network, batches = moved_network(), random_batches(23)
    outputs = predict(network.train(), batches.ordered(5))
    network.eval()
    images, labels = next(batches.ordered(23))
    with torch.no_grad():
        logits, thetas = network.predict(images)
    theta = thetas["input"]
    torch.testing.assert_close(tuple(outputs), (logits, labels, thetas))

    sums = metric_sums(network, batches, outputs)
    exponentials = logits.double().exp()
    right = exponentials[range(23), labels] / exponentials.sum(1)
    described = Affine().describe(theta, 20, 20)
    expected = {
        "count": 23.0,
        "loss": -right.log().sum().item(),
        "accuracy": float(sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))),
    } | {f"theta_{name}": values.double().sum().item() for name, values in described.items()}
    assert {name: value.item() for name, value in sums.items()} == pytest.approx(expected, rel=1e-4)
    assert all(value.dtype == torch.float64 for value in sums.values())

    shards = [metric_sums(network, batches, predict(network, batches.ordered(4, rank, 3))) for rank in range(3)]
    added = {name: sum(shard[name].item() for shard in shards) for name in sums}
    assert added == pytest.approx(expected, rel=1e-4)


def test_theta_is_described_at_the_size_of_the_images():
    # Only the outermost column leaves an image that is 20 pixels wide. Another width would give another share.
    images = torch.zeros(2, 1, 18, 20, dtype=torch.uint8)
    batches = Batches(images, torch.zeros(2, dtype=torch.int64), Normalization([0.5], [0.3]), CPU)
    network = build_network(NetworkSettings((1, 18, 20), 2, TransformerSettings()))
    theta = torch.tensor([[1.0, 0.0, 0.1, 0.0, 1.0, 0.0]] * 2)
    sums = metric_sums(
        network, batches, Outputs(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64), {"input": theta})
    )
    assert sums["theta_outside"].item() == pytest.approx(2 * 1 / 20)


@pytest.mark.slow
def test_muon_does_not_import_dynamo():
    code = """
import sys
import torch
from stn import NetworkSettings, Recipe, TransformerSettings, build_network
from stn.optimizers import make_optimizer

network = build_network(NetworkSettings((1, 20, 20), 4, TransformerSettings()))
optimizer = make_optimizer(network, Recipe(1, 2, optimizer="muon"))
network(torch.rand(2, 1, 20, 20)).sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_transformer_there_is_no_theta():
    network, batches = build_network(PLAIN), random_batches(6)
    outputs = predict(network, batches.ordered(4))
    assert outputs.thetas == {}
    assert set(metric_sums(network, batches, outputs)) == {"count", "loss", "accuracy"}


def s_and_z() -> torch.Tensor:
    """Draw the letter Z and its mirror image, uint8 (2, 1, 20, 20)."""
    z = torch.zeros(1, 20, 20, dtype=torch.uint8)
    for top, bottom, left, right in [(4, 6, 5, 11), (4, 16, 9, 11), (14, 16, 9, 15)]:
        z[:, top:bottom, left:right] = 255
    return torch.stack([z, z.flip(-1)])


@pytest.mark.parametrize("seed", [0, 1])
def test_rotated_glyphs_that_only_a_transformer_can_tell_apart(seed):
    # A rotation by 180 degrees leaves both letters unchanged. Rotations by up to 90 degrees to either side cover all
    # orientations, so that both letters have the same mean image: a linear classifier alone can only guess.
    rotation = Distortion(rotation=90)
    letters, labels = s_and_z().repeat(256, 1, 1, 1), torch.arange(512) % 2
    normalization = Normalization([0.15], [0.35])
    batches = Batches(letters, labels, normalization, CPU, Augmentation(distortion=rotation))
    matrices = rotation.draw(512, 20, 20, torch.Generator().manual_seed(1000 + seed))
    unseen = Batches(distort(letters.float(), matrices, "zeros"), labels, normalization, CPU)

    def accuracy(localization_lr: float) -> float:
        torch.manual_seed(seed)
        localization = Localization(SHAPE, Affine.identity, channels=(8, 12), kernel_sizes=(5, 3), hidden=32)
        network = Network(nn.Sequential(nn.Flatten(), nn.Linear(400, 2)), SpatialTransformer(localization))
        recipe = Recipe(epochs=12, batch_size=64, lr=0.02, momentum=0.9, localization_lr=localization_lr)
        optimizer = make_optimizer(network, recipe)
        scheduler = one_cycle(optimizer, 12 * 8, 0.2)
        for epoch in range(12):
            shuffled = batches.shuffled(64, seed, epoch)
            check_finite(train_epoch(network, shuffled, optimizer, scheduler, recipe, precision=torch.float32))
        outputs = predict(network, unseen.ordered(256))
        if localization_lr == 0:
            assert torch.equal(outputs.thetas["input"], torch.tensor([Affine.identity] * 512))
        sums = metric_sums(network, unseen, outputs)
        return (sums["accuracy"] / sums["count"]).item()

    # Over 38 seeds: 0.41 to 0.62 with θ held at the identity, 1.00 with a trained θ.
    assert accuracy(0.0) < 0.75
    assert accuracy(0.3) > 0.9


def test_muons_steps_are_orthogonal_except_for_vectors_and_last_layers():
    network = moved_network()
    assert network.transformer is not None
    optimizer = make_optimizer(network, replace(RECIPE, optimizer="muon", lr=0.2, localization_weight_decay=0.03))
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = {names[p]: group for group in optimizer.param_groups for p in group["params"]}
    assert groups.keys() == set(names.values())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    last = {f"{part}.{list(module.state_dict())[-2]}" for part, module in [
        ("classifier", network.classifier), ("transformer.localization", network.transformer.localization),
    ]}  # fmt: skip
    for parameter, name in names.items():
        front = name.startswith("transformer.")
        expected = (0.2 * 0.5, 0.03) if front else (0.2, 0.01)
        assert (groups[name]["lr"], groups[name]["weight_decay"]) == expected, name
        assert groups[name]["orthogonal"] == (parameter.ndim > 1 and name not in last), name
    assert {name for name in last if name.endswith("weight")} == last


def test_all_networks_of_a_series_have_the_localization_rate_and_their_last_layers_no_orthogonal_steps():
    network = build_network(NetworkSettings(SHAPE, 4, TransformerSettings(("similarity", "tps"))))
    optimizer = make_optimizer(network, replace(RECIPE, optimizer="muon", lr=0.2))
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = {names[p]: group for group in optimizer.param_groups for p in group["params"]}
    assert groups.keys() == set(names.values())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    for name, group in groups.items():
        assert group["lr"] == (0.1 if name.startswith("transformer.") else 0.2), name
    for step in (0, 1):
        localization = f"transformer.localization.{step}"
        assert groups[f"{localization}.head.1.weight"]["orthogonal"]
        assert not groups[f"{localization}.head.3.weight"]["orthogonal"]


def test_a_longer_gradient_is_scaled_down_to_the_limit():
    """The length of a step of plain SGD is the learning rate times the norm of the clipped gradient."""
    lengths = {}
    for limit in (0.01, 1e6):
        batches, network = random_batches(8), moved_network()
        before = torch.cat([parameter.detach().flatten().clone() for parameter in network.parameters()])
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        recipe = replace(RECIPE, max_grad_norm=limit)
        train_epoch(network, batches.shuffled(8, 0, 0), optimizer, scheduler, recipe, precision=torch.float32)
        after = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
        lengths[limit] = (after - before).norm().item()
    assert lengths[0.01] == pytest.approx(0.01, rel=1e-3)
    assert lengths[1e6] > 0.1
