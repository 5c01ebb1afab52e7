"""YAML files as frozen, strict models. Each unknown name or value out of range is reported in one line."""

import difflib
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.runtime.errors import UserError

Model = TypeVar("Model", bound=BaseModel)
MAX_LINES, MAX_LINE = 3, 300  # of one message, and characters of a line
MAX_SHOWN = 60  # characters of a value or of an unknown name
# A value may be far longer than the file, because YAML's aliases repeat parts of it.
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict, SHORT.maxstring, SHORT.maxother = 3, 8, 4, MAX_SHOWN, MAX_SHOWN


class Section(BaseModel):
    """Base class of all sections: strict types, no unknown names, no NaN or infinity."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def load_settings(path: Path, model: type[Model]) -> Model:
    """Read a YAML file and check it against ``model``.

    Raises:
        UserError: the file cannot be read or is not YAML; or one line for each invalid setting, three at most.
    """
    return check_settings(read_yaml(path, YAML(typ="safe")), path, model)


def check_settings(values: Any, path: Path, model: type[Model]) -> Model:
    """Check the content of the file ``path`` against ``model``.

    Raises:
        UserError: with one line for each invalid setting, three at most.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = _lines(path, model, error.errors())
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = [f"{path}: and {len(lines) - MAX_LINES + 1} more mistakes"]
    raise UserError("\n       ".join(lines))


def read_yaml(path: Path, yaml: YAML) -> Any:
    """Read a YAML file.

    Raises:
        UserError: the file cannot be read or is not YAML; the message has the line number if there is one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: not found in {Path.cwd()}; run this from the repository's top folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return parse(text, yaml, str(path))


def parse(text: str, yaml: YAML, where: str) -> Any:
    """Parse YAML text.

    Raises:
        UserError: the text is not YAML; the message starts with ``where``.
    """
    try:
        return yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: nested too deeply") from None
    except Exception as error:  # converting !!bool x, !!int "" and the like raises exceptions of many types
        raise UserError(f"{where}: not valid YAML: a value does not match its tag ({error})") from None


def _lines(path: Path, model: type[BaseModel], mistakes: list) -> list[str]:
    """One line for each invalid setting: ``<file>: <setting>: <given> given; <what is allowed>``."""
    known = {name for section in _sections(model) for name in _fields(section)}
    of_setting: dict[str, list] = {}
    for mistake in mistakes:
        # A location also names members of unions; each member adds its own mistake. Keep names of settings only.
        by_name = mistake["type"] in ("extra_forbidden", "missing")
        *above, last = mistake["loc"] or ("",)
        loc = [str(part) for part in above if isinstance(part, int) or part in known]
        loc += [_shown_name(last)] * (by_name or isinstance(last, int) or last in known)
        of_setting.setdefault(".".join(loc), []).append(mistake)
    lines = [f"{path}: {_one_line(model, setting, mistakes)}" for setting, mistakes in of_setting.items()]
    half = MAX_LINE // 2  # the beginning names the setting, the end what is allowed
    return [line if len(line) <= MAX_LINE else f"{line[:half]}...{line[-half:]}" for line in lines]


def _one_line(model: type[BaseModel], setting: str, mistakes: list) -> str:
    first = mistakes[0]
    if first["type"] == "extra_forbidden":
        names = [name for section in _sections_at(model, first["loc"][:-1]) for name in _fields(section)]
        near = difflib.get_close_matches(str(first["loc"][-1]), names, n=1)
        return f"{setting}: unknown setting" + (f"; did you mean {near[0]}?" if near else "")
    if first["type"] == "missing":
        return f"{setting}: missing"
    if first["type"] == "value_error":  # from a model_validator; its message begins with the field's name
        return ".".join(filter(None, [setting, first["msg"].removeprefix("Value error, ")]))
    shown = SHORT.repr(first["input"])
    shown = shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 3] + "..."
    allowed = " or ".join(mistake["msg"].removeprefix("Input should ") for mistake in mistakes)
    return f"{setting or 'the file'}: {shown} given; must {allowed}"


def _shown_name(name: Any) -> str:
    """A key of the file, which can be any text, shortened and on one line."""
    text = str(name) if str(name).isprintable() else repr(str(name))
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _sections_at(model: type[BaseModel], loc: tuple) -> list[type[BaseModel]]:
    """The section at the location ``loc``, or all members if it is a union of sections."""
    sections = [model]
    for part in loc:
        fields = [field for section in sections for name, field in section.model_fields.items()
                  if part == (field.alias or name)]  # fmt: skip
        sections = [section for field in fields for section in _models(field.annotation)] or sections
    return sections


def _fields(section: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in section.model_fields.items()]


def _sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        for section in _models(field.annotation):
            found += _sections(section)
    return found


def _models(annotation) -> Iterator[type[BaseModel]]:
    """The sections among the members of a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for member in get_args(annotation):
        yield from _models(member)
