"""Measures what a new user waits for, at several commits, alternately: `make setup` and `make demo` on a fresh clone.

    python -m benchmarks.first_minutes 835a76f HEAD --repeats 2

Each clone gets an environment of its own (7.4 GB), which is deleted afterwards. The demo is also timed by stage.
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


def measure(folder: str, target: str) -> dict[str, float]:
    """Run ``make target`` in a clone; return the seconds of the whole and of each DVC stage that its output names."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "VIRTUAL_ENV")}
    seconds: dict[str, float] = defaultdict(float)
    started = last = time.perf_counter()
    stage, lines = "", []
    with subprocess.Popen(
        ["make", target], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"Running stage '(.+)'|Ran experiment", line):
                now = time.perf_counter()
                seconds[stage] += now - last
                stage, last = found[1] or "", now
    if process.returncode:
        raise ExternalError(f"make {target} failed with {process.returncode}:\n{''.join(lines[-30:])}")
    now = time.perf_counter()
    seconds[stage] += now - last
    of_stages = {
        f"{target}, {name or 'beside the stages'}, s": value for name, value in seconds.items() if len(seconds) > 1
    }
    return {f"{target}, s": now - started, **of_stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+", help="commits to measure, in turns")
    parser.add_argument("--targets", nargs="+", default=["setup", "demo"], help="make targets, in this order")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    metrics: dict[str, list[float]] = defaultdict(list)
    for number in range(1, arguments.repeats + 1):
        for commit in arguments.commits:
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
                subprocess.run(["git", "checkout", "--quiet", commit], cwd=folder, check=True)
                for target in arguments.targets:
                    load = os.getloadavg()[0]
                    measured = measure(folder, target)
                    for metric, seconds in measured.items():
                        metrics[f"{commit}: {metric}"].append(seconds)
                    print(f"{number}: {commit}: {target} {measured[f'{target}, s']:.0f} s, load {load:.1f}", flush=True)
    report("first-minutes", dict(metrics))


if __name__ == "__main__":
    run_main(main)
