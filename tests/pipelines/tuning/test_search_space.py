"""Search space: drawn variants lie in it, fit the image, and change what is trained."""

from typing import get_args

import optuna
import pytest
import torch

from pipelines.networks.build import count_parameters
from pipelines.outputs.prepared_data import DatasetMeta, Labeled
from pipelines.settings.params import SearchSpaceParams, load_params
from pipelines.settings.variants import ConvClassifierParams, Transform, VariantParams, load_variant
from pipelines.training.recipe import recipe_of
from pipelines.training.trainer import Trainer, TrainingData
from pipelines.tuning.search_space import (
    draw,
    draw_only,
    find_misfit,
    from_variant,
    restrict_to_space,
    to_variant,
)

CLASSIFIER = ConvClassifierParams(channels=[12], kernel_sizes=[3], hidden=[])


def describe(image_shape: tuple[int, int, int], classes: int) -> DatasetMeta:
    """Description of a data set with images of this shape."""
    channels = image_shape[0]
    return DatasetMeta(
        dataset="mine", source="nowhere", classes=[str(label) for label in range(classes)], image_shape=image_shape,
        counts={}, mean=[0.5] * channels, std=[0.3] * channels, distortion={}, duplicates={}, broken={}, digest="d",
    )  # fmt: skip


CIFAR = describe((3, 32, 32), 10)


@pytest.fixture(scope="module")
def space():
    return load_params().tune.search_space


def drawn(space, count: int) -> list[tuple[optuna.Trial, VariantParams]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [(trial, draw(trial, space, CLASSIFIER)) for trial in (study.ask() for _ in range(count))]


def test_what_is_drawn_lies_in_the_space_and_is_what_is_recorded(space):
    trials = drawn(space, 200)
    for trial, variant in trials:
        assert restrict_to_space(trial.params, space) == trial.params
        assert to_variant(trial.params, CLASSIFIER) == variant
        # Back again: the variant holds every drawn value and nothing else.
        assert restrict_to_space(from_variant(variant, weight_decay=0.5), space) == trial.params
    assert {trial.params["layers"] for trial, _ in trials} == {1, 2}


def test_settings_of_a_layer_are_drawn_only_where_there_is_that_layer(space):
    for trial, _ in drawn(space, 50):
        assert ("channels_2" in trial.params) == ("kernel_size_2" in trial.params) == (trial.params["layers"] == 2)


def test_the_baseline_network_lies_in_the_default_space(space):
    values = from_variant(load_variant("stn"), weight_decay=load_params().train.weight_decay)
    assert values.keys() - restrict_to_space(values, space).keys() == {"at"}, "places are not searched by default"


def test_of_a_network_outside_the_space_only_what_it_contains_is_recorded(space):
    values = from_variant(load_variant("stn"), weight_decay=0.0005)
    narrow = space.model_copy(update={"kernel_size": [3], "hidden": space.hidden.model_copy(update={"high": 31})})
    kept = restrict_to_space(values, narrow)
    assert values.keys() - kept.keys() == {"kernel_size_1", "kernel_size_2", "hidden", "at"}
    study = optuna.create_study()
    study.enqueue_trial(kept)
    trial = study.ask()
    draw_only(trial, narrow, list(kept))
    assert trial.params == kept


def test_what_does_not_fit_is_refused_and_says_why():
    baseline = load_variant("stn")
    assert count_parameters(CIFAR.network_settings(baseline)) == 39_884
    assert find_misfit(baseline, CIFAR, 39_884) is None
    assert find_misfit(baseline, CIFAR, None) is None
    assert find_misfit(baseline, CIFAR, 39_883) == "39,884 parameters, more than 39,883"
    halved = baseline.model_dump()
    halved["transformer"]["localization"] |= {"downsample": 4}
    reason = find_misfit(VariantParams.model_validate(halved), CIFAR, None)
    assert reason is not None and "too small for kernels [7, 5]" in reason


CHANGES = {
    "transformer.transform": "attention", "transformer.padding_mode": "border",
    "transformer.localization.channels": [4, 10], "transformer.localization.kernel_sizes": [3, 5],
    "transformer.localization.hidden": 20, "transformer.localization.activation": "tanh",
    "transformer.localization.downsample": 2, "localization_lr": 0.5, "localization_weight_decay": 0.9,
    "theta_penalty": 0.5, "alignment_weight": 0.5,
    "transformer.parallel": 2, "transformer.scale": 0.5, "transformer.control_points": 3,
    "transformer.bound": 0.01, "transformer.output_size": 20, "transformer.antialias": 2,
    "classifier.channels": [10, 12], "classifier.kernel_sizes": [3, 5], "classifier.hidden": [],
}  # fmt: skip
OF_FAMILY = {"transformer.scale": "attention", "transformer.control_points": "tps"}


def leaves(tree: dict, prefix: str = "") -> set[str]:
    return {
        leaf
        for name, value in tree.items()
        for leaf in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name})
    }


def trained(variant: VariantParams) -> dict[str, torch.Tensor]:
    """Weights after one epoch on noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 1, 40, 40), generator=generator, dtype=torch.uint8)
    labels = torch.randint(3, (64,), generator=generator)
    meta = describe((1, 40, 40), 3)
    batches = meta.batches(Labeled(images, labels), torch.device("cpu"))
    changes = {"epochs": 1, "batch_size": 16, "flip": False, "shift": 0, "lr": 0.1}
    train = load_params().train.model_copy(update=changes)
    make_network, recipe = meta.network_builder(variant, train.dropout), recipe_of(train, variant)
    trainer = Trainer(make_network, recipe, TrainingData(batches, batches), seed=0, precision=torch.float32)
    trainer.train_epoch()
    return trainer.weights()


def test_every_tuned_setting_is_checked_below(space):
    ((_, variant),) = drawn(space, 1)
    # The origin of a variant is a record and has no effect on its network. Trials have one transformer, and look at the
    # image in its own size.
    left_out = {"origin", "transformers", "transformer.localization.input_size"}
    assert leaves(variant.model_dump()) == CHANGES.keys() | left_out


@pytest.mark.parametrize("leaf", CHANGES)
def test_a_tuned_setting_changes_what_train_builds(leaf):
    before, after = load_variant("stn").model_dump(), load_variant("stn").model_dump()
    for variant in (before, after):
        assert variant["transformer"] is not None
        variant["transformer"]["transform"] = OF_FAMILY.get(leaf, "affine")
    *sections, key = leaf.split(".")
    place = after
    for section in sections:
        place = place[section]
    place[key] = CHANGES[leaf]
    settings = VariantParams.model_validate(before)
    one, other = trained(settings), trained(VariantParams.model_validate(after))
    same_shapes = {name: tensor.shape for name, tensor in one.items()} == {n: t.shape for n, t in other.items()}
    assert not same_shapes or any(not torch.equal(tensor, other[name]) for name, tensor in one.items())
    again = trained(settings)
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items()), "training is not deterministic"


@pytest.mark.parametrize("family", get_args(Transform))
def test_every_family_may_be_tuned(family, space):
    """A family is selected by its name in the list; the drawn networks are of that family and fit."""
    narrow = SearchSpaceParams.model_validate(space.model_dump() | {"transform": [family], "layers": [1]})
    for _, variant in drawn(narrow, 3):
        assert variant.transformer is not None and variant.transformer.transform == family
        assert find_misfit(variant, CIFAR, None) is None
