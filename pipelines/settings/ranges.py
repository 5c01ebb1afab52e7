"""From where a tuning trial draws a setting's value: a list to choose from, or a range."""

from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from pipelines.settings.yaml_file import Section


class FloatRange(Section):
    """All numbers from ``low`` to ``high``; with ``log``, each power of ten is as likely as another."""

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
    """All whole numbers from ``low`` to ``high``; with ``log``, the more likely the smaller they are."""

    low: int  # pyright: ignore[reportIncompatibleVariableOverride], frozen
    high: int  # pyright: ignore[reportIncompatibleVariableOverride]


# Told apart by their form, so that a mistake in the one is not told as a mistake in the other, too.
BY_FORM = Discriminator(lambda value: "range" if isinstance(value, dict | FloatRange) else "list")
IntDomain = Annotated[
    Annotated[list[int], Field(min_length=1), Tag("list")] | Annotated[IntRange, Tag("range")], BY_FORM
]
FloatDomain = Annotated[
    Annotated[list[float], Field(min_length=1), Tag("list")] | Annotated[FloatRange, Tag("range")], BY_FORM
]


def each(kind: Any) -> AfterValidator:
    """Refuses a domain that holds what ``kind``, the type of the setting itself, does not allow."""
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
