"""experiment: run the pipeline with the settings of a file, without changing params.yaml.

    python -m tools.experiment experiments/demo.yaml

The file has the form of params.yaml; settings that it does not name are taken from there. The pipeline runs in a
temporary work tree (``dvc exp run --temp``): params.yaml, outputs and dvc.lock of this one do not change. Results go
to the same tracking store; ``dvc exp apply`` brings the outputs here.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.runtime.errors import UserError, run_main
from pipelines.settings.data_source import is_missing_in_work_trees
from pipelines.settings.dotted_names import flatten
from pipelines.settings.params import PARAMS_FILE, check_params
from pipelines.settings.yaml_file import read_yaml

# DVC logs this for every output that the work tree lacks. In a new experiment all outputs are missing.
EXPECTED_WARNING = "No file hash info found for"


def read_settings(file: Path) -> dict[str, Any]:
    """The settings of an experiment file by dotted names, checked together with those of params.yaml.

    Raises:
        UserError: the file cannot be read, or names a setting that does not exist or a value that is not allowed.
    """
    yaml = YAML(typ="safe")
    changes = read_yaml(file, yaml)
    if not isinstance(changes, dict):
        raise UserError(f"{file}: expected sections of params.yaml")
    source = check_params(_merge(read_yaml(PARAMS_FILE, yaml), changes), file).data.source
    if is_missing_in_work_trees(source):
        raise UserError(
            f"data.source: {source!r} given; the work tree of an experiment has only what git or DVC keeps; give the "
            f"absolute path: {str(Path(source).absolute())!r}"
        )
    return flatten(changes)


def _merge(settings: Any, changes: Any) -> Any:
    if not isinstance(settings, dict) or not isinstance(changes, dict):
        return changes
    return settings | {name: _merge(settings.get(name), value) for name, value in changes.items()}


def run_experiment(settings: dict[str, Any]) -> int:
    """Run the experiment; returns DVC's exit code."""
    from dvc.cli import main as dvc

    for module in ("hashfile", "index"):
        logging.getLogger(f"dvc_data.{module}.checkout").addFilter(
            lambda record: EXPECTED_WARNING not in str(record.msg)
        )
    changes = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in settings.items()]
    return dvc(["exp", "run", "--temp", *(part for change in changes for part in ("-S", change))])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.experiment", description="Run the pipeline with the settings of a file."
    )
    parser.add_argument("file", type=Path, help="settings in the form of params.yaml, such as experiments/demo.yaml")
    sys.exit(run_experiment(read_settings(parser.parse_args().file)))


if __name__ == "__main__":
    run_main(main)
