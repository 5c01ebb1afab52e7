"""Domains that tuning trials draw values from: a list of choices, or a range."""

from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from pipelines.settings.yaml_file import Section


class FloatRange(Section):
    """All numbers from ``low`` to ``high``, drawn uniformly; with ``log``, uniformly on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self):
        if self.high < self.low:
            raise ValueError(f"high: {self.high} given; must be at least low: {self.low}")
        if self.log and self.low <= 0:
            raise ValueError(f"low: {self.low} given; with log it must be greater than 0")
        return self


class IntRange(FloatRange):
    """All integers from ``low`` to ``high``, drawn uniformly; with ``log``, uniformly on a logarithmic scale."""

    low: int  # pyright: ignore[reportIncompatibleVariableOverride], frozen
    high: int  # pyright: ignore[reportIncompatibleVariableOverride]


# Discriminate by type, so that only one union member reports an error.
BY_TYPE = Discriminator(lambda value: "range" if isinstance(value, dict | FloatRange) else "list")
IntDomain = Annotated[
    Annotated[list[int], Field(min_length=1), Tag("list")] | Annotated[IntRange, Tag("range")], BY_TYPE
]
FloatDomain = Annotated[
    Annotated[list[float], Field(min_length=1), Tag("list")] | Annotated[FloatRange, Tag("range")], BY_TYPE
]


def each(kind: Any) -> AfterValidator:
    """Validator that refuses a domain with a value that ``kind``, the setting's own type, does not allow."""
    allowed = TypeAdapter(kind)

    def check(domain):
        values = dict(enumerate(domain)) if isinstance(domain, list) else {"low": domain.low, "high": domain.high}
        for name, value in values.items():
            try:
                allowed.validate_python(value)
            except ValidationError as error:
                message = error.errors()[0]["msg"].removeprefix("Input should ")
                raise ValueError(f"{name}: {value} given; must {message}") from None
        return domain

    return AfterValidator(check)
