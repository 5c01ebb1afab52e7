"""code_digest: write the digests of the code that a module of the experiment imports.

python -m experiments.paper.code_digest train

The stages that run the module depend on the file, ``code/<module>.json``, so that they run again after a change of this
code. Left out are ``pipelines/runtime``, which changes no result, and each ``__init__.py`` of ``pipelines`` and of this
folder: they hold docstrings, and settings of Ray, which the experiment does not use.
"""

import argparse
from pathlib import Path

from experiments.paper.settings import FOLDER
from pipelines.runtime.errors import run_main
from pipelines.runtime.files import write_json
from pipelines.runtime.keys import digest_code
from tools.imports import ROOT, imported_names, modules, needed_by

MODULES = ("prepare", "train", "colocalize", "table")  # those that stages run


def find_code(module: str) -> list[Path]:
    """The project's files that ``experiments.paper.<module>`` imports, directly or indirectly; itself included."""
    own = {f"experiments.paper.{file.stem}": file for file in (ROOT / FOLDER).glob("*.py")}
    found: set[Path] = set()
    waiting = {f"experiments.paper.{module}"}
    while waiting:
        file = own[waiting.pop()]
        found.add(file)
        names = set(imported_names(file))
        found |= {modules()[needed] for name in names & modules().keys() for needed in needed_by(name)}
        waiting |= {name for name in names & own.keys() if own[name] not in found}
    return sorted(file for file in found if _changes_results(file.relative_to(ROOT)))


def _changes_results(file: Path) -> bool:
    return file.parts[:2] != ("pipelines", "runtime") and (file.name != "__init__.py" or file.parts[0] == "stn")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.paper.code_digest", description="Digests of code.")
    parser.add_argument("module", choices=MODULES)
    module = parser.parse_args().module
    names = [file.relative_to(ROOT).as_posix() for file in find_code(module)]
    write_json(FOLDER / "code" / f"{module}.json", {name: digest_code(name) for name in names})


if __name__ == "__main__":
    run_main(main)
