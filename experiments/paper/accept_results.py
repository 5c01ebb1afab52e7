"""accept_results: record in dvc.lock that the results in git are those of the current code, data and settings.

python -m experiments.paper.accept_results

Run it after an edit that changes no result, such as of a comment; otherwise ``make paper`` trains all networks again.
It prepares the data, and trains nothing.
"""

import subprocess

from experiments.paper.result_files import RESULTS
from experiments.paper.settings import ADDITION, COLOCALIZATION, FOLDER, LONG, load_params
from pipelines.runtime.errors import ExternalError, run_main


def find_stages() -> list[str]:
    """Names of the stages that have a result."""
    stages = []
    for file in sorted(RESULTS.rglob("*.json")):
        task, *names = file.relative_to(RESULTS).with_suffix("").parts
        if task == LONG:
            task, *names = names
            stages.append(
                f"long_addition@{'-'.join(names)}" if task == ADDITION else f"long@{'-'.join((task, *names))}"
            )
        elif task in (ADDITION, COLOCALIZATION):
            stages.append(f"{task}@{'-'.join(names)}")
        else:
            stages.append(f"train@{'-'.join((task, *names))}")
    return stages


def main() -> None:
    load_params()
    for command in (["repro", "code", "prepare"], ["commit", "--force", *find_stages()]):
        if subprocess.run(["dvc", *command], cwd=FOLDER).returncode:
            raise ExternalError(f"dvc {command[0]} failed in {FOLDER}; no result is recorded")


if __name__ == "__main__":
    run_main(main)
