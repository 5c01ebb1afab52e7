"""Metadata of a registered model that its users need."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.outputs.trained_models import Trained
from pipelines.settings.image_form import Fill, Fit, ImageForm
from stn.distortions import Distortion


@dataclass(frozen=True)
class ModelMetadata:
    """Metadata that MLflow stores with a model. A loaded model has it as ``model.metadata.metadata``.

    Args:
        dataset: name of the data set.
        classes: class names, in the order of the labels.
        image_shape: (C, H, W) of the model's input, canvas included.
        mean: mean of each channel over the training images, for pixels scaled to [0, 1].
        variant: name of the variant.
        padding_mode: padding mode of the transformer; None without a transformer.
        canvas: size of the canvas relative to the image, see :class:`stn.distortions.Distortion`; 1 without a canvas.
        fit, fill: how images of another aspect ratio are converted, see
            :class:`~pipelines.settings.image_form.ImageForm`. Earlier models stretch them.
        pixel_range: the values that are black and white in images with more than 8 bits; None if the training images
            had 8 bits.
    """

    dataset: str
    classes: Sequence[str]
    image_shape: tuple[int, int, int]
    mean: Sequence[float]
    variant: str
    padding_mode: str | None
    canvas: float = 1.0
    fit: Fit = "stretch"
    fill: Fill = 0
    pixel_range: Sequence[float] | None = None

    @classmethod
    def from_trained(cls, model: Trained, meta: DatasetMeta) -> "ModelMetadata":
        """Return the metadata of a trained model."""
        transformer = model.record.variant.front
        return cls(
            dataset=meta.dataset,
            classes=meta.classes,
            image_shape=meta.image_shape,
            mean=meta.mean,
            variant=model.variant,
            padding_mode=None if transformer is None else transformer.padding_mode,
            canvas=meta.make_distortion().canvas,
            fit=meta.fit,
            fill=meta.fill,
            pixel_range=meta.pixel_range,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ModelMetadata":
        """Parse the metadata of a loaded model."""
        return cls(**{**values, "image_shape": tuple(values["image_shape"])})

    @property
    def distortion(self) -> Distortion:
        """Places images on the canvas of the training images."""
        return Distortion(canvas=self.canvas)

    @property
    def form(self) -> ImageForm:
        """The form of the images before they are placed on a canvas."""
        channels, *size = self.image_shape
        height, width = self.distortion.frame(*size)
        return ImageForm(height, width, channels, self.fit, self.fill)

    def to_json(self) -> dict[str, Any]:
        """Return the metadata as MLflow stores it."""
        lists = {"classes": list(self.classes), "image_shape": list(self.image_shape), "mean": list(self.mean)}
        return {**asdict(self), **lists}
