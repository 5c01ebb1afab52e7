"""The number of training workers: one number, ``auto``, ``per_seed``, or a range."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from pipelines.settings.yaml_file import Section

Count = Annotated[int, Field(ge=1, le=10**9)]


class WorkerRange(Section):
    """As many workers as the cluster has room for, from ``min`` to ``max``; the number may change during training."""

    min: Count
    max: Count

    @model_validator(mode="after")
    def _is_a_range(self):
        if self.max < self.min:
            raise ValueError(f"max: {self.max} given; must be at least min: {self.min}")
        return self


# Discriminate by type, so that only one union member reports an error.
WorkerCount = Annotated[
    Annotated[Literal["auto", "per_seed"] | Count, Tag("one")] | Annotated[WorkerRange, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, dict | WorkerRange) else "one"),
]
