"""The sections data and prepare of params.yaml."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from pipelines.settings.data_source import check_as_dvc_reads_it
from pipelines.settings.image_form import Fit, ImageForm, height_and_width
from pipelines.settings.variants import PaddingMode
from pipelines.settings.yaml_file import Section

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Side = Annotated[int, Field(ge=4, le=1024)]
Level = Annotated[int, Field(ge=0, le=255)]
# Discriminate by type, so that only one union member reports an error.
_one_or_list = Discriminator(lambda value: "list" if isinstance(value, list) else "one")
Size = Annotated[
    Annotated[Side, Tag("one")] | Annotated[list[Side], Field(min_length=2, max_length=2), Tag("list")], _one_or_list
]
Fill = Annotated[
    Annotated[Level, Tag("level")]
    | Annotated[list[Level], Field(min_length=3, max_length=3), Tag("color")]
    | Annotated[Literal["edge"], Tag("edge")],
    Discriminator(lambda value: {list: "color", str: "edge"}.get(type(value), "level")),
]


class DistortionParams(Section):
    """The distortion of images: a protocol of the paper, or random rotation, scale and shift."""

    protocol: Literal["none", "R", "RTS", "P", "E", "TC"] = "none"
    rotation: float = Field(ge=0, le=180)
    scale: list[Annotated[float, Field(gt=0, le=10)]] = Field(min_length=2, max_length=2)
    shift: float = Field(ge=0, le=1)
    padding_mode: PaddingMode

    @model_validator(mode="after")
    def _scale_is_a_range(self):
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: {self.scale} given; the smaller factor comes first")
        return self

    @property
    def is_identity(self) -> bool:
        """Whether no image is moved."""
        moves = self.protocol != "none" or self.rotation or self.shift or self.scale != [1, 1]
        return not moves


class DataParams(Section):
    """The data set, its source, the form of the images, and their distortion."""

    dataset: Name
    source: str = Field(min_length=1)
    size: Size
    channels: Literal[1, 3]
    fit: Fit = "stretch"
    fill: Fill = 0
    skip_broken: bool
    distortion: DistortionParams
    pixel_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _black_is_below_white(self):
        if self.pixel_range is not None and self.pixel_range[0] >= self.pixel_range[1]:
            raise ValueError(f"pixel_range: {self.pixel_range} given; the value of black comes first")
        return self

    @model_validator(mode="after")
    def _source_is_a_path_to_dvc(self):
        check_as_dvc_reads_it(self.source)
        return self

    @model_validator(mode="after")
    def _gray_images_have_a_gray_fill(self):
        if isinstance(self.fill, list) and self.channels == 1:
            raise ValueError(f"fill: {self.fill} given with channels: 1; one number, or edge")
        return self

    @property
    def form(self) -> ImageForm:
        """The form that the images are converted to."""
        height, width = height_and_width(self.size)
        return ImageForm(height, width, self.channels, self.fit, self.fill)


class PrepareParams(Section):
    """The shares of the validation and test splits, and the seed of both."""

    validation: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)
    seed: Seed
