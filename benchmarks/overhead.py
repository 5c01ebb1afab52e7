"""Claim: one training through DVC, Ray and MLflow costs half a minute beyond its epochs, nothing to do a second.

A clone of this repository, as committed, with a state of its own: the whole pipeline runs once on digits, so that its
database exists; then `dvc repro train@stn` with another training seed each time, less its epochs, by cause, as the
stage itself says; and `dvc repro` with nothing to do.

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
from pipelines.runtime.errors import run

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ["data.dataset=digits", "variants=[stn]", "train.epochs=5", "tune.trials=0"]


def call(folder: str, *command: str) -> tuple[float, str]:
    """Seconds and output of a command in the clone."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "RAY_ADDRESS")}
    environment |= {"PYTHONPATH": folder}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        call(folder, "git", "clone", "--quiet", str(ROOT), ".")
        call(folder, "python", "-m", "pipelines.params", *SETTINGS)
        print("set-up: the whole pipeline once", flush=True)
        call(folder, "dvc", "repro")
        for number in range(1, repeats + 1):
            call(folder, "python", "-m", "pipelines.params", f"train.seeds=[{number}]")
            wall, output = call(folder, "dvc", "repro", "train@stn")
            line = re.search(r"^seed: ([\d.]+) s: (.+)$", output, re.MULTILINE)
            assert line is not None, output
            causes = {name: float(value) for name, value in re.findall(r"([A-Za-z ]+?) ([\d.]+)(?:, |$)", line[2])}
            figures["overhead, s"].append(wall - causes.pop("epochs"))
            for cause, value in causes.items():
                figures[f"of it {cause}, s"].append(value)
            figures["of it DVC, s"].append(wall - float(line[1]))
            print(f"training {number} of {repeats}: {figures['overhead, s'][-1]:.1f} s", flush=True)
        call(folder, "dvc", "repro")
        for _ in range(repeats):
            figures["dvc repro with nothing to do, s"].append(call(folder, "dvc", "repro")[0])
    report("overhead", dict(figures))


if __name__ == "__main__":
    run(main)
