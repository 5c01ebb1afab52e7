"""The baseline and tutorial networks, layer by layer, and the classifier of raw pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipelines.evaluation.layer_table import layers
from stn import (
    Affine,
    ClassifierSettings,
    ConvClassifier,
    Localization,
    LocalizationSettings,
    Network,
    NetworkSettings,
    Normalization,
    RawClassifier,
    SpatialTransformer,
    TransformerSettings,
    build_network,
)

BASELINE = TransformerSettings()
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
NORMALIZATION = Normalization(MEAN, STD)


def moved_network(transformer: TransformerSettings | None = BASELINE) -> Network:
    """Build a network whose θ is not the identity and depends on the image."""
    torch.manual_seed(0)
    network = build_network(NetworkSettings((3, 32, 32), 10, transformer)).eval()
    if network.transformer is not None:
        for parameter in network.transformer.localization.parameters():
            nn.init.normal_(parameter, std=0.1)
    return network


def raw_images(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def test_the_baseline_network_layer_by_layer():
    network = build_network(NetworkSettings((3, 32, 32), 10, BASELINE))
    learned = [(row.kind, row.output, row.parameters) for row in layers(network, (3, 32, 32)) if row.parameters]
    assert learned == [
        ("Conv2d", (8, 26, 26), 1_184),
        ("Conv2d", (10, 9, 9), 2_010),
        ("Linear", (32,), 5_152),
        ("Linear", (6,), 198),
        ("Conv2d", (10, 28, 28), 760),
        ("Conv2d", (20, 10, 10), 5_020),
        ("Linear", (50,), 25_050),
        ("Linear", (10,), 510),
    ]
    assert sum(parameter.numel() for parameter in network.parameters()) == 39_884


@pytest.mark.parametrize(
    ("image_shape", "transformer", "parameters"),
    [
        ((1, 28, 28), BASELINE, 27_360),  # the tutorial's
        # The same classifiers without localization networks, which have 8,544 and, at 28×28, 5,520 parameters.
        ((3, 32, 32), None, 31_340),
        ((1, 28, 28), None, 21_840),
    ],
)
def test_parameters_of_the_tutorial_and_without_transformer(image_shape, transformer, parameters):
    network = build_network(NetworkSettings(image_shape, 10, transformer))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.zeros(2, *image_shape)).shape == (2, 10)


def test_the_classifier_is_the_tutorials_function():
    torch.manual_seed(0)
    classifier = ConvClassifier((1, 28, 28), 10)
    conv1, conv2, fc1, fc2 = (module for module in classifier if isinstance(module, nn.Conv2d | nn.Linear))
    images, labels = torch.randn(4, 1, 28, 28), torch.tensor([1, 0, 9, 4])
    # Net.forward of pytorch.org/tutorials, without dropout.
    x = F.relu(F.max_pool2d(conv1(images), 2))
    x = F.relu(F.max_pool2d(conv2(x), 2)).view(-1, 320)
    x = F.log_softmax(fc2(F.relu(fc1(x))), dim=1)
    logits = classifier(images)
    torch.testing.assert_close(logits.log_softmax(1), x)
    torch.testing.assert_close(F.cross_entropy(logits, labels), F.nll_loss(x, labels))


@pytest.mark.parametrize(
    ("settings", "shapes"),
    [
        # The paper's, 28 -> 20 -> 10 -> 4 -> 2 without a hidden layer, and one with two hidden layers only.
        (ClassifierSettings((6, 7), (9, 7), hidden=()), [(6, 1, 9, 9), (7, 6, 7, 7), (10, 7 * 2 * 2)]),
        (ClassifierSettings((), (), hidden=(8, 9)), [(8, 28 * 28), (9, 8), (10, 9)]),
    ],
)
def test_other_classifiers(settings, shapes):
    network = build_network(NetworkSettings((1, 28, 28), 10, BASELINE, settings, dropout=0.5)).eval()
    assert [tuple(p.shape) for p in network.classifier.parameters() if p.ndim > 1] == shapes
    images = torch.randn(3, 1, 28, 28)
    # Each layer followed by a ReLU, and nothing else.
    x, linear = images, [m for m in network.classifier.modules() if isinstance(m, nn.Linear)]
    for convolution in (m for m in network.classifier.modules() if isinstance(m, nn.Conv2d)):
        x = F.relu(F.max_pool2d(convolution(x), 2))
    x = x.flatten(1)
    for layer in linear[:-1]:
        x = F.relu(layer(x))
    torch.testing.assert_close(network(images), linear[-1](x))


def test_dropout_acts_in_training_only_and_only_where_it_is_set():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)

    def repeats(dropout: float, training: bool) -> bool:
        network = build_network(NetworkSettings((3, 32, 32), 10, dropout=dropout)).train(training)
        return torch.equal(network(images), network(images))

    assert repeats(0.5, training=False)
    assert repeats(0.0, training=True)
    assert not repeats(0.5, training=True)
    # With probability 1 the last dropout drops everything, and only the last bias remains.
    network = build_network(NetworkSettings((3, 32, 32), 10, dropout=1.0)).train()
    assert torch.equal(network(images), network.classifier[-1].bias.expand(4, -1))  # pyright: ignore


def test_dropout_drops_whole_channels_after_the_second_convolution():
    torch.manual_seed(0)
    dropped = []
    classifier = ConvClassifier((1, 28, 28), 10, dropout=0.3).train()
    for module in classifier:
        if isinstance(module, nn.Dropout2d):
            module.register_forward_hook(lambda _module, inputs, output: dropped.append((inputs[0], output)))
    classifier(torch.randn(64, 1, 28, 28))
    ((before, after),) = dropped
    assert after.shape == (64, 20, 8, 8)
    gone = (after == 0).flatten(2).all(2)
    assert 0.25 < gone.float().mean() < 0.35
    torch.testing.assert_close(after[~gone], before[~gone] / 0.7)


@pytest.mark.parametrize("transformer", [BASELINE, None])
def test_predict_classifies_the_warped_image_and_returns_theta(transformer):
    network, images = moved_network(transformer), torch.randn(3, 3, 32, 32)
    logits, thetas = network.predict(images)
    if network.transformer is None:
        assert thetas == {}
        warped = images
    else:
        (theta,) = thetas.values()
        assert torch.equal(theta, network.transformer.localization(images))
        assert (theta[0] - theta[1]).abs().max() > 1e-3
        grid = F.affine_grid(theta.view(-1, 2, 3), [3, 3, 32, 32], align_corners=False)
        warped = F.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(logits, network.classifier(warped))
    assert torch.equal(network(images), logits)


def test_settings_of_a_variant_reach_the_parts():
    localization = LocalizationSettings(channels=[4], kernel_sizes=[9], hidden=[5])
    settings = TransformerSettings(localization=localization, padding_mode="border")
    network = build_network(NetworkSettings((3, 20, 24), 7, settings))
    assert network.transformer is not None
    assert network.transformer.sampler.padding_mode == "border"
    expected = [4 * 3 * 81 + 4, 4 * 6 * 8 * 5 + 5, 5 * 6 + 6]
    shapes = [row.parameters for row in layers(network, (3, 20, 24)) if row.name.startswith("transformer")]
    assert [parameters for parameters in shapes if parameters] == expected
    expected_settings = LocalizationSettings(channels=[4], kernel_sizes=[9], hidden=[5])
    assert settings.localization == expected_settings  # building does not change the settings
    assert network(torch.zeros(1, 3, 20, 24)).shape == (1, 7)


@pytest.mark.parametrize(
    ("image_shape", "transformer", "message"),
    [
        ((1, 15, 28), None, "classifier: an image of 15×28 pixels is too small"),
        ((1, 16, 28), BASELINE, "localization.kernel_sizes: an image of 16×28 pixels is too small"),
        ((1, 28, 28), TransformerSettings(padding_mode="black"), "padding_mode: 'black'"),
        ((1, 28, 28), TransformerSettings(localization=LocalizationSettings(channels=(8,))), "1 channels"),
        ((1, 28, 28), TransformerSettings(("rigid",)), "transform: 'rigid' is not one of affine"),
        ((1, 28, 28), TransformerSettings(("rigid",), scale=0.5), "scale: 0.5 given; only attention has it, not rigid"),
        ((1, 28, 28), TransformerSettings(scale=0.5), "scale: 0.5 given; only attention has it, not affine"),
        ((1, 28, 28), TransformerSettings(control_points=3), "control_points: 3 given; only tps has it, not affine"),
        ((1, 28, 28), TransformerSettings(("affine", "tps"), parallel=2), "parallel: 2 given, but .* a series"),
        ((1, 28, 28), TransformerSettings(output_size=(15, 15)), "classifier: an image of 15×15 pixels is too small"),
    ],
)
def test_invalid_settings_are_refused_by_name(image_shape, transformer, message):
    with pytest.raises(ValueError, match=message):
        build_network(NetworkSettings(image_shape, 10, transformer))


def test_any_classifier_works_behind_a_transformer():
    transformer = SpatialTransformer(Localization((3, 32, 32), Affine.identity))
    network = Network(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), transformer)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(images), images.mean((2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("transformer", [BASELINE, None])
def test_raw_classifier_normalizes_and_applies_the_softmax(transformer):
    network, images = moved_network(transformer), raw_images(4)
    with torch.no_grad():
        outputs = RawClassifier(network, NORMALIZATION)(images)
    normalized = (images.numpy() / 255.0 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    with torch.no_grad():
        logits, thetas = network.double().predict(torch.from_numpy(normalized))
    exponentials = np.exp(logits.numpy())
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert outputs["probabilities"].dtype == torch.float32
    np.testing.assert_allclose(outputs["probabilities"].numpy(), probabilities, atol=1e-5)
    assert outputs["class"].tolist() == probabilities.argmax(axis=1).tolist()
    if not thetas:
        assert set(outputs) == {"class", "probabilities"}
    else:
        assert outputs["theta"].shape == (4, 2, 3)
        np.testing.assert_allclose(outputs["theta"].reshape(4, 6).numpy(), thetas["input"].numpy(), atol=1e-5)


# Settings of a transformer, the shape of its θ in a registered model, and the shape of the classifier's input.
KINDS = [
    (BASELINE, (2, 3), (3, 32, 32)),
    (TransformerSettings(("attention",), scale=0.5, parallel=2, output_size=(16, 16)), (2, 2, 3), (6, 16, 16)),
    (TransformerSettings(("projective",), bound=0.3, output_size=(20, 20), antialias=2), (3, 3), (3, 20, 20)),
    (TransformerSettings(("tps",), control_points=3, bound=0.2, padding_mode="border"), (9, 2), (3, 32, 32)),
    (TransformerSettings(("tps",), parallel=2), (2, 16, 2), (6, 32, 32)),
    (TransformerSettings(("similarity", "affine"), output_size=(18, 18)), (2, 3), (3, 18, 18)),
    (TransformerSettings(("affine", "tps"), bound=0.5), (16, 2), (3, 32, 32)),
]


@pytest.mark.parametrize(("settings", "theta_shape", "seen"), KINDS)
def test_every_kind_of_transformer_can_be_built_and_trained_and_has_a_readable_theta(settings, theta_shape, seen):
    network = moved_network(settings)
    assert network.transformer is not None
    images = torch.randn(4, 3, 32, 32)
    theta = network.transformer.theta(images)
    assert network.transformer.warp(images, theta).shape == (4, *seen)
    assert network.transformer.transform.readable(theta).shape == (4, *theta_shape)
    network.train()(images).square().sum().backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("transformer", [None, *(settings for settings, _, _ in KINDS)])
def test_raw_classifier_exports_with_any_batch_size(transformer):
    classifier = RawClassifier(moved_network(transformer), NORMALIZATION)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(classifier, (raw_images(2),), dynamic_shapes=({0: batch},)).module()
    for count in (1, 3):
        with torch.no_grad():
            expected, outputs = classifier(raw_images(count)), exported(raw_images(count))
        assert set(outputs) == set(expected)
        for name in expected:
            torch.testing.assert_close(outputs[name], expected[name])


def test_the_baselines_weights_keep_their_names_and_initial_values():
    """Checkpoints, registered models and repeatable trainings depend on them."""
    torch.manual_seed(0)
    weights = build_network(NetworkSettings((1, 28, 28), 10, BASELINE)).state_dict()
    torch.manual_seed(0)
    localization = Localization((1, 28, 28), Affine.identity)  # is initialized before the classifier
    parts = {"transformer.localization": localization, "classifier": ConvClassifier((1, 28, 28), 10)}
    expected = {f"{part}.{name}": value for part in parts for name, value in parts[part].state_dict().items()}
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
