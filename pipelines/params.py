"""params: set values in params.yaml; comments are kept.

python -m pipelines.params data.source=/data/cifar10.zip
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


def main() -> None:
    if len(sys.argv) < 2:
        raise UserError("no setting given; expected section.key=value")
    for assignment in sys.argv[1:]:
        set_value(assignment)


if __name__ == "__main__":
    run_main(main)
