"""Measures what DVC, MLflow and imports add to the epochs of a training, and `dvc repro` without changes.

The benchmark clones the last commit of this repository and runs the whole pipeline once on digits, which creates the
databases. Then it measures `dvc repro train@stn` with a new training seed in each repeat, without the epochs and split
into the phases that the stage prints. Finally it measures `dvc repro` without changes.

    python -m benchmarks.overhead --repeats 5
"""

import argparse
import os
import re
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.measure import report
from pipelines.runtime.errors import ExternalError, run_main

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ["data.dataset=digits", "variants=[stn]", "train.epochs=5", "tune.trials=0"]


def call(folder: str, *command: str) -> tuple[float, str]:
    """Run a command in the clone; return its duration in seconds and its output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "RAY_ADDRESS")}
    environment |= {"PYTHONPATH": folder}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ExternalError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started, done.stdout


def read_timeline(output: str) -> tuple[float, dict[str, float]]:
    """Read the seconds of the whole stage and of each of its phases from the output of the stage train."""
    line = re.search(r"^stn: ([\d.]+) s: (.+)$", output, re.MULTILINE)
    assert line is not None, output
    phases = {name: float(value) for name, value in re.findall(r"([A-Za-z ]+?) ([\d.]+)(?:, |$)", line[2])}
    return float(line[1]), phases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    metrics: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        call(folder, "git", "clone", "--quiet", str(ROOT), ".")
        call(folder, "python", "-m", "pipelines.params", *SETTINGS)
        print("preparation: one run of the whole pipeline", flush=True)
        call(folder, "dvc", "repro")
        for number in range(1, repeats + 1):
            call(folder, "python", "-m", "pipelines.params", f"train.seeds=[{number}]")
            wall, output = call(folder, "dvc", "repro", "train@stn")
            stage, phases = read_timeline(output)
            metrics["overhead, s"].append(wall - phases.pop("epochs"))
            for phase, seconds in phases.items():
                metrics[f"overhead: {phase}, s"].append(seconds)
            metrics["overhead: DVC, s"].append(wall - stage)
            print(f"training {number} of {repeats}: {metrics['overhead, s'][-1]:.1f} s", flush=True)
        call(folder, "dvc", "repro")
        for _ in range(repeats):
            metrics["dvc repro without changes, s"].append(call(folder, "dvc", "repro")[0])
    report("overhead", dict(metrics))


if __name__ == "__main__":
    run_main(main)
