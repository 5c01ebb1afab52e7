"""params: set values in params.yaml; comments are kept.

python -m pipelines.params data.source=/data/cifar10.zip
python -m pipelines.params --source=cifar10.zip    as make repro does: an existing path, stored absolute
"""

import difflib
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.runtime.errors import UserError, run_main
from pipelines.runtime.files import write_bytes
from pipelines.settings.data_source import expand, path_to_store
from pipelines.settings.params import PARAMS_FILE, check_params
from pipelines.settings.yaml_file import parse, read_yaml


def set_value(assignment: str, path: Path = PARAMS_FILE) -> None:
    """Set ``section.key=value`` in params.yaml; comments are kept.

    Raises:
        UserError: there is no such setting, or the value is not allowed. The file is then unchanged.
    """
    dotted, equals, text = assignment.partition("=")
    if not equals:
        raise UserError(f"{assignment!r} given; expected section.key=value")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    document = read_yaml(path, yaml)
    *sections, key = dotted.split(".")
    section = document
    for name in sections:
        section = section.get(name, {}) if isinstance(section, dict) else {}
    if not isinstance(section, dict) or key not in section:
        near = difflib.get_close_matches(dotted, _names(document), n=1)
        raise UserError(f"{path}: {dotted}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    value = parse(text, YAML(typ="safe"), f"{path}: {dotted}: {text!r} given")
    if isinstance(section[key], str) and isinstance(value, str | dict) and not text.startswith(("'", '"', "{")):
        value = text  # a path may contain " #" or ": "
    if dotted == "data.source" and isinstance(value, str):
        value = text = path_to_store(value)
    section[key] = value
    stream = BytesIO()
    try:
        yaml.dump(document, stream)
    except YAMLError as error:
        raise UserError(f"{path}: {dotted}: {text!r} given; cannot be written: {str(error).splitlines()[0]}") from None
    check_params(parse(stream.getvalue().decode(), YAML(typ="safe"), str(path)), path)
    write_bytes(path, stream.getvalue())
    print(f"{path}: {dotted} is now {text}")


def _names(section: Any) -> list[str]:
    """Dotted names of all settings and subsections of a section."""
    if not isinstance(section, dict):
        return []
    below = [f"{name}.{inner}" for name, value in section.items() for inner in _names(value)]
    return [str(name) for name in section] + below


def set_source(source: str) -> None:
    """Set ``data.source`` to an existing file or folder.

    Raises:
        UserError: there is none.
    """
    try:
        path = Path(expand(source)).absolute()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, an unknown ~user
        raise UserError(f"SOURCE: {source!r} given; {error}") from None
    if not exists:
        raise UserError(f"SOURCE: {source!r} given; there is no such file or folder")
    set_value(f"data.source={path}")


def main() -> None:
    if len(sys.argv) < 2:
        raise UserError("no setting given; expected section.key=value")
    for assignment in sys.argv[1:]:
        if assignment.startswith("--source="):
            set_source(assignment.removeprefix("--source="))
        else:
            set_value(assignment)


if __name__ == "__main__":
    run_main(main)
