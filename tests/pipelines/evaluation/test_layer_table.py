"""Multiply-adds of each layer, checked against numbers computed by hand."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipelines.evaluation.layer_table import group_layers, layers
from pipelines.networks.build import network_settings
from pipelines.settings.variants import VariantParams
from stn.classifiers import build_network
from stn.settings import NetworkSettings, TransformerSettings

# Per image: output values x input channels x kernel area of a convolution, inputs x outputs of a linear layer,
# 12 per point of an affine grid (half of them with zeros), 4 per sampled value (four neighbors).
LOCALIZATION = [
    ("transformer.localization.features.0", 8 * 26 * 26 * 3 * 7 * 7),
    ("transformer.localization.features.3", 10 * 9 * 9 * 8 * 5 * 5),
    ("transformer.localization.head.1", 160 * 32),
    ("transformer.localization.head.3", 32 * 6),
    ("transformer.transform", 12 * 32 * 32),
    ("transformer.sampler", 4 * 3 * 32 * 32),
]
CLASSIFIER = [
    ("classifier.conv1", 10 * 28 * 28 * 3 * 5 * 5),
    ("classifier.conv2", 20 * 10 * 10 * 10 * 5 * 5),
    ("classifier.hidden1", 500 * 50),
    ("classifier.logits", 50 * 10),
]


@pytest.mark.parametrize(
    ("transformer", "expected", "total"),
    [(TransformerSettings(), LOCALIZATION + CLASSIFIER, 2_100_364), (None, CLASSIFIER, 1_113_500)],
)
def test_multiply_adds_computed_by_hand(transformer, expected, total):
    table = layers(build_network(NetworkSettings((3, 32, 32), 10, transformer)), (3, 32, 32))
    assert [(row.name, row.multiply_adds) for row in table if row.multiply_adds] == expected
    assert sum(row.multiply_adds for row in table) == total


@pytest.mark.parametrize(
    ("transformer", "grids", "samples"),
    [
        (TransformerSettings(parallel=2, output_size=(20, 20)), [12 * 2 * 20 * 20], [4 * 3 * 2 * 20 * 20]),
        (
            TransformerSettings(transform=("projective",), output_size=(16, 16), antialias=2),
            [24 * 32 * 32],
            [4 * 3 * 32 * 32],
        ),
        # In a series the first transform samples the input of the second localization network.
        (
            TransformerSettings(transform=("affine", "affine")),
            [12 * 32 * 32, 12 + 12 * 32 * 32],
            [4 * 3 * 32 * 32] * 2,
        ),
    ],
    ids=["parallel", "projective", "series"],
)
def test_grids_and_samples_of_other_transformers(transformer, grids, samples):
    table = layers(build_network(NetworkSettings((3, 32, 32), 10, transformer)), (3, 32, 32))
    of_samplers = [row.multiply_adds for row in table if row.name == "transformer.sampler"]
    of_transforms = [
        row.multiply_adds for row in table if row.name.startswith(("transformer.transform", "transformer.prefixes"))
    ]
    assert (of_transforms, of_samplers) == (grids, samples)


def test_one_row_for_each_layer_in_execution_order():
    class Backward(nn.Module):
        """Runs its layers in reverse order of definition."""

        def __init__(self):
            super().__init__()
            self.last = nn.Linear(12, 2, bias=False)
            self.first = nn.Conv2d(1, 3, (2, 3), stride=2)
            self.flat = nn.Flatten()

        def forward(self, images):
            return self.last(self.flat(self.first(images)))

    assert layers(Backward(), (1, 4, 5)) == [
        ("first", "Conv2d", (3, 2, 2), 3 * 6 + 3, 3 * 2 * 2 * 6),
        ("flat", "Flatten", (12,), 0, 0),
        ("last", "Linear", (2,), 24, 24),
    ]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_unchanged(training):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten()).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    layers(network, (3, 8, 8))
    assert network.training is training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("localization", "classifier"),
    [
        ({"shares": "layer1"}, {"backbone": "resnet10t"}),
        ({"channels": [], "kernel_sizes": [], "hidden": 8}, {"backbone": "test_vit", "options": {"img_size": 160}}),
    ],
    ids=["shared layers", "attention"],
)
def test_totals_are_those_of_the_whole_network(localization, classifier):
    """torch's counter over the whole network is the oracle; it knows neither grids nor sampling."""
    transformer = {"padding_mode": "border", "localization": localization}
    variant = VariantParams.model_validate({"transformer": transformer, "classifier": classifier})
    network = build_network(network_settings(variant, (3, 160, 160), 4)).eval()
    rows = layers(network, (3, 160, 160))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network(torch.zeros(1, 3, 160, 160))
    own = 4 * 3 * 160 * 160  # of sampling
    assert sum(row.multiply_adds for row in rows) == counter.get_total_flops() // 2 + own
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in network.parameters())
    by_name = {row.name: row.multiply_adds for row in rows}
    assert by_name["(others)"] > 0 if "test_vit" in classifier.values() else "(others)" not in by_name


def test_rows_of_large_networks_are_merged():
    variant = VariantParams.model_validate({"transformer": None, "classifier": {"backbone": "resnet10t"}})
    rows = layers(build_network(network_settings(variant, (3, 32, 32), 4)), (3, 32, 32))
    merged = group_layers(rows, 20)
    assert len(merged) <= 20 < len(rows)
    for total in ("parameters", "multiply_adds"):
        assert sum(getattr(row, total) for row in merged) == sum(getattr(row, total) for row in rows)
    (stage,) = [row for row in merged if row.name.startswith("classifier.layers.layer1")]
    inside = [row for row in rows if row.name.startswith("classifier.layers.layer1.")]
    assert stage == (stage.name, f"{len(inside)} layers", inside[-1].output,
                     sum(row.parameters for row in inside), sum(row.multiply_adds for row in inside))  # fmt: skip
    assert group_layers(rows, len(rows)) == rows
