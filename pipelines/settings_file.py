"""A YAML file as a frozen, strict model: what is unknown or out of range is refused, in one line for each mistake."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """The base of all settings."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def load_settings(path: Path, model: type[Model]) -> Model:
    """Read the file and check it against ``model``.

    Raises:
        UserError: it cannot be read, is not YAML, or one line for each setting that is wrong.
    """
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found in {Path.cwd()}; run this from the repository's top folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}{line}: not valid YAML: {problem}") from None
    except ValueError as error:  # a date that is none, or a number too long to read
        raise UserError(f"{path}: not valid YAML: {error}") from None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("\n       ".join(_lines(path, model, error.errors()))) from None


def _lines(path: Path, model: type[BaseModel], mistakes: list) -> list[str]:
    """For each setting that is wrong one line: ``file: setting: what was given; what is allowed``."""
    known = {name for section in _sections(model) for name in _fields(section)}
    of_setting: dict[str, list] = {}
    for mistake in mistakes:
        # A location also names the members of a union, of which each adds a mistake of its own.
        by_name = mistake["type"] in ("extra_forbidden", "missing")
        *above, last = mistake["loc"] or ("",)
        loc = [str(part) for part in above if isinstance(part, int) or part in known]
        loc += [str(last)] * (by_name or isinstance(last, int) or last in known)
        of_setting.setdefault(".".join(loc), []).append(mistake)
    return [f"{path}: {_one_line(model, setting, mistakes)}" for setting, mistakes in of_setting.items()]


def _one_line(model: type[BaseModel], setting: str, mistakes: list) -> str:
    first = mistakes[0]
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _fields(_section_at(model, first["loc"][:-1])), n=1)
        return f"{setting}: unknown setting" + (f"; did you mean {near[0]}?" if near else "")
    if first["type"] == "missing":
        return f"{setting}: missing"
    if first["type"] == "value_error":  # a model's own check, whose message begins with the field's name
        return ".".join(filter(None, [setting, first["msg"].removeprefix("Value error, ")]))
    shown = repr(first["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    allowed = " or ".join(mistake["msg"].removeprefix("Input should ") for mistake in mistakes)
    return f"{setting or 'the file'}: {shown} given; must {allowed}"


def _section_at(model: type[BaseModel], loc: tuple) -> type[BaseModel]:
    """The section in which the settings at ``loc`` stand."""
    for part in loc:
        for name, field in model.model_fields.items():
            if part == (field.alias or name):
                model = next(_models(field.annotation))
    return model


def _fields(section: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in section.model_fields.items()]


def _sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        for section in _models(field.annotation):
            found += _sections(section)
    return found


def _models(annotation) -> Iterator[type[BaseModel]]:
    """The sections among the members of a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for member in get_args(annotation):
        yield from _models(member)
