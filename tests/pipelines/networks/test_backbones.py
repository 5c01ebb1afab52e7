"""Networks of timm: as classifiers, as localization networks, with pretrained weights."""

import copy
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]

from pipelines.networks.backbones import Pretraining, Renormalize
from pipelines.networks.build import network_settings
from pipelines.runtime.errors import ExternalError
from pipelines.settings.variants import VariantParams
from stn.classifiers import Network, RawClassifier, build_network
from stn.optimizers import parameter_groups
from stn.settings import Normalization, Recipe

SHAPE = (3, 32, 32)
DATA = Normalization([0.2, 0.4, 0.6], [0.1, 0.2, 0.3])
CONVOLUTIONS = {"channels": [4], "kernel_sizes": [5], "hidden": 8}
SMALL = {"backbone": "resnet10t"}


def build(shape: tuple[int, int, int] = SHAPE, pretraining: Pretraining | None = None, **settings: Any) -> Network:
    variant = VariantParams.model_validate({"transformer": None} | settings)
    torch.manual_seed(0)
    return build_network(network_settings(variant, shape, 5, 0.0, pretraining or Pretraining(DATA, False)))


def test_the_classifier_is_timms_own_network():
    network = build(classifier={**SMALL, "options": {"stem_type": ""}}).eval()
    torch.manual_seed(0)
    bare = timm.create_model("resnet10t", in_chans=3, num_classes=5, stem_type="").eval()
    images = torch.randn(2, *SHAPE)
    assert torch.equal(network(images), bare(images))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"transformer": {"padding_mode": "border", "localization": CONVOLUTIONS}},
        {"transformers": [{"at": "layer2.0.conv1", "padding_mode": "zeros", "localization": CONVOLUTIONS}]},
        {"transformer": {"padding_mode": "border", "localization": {"shares": "layer1"}}},
        {"transformer": {"padding_mode": "border", "localization": {**SMALL, "stage": 1, "input_size": [16, 24]}}},
        {
            "transformer": {
                "transform": "attention", "scale": 0.5, "parallel": 3, "output_size": [24, 32],
                "padding_mode": "border", "localization": {"shares": "layer2"},
            }
        },
    ],
    ids=["in front", "inside", "shared layers", "backbone localizes", "crops"],
)  # fmt: skip
def test_a_transformer_with_a_backbone_trains_and_is_exported(settings):
    network = build(**settings, classifier=SMALL)
    logits, thetas = network.train()(torch.randn(4, *SHAPE), with_theta=True)
    (transformer,), (theta,) = network.transformers.values(), thetas.values()
    assert torch.equal(theta[0], torch.tensor(transformer.transform.identity))  # an untrained one does nothing
    logits.square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    raw = RawClassifier(network, DATA).eval()
    images = torch.randint(256, (3, *SHAPE), dtype=torch.uint8)
    program = torch.export.export(raw, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    outputs = program.module()(images)
    for name, values in raw(images).items():
        torch.testing.assert_close(outputs[name], values)


def test_crops_pass_through_the_same_layers():
    crops = {"transform": "attention", "scale": 0.5, "parallel": 2, "output_size": 32, "padding_mode": "border"}
    network = build(transformer={**crops, "localization": CONVOLUTIONS}, classifier=SMALL).eval()
    images = torch.randn(2, *SHAPE)
    assert network.transformer is not None
    left, right = network.transformer(images).chunk(2, 1)
    layers = network.classifier.layers
    features = torch.cat((layers(left), layers(right)), 1)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(network(images), network.classifier.logits(features))  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    "classifier", [SMALL, {"channels": [4, 8], "kernel_sizes": [3, 3]}], ids=["timm", "own layers"]
)
def test_shared_layers_have_one_set_of_weights(classifier):
    place = "layer1" if "backbone" in classifier else "conv1"
    transformer = {"padding_mode": "border", "localization": {"shares": place}}
    network = build(transformer=transformer, classifier=classifier).eval()
    names = [name for name, _ in network.named_parameters()]
    assert not [name for name in names if name.startswith("transformer.localization.features")]
    twin, images = copy.deepcopy(network), torch.randn(2, *SHAPE)
    assert twin.transformer is not None
    localization = twin.transformer.localization
    before = localization.features(images).clone()  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        for parameter in twin.classifier.parameters():
            parameter.mul_(2)
    assert not torch.allclose(localization.features(images), before)  # pyright: ignore[reportCallIssue]
    assert network.transformer is not None
    torch.testing.assert_close(network.transformer.localization.features(images), before)  # pyright: ignore[reportCallIssue]
    # The mode reaches the shared layers: in training, batch normalization uses the statistics of the batch.
    trained = localization.train().features(images)  # pyright: ignore[reportCallIssue]
    assert torch.allclose(trained, localization.eval().features(images)) == (place == "conv1")  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("backbone", ["resnet10t", "test_vit"])
def test_layers_have_the_depths_that_timm_says(backbone):
    """timm's own groups for layer-wise decay are the oracle."""
    options = {"img_size": 32, "patch_size": 8} if backbone == "test_vit" else {}
    network = build(classifier={"backbone": backbone, "options": options})
    layers = network.classifier.get_submodule("layers")
    scales = {
        parameter: group["lr_scale"]
        for group in param_groups_layer_decay(layers, layer_decay=0.5)
        for parameter in group["params"]
    }
    groups = parameter_groups(network, Recipe(1, 8, optimizer="adamw", lr=1.0, layer_decay=0.5))
    found = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert len({*scales.values()}) > 3 and found == pytest.approx(scales)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        ({"backbone": "resnet81"}, r"backbone: 'resnet81' given; timm .* has no such network; did you mean resnet"),
        ({"backbone": "resnet10t", "options": {"colour": 1}}, "backbone: 'resnet10t' given with options .*colour"),
        ({"backbone": "resnet10t", "options": {"in_chans": 1}}, "options: in_chans given; the pipeline sets it"),
    ],
)
def test_what_timm_does_not_accept_is_named(classifier, message):
    with pytest.raises(ValueError, match=message):
        build(classifier=classifier)


def test_images_are_renormalized():
    images, other = torch.rand(4, *SHAPE), Normalization([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])

    def normalized(normalization: Normalization) -> torch.Tensor:
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (normalization.mean, normalization.std))
        return (images - mean) / std

    torch.testing.assert_close(Renormalize(DATA, other)(normalized(DATA)), normalized(other))


@pytest.fixture
def weights(tmp_path) -> dict[str, Any]:
    """Weights of a network of 1,000 classes, as a file."""
    torch.manual_seed(1)
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), file)
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


@pytest.mark.parametrize("channels", [3, 1])
def test_weights_of_another_task_are_adapted(weights, channels):
    data = Normalization(DATA.mean[:channels], DATA.std[:channels])
    settings: dict[str, Any] = {"classifier": {**SMALL, "pretrained": weights}, "shape": (channels, 32, 32)}
    loaded, empty = (build(**settings, pretraining=Pretraining(data, load)) for load in (True, False))
    torch.manual_seed(1)
    source = timm.create_model("resnet10t").state_dict()
    adapted = loaded.classifier.get_submodule("layers").state_dict()
    same = [name for name, tensor in source.items() if torch.equal(adapted.get(name, torch.zeros(0)), tensor)]
    changed = {name for name in source if name not in same}
    assert changed == {"fc.weight", "fc.bias"} | ({"conv1.0.weight"} if channels == 1 else set())
    # A trained network is built without the file, and gets all tensors, the normalization included, from its weights.
    empty.load_state_dict(loaded.state_dict())
    images = torch.randn(2, channels, 32, 32)
    assert torch.equal(empty.eval()(images), loaded.eval()(images))
    assert loaded.classifier.renormalize is not None


@pytest.mark.parametrize("damage", ["missing", "changed", "of another network"])
def test_a_wrong_file_of_weights_is_refused(weights, damage):
    file = Path(weights["file"])
    message = {"missing": "there is no such file", "changed": "pretrained.sha256: "}.get(damage, "cannot load it")
    if damage == "missing":
        file.unlink()
    else:
        save_file(timm.create_model("resnet18").state_dict(), file)
        if damage == "of another network":
            weights["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=message):
        build(classifier={**SMALL, "pretrained": weights}, pretraining=Pretraining(DATA, True))


def test_without_a_network_the_message_says_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ExternalError, match=r"pretrained: true given; .*no route to host.*sha256"):
        build(classifier={**SMALL, "pretrained": True}, pretraining=Pretraining(DATA, True))


@pytest.mark.slow
def test_timm_is_imported_only_for_a_variant_that_names_it():
    code = (
        "import sys\nfrom pipelines.networks.build import network_settings\nfrom stn.classifiers import build_network\n"
        "from pipelines.settings.variants import load_variant\n"
        "build_network(network_settings(load_variant('stn'), (1, 28, 28), 10))\nassert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
