"""Optimizers of a recipe: SGD, Muon or AdamW, and the parameter groups that they share."""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from stn.classifiers import Network, layers_of
from stn.muon import Muon
from stn.settings import Recipe

ADAM_SQUARES = 0.999  # decay of AdamW's average of the squared gradient, for which the recipe has no setting


def make_optimizer(network: Network, recipe: Recipe) -> Optimizer:
    """Make the optimizer of a recipe, with the groups of :func:`parameter_groups`.

    - ``sgd``: with Nesterov momentum.
    - ``muon``: see :class:`stn.muon.Muon`.
    - ``adamw``: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019). ``momentum`` is the decay of the
      average of the gradient. A step multiplies the weights by 1 - lr · ``weight_decay``. SGD's weight decay, which is
      part of the gradient, is 1 / (1 - ``momentum``) times as strong, and learning rates of AdamW are far smaller.
    """
    _skip_import_of_dynamo()
    groups = parameter_groups(network, recipe)
    if recipe.optimizer == "muon":
        return Muon(groups, recipe.lr, recipe.momentum, recipe.weight_decay)
    # One kernel for all parameters, which reads a learning rate that is a tensor; the others copy it to the CPU.
    fused = next(network.parameters()).device.type == "cuda"
    if recipe.optimizer == "adamw":
        betas = (recipe.momentum, ADAM_SQUARES)
        return AdamW(groups, recipe.lr, betas=betas, weight_decay=recipe.weight_decay, fused=fused)
    nesterov = recipe.momentum > 0
    return SGD(groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov, fused=fused)


class GroupSettings(NamedTuple):
    """The settings that the parameters of a group share. ``orthogonal`` is read by Muon only."""

    lr: float
    weight_decay: float
    orthogonal: bool


def parameter_groups(network: Network, recipe: Recipe) -> list[dict[str, Any]]:
    """Group all parameters of a network by their :class:`GroupSettings`, for any optimizer.

    The learning rate of a layer of the classifier is ``lr`` · ``layer_decay``ⁿ, n layers before the last one.
    Localization networks have the learning rate ``lr`` · ``localization_lr`` and the weight decay
    ``localization_weight_decay``, or ``weight_decay`` if it is None. Without ``decay_norms``, parameters of fewer than
    two dimensions have no weight decay: biases, and the scales and shifts of normalization layers.

    Muon takes orthogonal steps for all matrices and filters, except those of the last layer of the classifier and of
    each localization network.
    """
    groups: dict[GroupSettings, list[nn.Parameter]] = {}
    for parameter, settings in _settings_of_parameters(network, recipe):
        groups.setdefault(settings, []).append(parameter)
    return [{"params": parameters, **settings._asdict()} for settings, parameters in groups.items()]


def _settings_of_parameters(network: Network, recipe: Recipe) -> Iterator[tuple[nn.Parameter, GroupSettings]]:
    """Yield each parameter with its settings."""
    depths = layer_depths(network.classifier) if recipe.layer_decay < 1 else {}
    deepest = max(depths.values(), default=0)
    decay = recipe.localization_weight_decay
    decay = recipe.weight_decay if decay is None else decay
    parts: list[tuple[nn.Module, float, float]] = [(network.classifier, recipe.lr, recipe.weight_decay)]
    for transformer in network.transformers.values():
        parts += [(part, recipe.lr * recipe.localization_lr, decay) for part in transformer.localizations()]
    for part, part_lr, part_decay in parts:
        parameters = list(part.parameters())
        last = next((parameter for parameter in reversed(parameters) if parameter.ndim > 1), None)
        for parameter in parameters:
            yield (
                parameter,
                GroupSettings(
                    lr=part_lr * recipe.layer_decay ** (deepest - depths.get(parameter, deepest)),
                    weight_decay=part_decay if recipe.decay_norms or parameter.ndim > 1 else 0.0,
                    orthogonal=recipe.optimizer == "muon" and parameter.ndim > 1 and parameter is not last,
                ),
            )


def layer_depths(classifier: nn.Module) -> dict[nn.Parameter, int]:
    """Return the depth of each parameter of a classifier, from 0 at the input.

    The classifier's own method ``layer_depths``, if it has one, says what a layer is. Otherwise each child module with
    parameters is one layer, in the order of its children.
    """
    own = getattr(classifier, "layer_depths", None)
    if own is not None:
        return own()
    children = [list(child.parameters()) for child in layers_of(classifier).children()]
    layers = [parameters for parameters in children if parameters]
    return {parameter: depth for depth, parameters in enumerate(layers) for parameter in parameters}


def _skip_import_of_dynamo() -> None:
    """Keep Muon from importing ``torch._dynamo``, which takes 1.2 to 1.7 s; SGD and AdamW import it anyway.

    At the first call of these methods torch imports it, only to exclude them from compilation, and stores the result
    in this attribute. If torch renames the attribute, the import happens again.
    """
    if "torch._dynamo" not in sys.modules:
        for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
            method = getattr(Optimizer, name)
            method = getattr(method, "__wrapped__", method)
            setattr(method, "__dynamo_disable", method)
