"""Settings of variants that concern the network: places of transformers, sizes, and what is refused."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from pipelines.networks.build import check_network, has_batch_norm, network_settings
from pipelines.settings.variants import VariantParams
from stn.classifiers import build_network

LOCALIZATION = {"channels": [], "kernel_sizes": [], "hidden": 8}
TRANSFORMER: dict[str, Any] = {"padding_mode": "border", "localization": LOCALIZATION}
SHAPE = (1, 24, 40)


def variant(**settings: Any) -> VariantParams:
    return VariantParams.model_validate(settings)


def test_a_list_with_one_transformer_in_front_is_the_same_network():
    single, listed = variant(transformer=TRANSFORMER), variant(transformers=[{**TRANSFORMER, "at": "input"}])
    torch.manual_seed(0)
    one = build_network(network_settings(single, SHAPE, 3)).state_dict()
    torch.manual_seed(0)
    other = build_network(network_settings(listed, SHAPE, 3)).state_dict()
    assert one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    # A record of a training is read back as it was written.
    for settings in (single, listed):
        assert VariantParams.model_validate(settings.model_dump()) == settings


def test_three_sizes_differ():
    """The localization network, the sampler and the classifier each see another size."""
    localization = {"channels": [4], "kernel_sizes": [5], "hidden": [8], "input_size": [12, 20]}
    transformer = {"padding_mode": "border", "output_size": [16, 32], "localization": localization}
    network = build_network(network_settings(variant(transformer=transformer), SHAPE, 3))
    seen = {}
    front = network.transformer
    assert front is not None
    for name, module in {"localizes": front.localization.features[1], "classifies": network.classifier}.items():  # pyright: ignore[reportIndexIssue]
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: tuple(inputs[0].shape[2:])}))
    front.sampler.register_forward_pre_hook(lambda _, inputs: seen.update(samples=tuple(inputs[0].shape[2:])))
    network(torch.zeros(2, *SHAPE))
    assert seen == {"localizes": (12, 20), "samples": (24, 40), "classifies": (16, 32)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "transformer: missing"),
        ({"transformer": TRANSFORMER, "transformers": [TRANSFORMER]}, "2 given at 'input'; one at each place"),
        ({"transformers": [{**TRANSFORMER, "at": "conv1"}] * 2}, "2 given at 'conv1'"),
        ({"transformers": [{**TRANSFORMER, "at": "conv1", "localization": {"shares": "conv1"}}]}, "shares given"),
        (
            {"transformers": [{**TRANSFORMER, "at": "conv1", "localization": {"backbone": "x", "pretrained": True}}]},
            "pretrained given at 'conv1'",
        ),
        (
            {
                "transformers": [{**TRANSFORMER, "parallel": 2}, {**TRANSFORMER, "at": "layer2"}],
                "classifier": {"backbone": "resnet18"},
            },
            "each crop would have its own θ there",
        ),
        ({"transformer": None, "classifier": {"module": "os:system"}}, "own_networks"),
        ({"transformer": None, "classifier": {"backbone": "resnet18", "pretrained": {"file": "w"}}}, "sha256"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        variant(**settings)


def test_batch_normalization_is_found_in_every_part():
    plain = check_network("plain", variant(transformer=None), (3, 32, 32), 4)
    backbone = check_network("mine", variant(transformer=None, classifier={"backbone": "resnet10t"}), (3, 32, 32), 4)
    localizes = {**TRANSFORMER, "localization": {"backbone": "resnet10t", "stage": 1}}
    assert not has_batch_norm(plain) and has_batch_norm(backbone)
    assert has_batch_norm(check_network("mine", variant(transformer=localizes), (3, 32, 32), 4))


@pytest.mark.slow
def test_a_network_of_stn_is_checked_and_its_layers_are_listed_without_an_import_of_dynamo():
    """The import takes more than a second, which every training and evaluation would pay."""
    code = """
import sys
from pipelines.evaluation.layer_table import layers
from pipelines.networks.build import check_network, network_settings
from pipelines.settings.variants import load_variant
from stn.classifiers import build_network

variant = load_variant("stn")
assert check_network("stn", variant, (3, 32, 32), 10).transformer is not None
assert layers(build_network(network_settings(variant, (3, 32, 32), 10)), (3, 32, 32))
assert not {"torch._dynamo", "sympy"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
