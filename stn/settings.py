"""Settings of networks and of training, as frozen values.

These classes do not check their values. The functions and modules that are built from them do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

Shape = tuple[int, int, int]  # channels, height, width
MakeClassifier = Callable[[Shape, int, float], nn.Module]
"""Makes a classifier for images of a shape, a number of classes and a dropout probability."""
MakeLocalization = Callable[[Shape, Sequence[float], nn.Module | None], nn.Module]
"""Makes a localization network for images of a shape, the identity θ, and the classifier, whose layers it may use."""


@dataclass(frozen=True)
class LocalizationSettings:
    """Keyword arguments of :class:`stn.localization.Localization`.

    The defaults are those of PyTorch's spatial-transformer tutorial.
    """

    channels: Sequence[int] = (8, 10)
    kernel_sizes: Sequence[int] = (7, 5)
    hidden: Sequence[int] = (32,)
    activation: str = "relu"
    downsample: int = 1
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class TransformerSettings:
    """Settings of a spatial transformer.

    Args:
        transform: names of families, see :data:`stn.transforms.TRANSFORMS`. Several names make a
            :class:`~stn.composition.Series`.
        parallel: number of parallel transforms, see :class:`~stn.composition.Parallel`. The classifier receives their
            images stacked as channels.
        scale: fixed scale of the family ``attention``.
        control_points: number of control points per side of the family ``tps``.
        bound: see :meth:`stn.transforms.Transform.bounded`.
        output_size: height and width of the output in pixels. None: the size of the input.
        antialias, padding_mode: see :class:`~stn.spatial_transformer.SpatialTransformer`.
        localization: settings of the localization network, or a function that makes it. In a series, each transform has
            its own network.
    """

    transform: Sequence[str] = ("affine",)
    parallel: int = 1
    scale: float | None = None
    control_points: int | None = None
    bound: float | None = None
    output_size: tuple[int, int] | None = None
    antialias: int = 1
    padding_mode: str = "zeros"
    localization: LocalizationSettings | MakeLocalization = LocalizationSettings()

    def output_shape(self, image_shape: Shape) -> Shape:
        """The shape of rectified images (C, H, W), with parallel transforms stacked as channels."""
        channels, *size = image_shape
        height, width = self.output_size or size
        return channels * self.parallel, height, width


@dataclass(frozen=True)
class ClassifierSettings:
    """Keyword arguments of :class:`stn.classifiers.ConvClassifier`.

    The defaults are those of PyTorch's spatial-transformer tutorial.
    """

    channels: Sequence[int] = (10, 20)
    kernel_sizes: Sequence[int] = (5, 5)
    hidden: Sequence[int] = (50,)


@dataclass(frozen=True)
class NetworkSettings:
    """Settings of a classifier with optional spatial transformers in front and inside.

    Args:
        image_shape: channels, height, width.
        classes: number of classes.
        transformer: in front of the classifier. None: no spatial transformer there.
        classifier: settings of the classifier, or a function that makes it.
        dropout: dropout probability in the classifier.
        inner: transformers before submodules of the classifier, by the dotted name of the submodule.
    """

    image_shape: Shape
    classes: int
    transformer: TransformerSettings | None = None
    classifier: ClassifierSettings | MakeClassifier = ClassifierSettings()
    dropout: float = 0.0
    inner: Mapping[str, TransformerSettings] = field(default_factory=dict)


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, for pixel values scaled to [0, 1]."""

    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True)
class AlignmentSettings:
    """Settings of :class:`stn.alignment_term.AlignmentTerm`.

    Args:
        weight: weight of the term in the training objective. 0: no term.
        to: ``upright`` or ``itself``.
        warmup: share of the training in which the weight rises from 0, in [0, 1].
    """

    weight: float = 0.0
    to: str = "itself"
    warmup: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Settings of one training.

    Args:
        epochs: number of passes over the training images.
        batch_size: size of the global batch, which all ranks share.
        optimizer: ``muon``, ``sgd`` or ``adamw``, see :func:`stn.optimizers.make_optimizer`.
        schedule: ``one_cycle`` or ``thirds``, see :func:`stn.training.make_schedule`.
        lr: peak learning rate of the schedule.
        warmup: share of the steps in which the learning rate rises, in [0, 1); ``thirds`` has none.
        momentum: in [0, 1).
        weight_decay: weight decay of the classifier.
        layer_decay: in (0, 1]. The learning rate of each layer of the classifier is this factor of that of the next
            layer, see :func:`stn.optimizers.layer_depths`.
        decay_norms: whether biases and other parameters of one dimension have weight decay too.
        max_grad_norm: longer gradients are scaled down to this norm.
        label_smoothing: share of each label that is spread evenly over all classes, in the training objective alone.
        class_weights: ``none``, or ``balanced``: an image counts in the training objective in inverse proportion to the
            number of training images of its class, see :mod:`stn.class_weights`.
        sampler: ``uniform`` or ``balanced``, see :func:`stn.sampling.sample_images`.
        flip, vertical_flip, shift, crop, color_jitter, mixup, distortion_ramp: see
            :class:`stn.augmentation.Augmentation`.
        ema: decay of the average of the weights in each step, see :class:`stn.averaging.WeightAverage`. The averaged
            network is the result of the training. 0: no average.
        precision: ``auto``, ``fp32`` or ``bf16``, see :func:`stn.training.choose_precision`.
        localization_lr: learning rate of the localization networks, relative to ``lr``.
        localization_weight_decay: weight decay of the localization networks. None: ``weight_decay``.
        theta_penalty: weight of the squared distance of θ from the identity in the training objective.
        alignment: the term of the training objective for undone motions.
        capture: ``auto``, ``on`` or ``off``: whether a GPU repeats a captured step, see :mod:`stn.captured_step`.
    """

    epochs: int
    batch_size: int
    optimizer: str = "sgd"
    schedule: str = "one_cycle"
    lr: float = 0.1
    warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    decay_norms: bool = True
    max_grad_norm: float = float("inf")
    label_smoothing: float = 0.0
    class_weights: str = "none"
    sampler: str = "uniform"
    flip: bool = False
    vertical_flip: bool = False
    shift: int = 0
    crop: Sequence[float] = (1.0, 1.0)
    color_jitter: float = 0.0
    mixup: float = 0.0
    distortion_ramp: int = 0
    ema: float = 0.0
    precision: str = "auto"
    localization_lr: float = 1.0
    localization_weight_decay: float | None = None
    theta_penalty: float = 0.0
    alignment: AlignmentSettings = AlignmentSettings()
    capture: str = "auto"
