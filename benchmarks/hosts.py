"""Claim: two workers on two hosts train about as fast as two workers on one host: they exchange little data.

The stages train and tune run unchanged on data/prepared, alternately on two Ray clusters: one host with two CPUs, and
two hosts with one CPU each. Each cluster has an additional host for the driver. The hosts are network namespaces of one
machine (:mod:`tools.hosts`) and share its cores and memory. The benchmark therefore shows neither the latency of a real
network nor the gain from more cores. Images per second are the recorded values of all epochs except the first. Trials
are timed from the start of the workers to the end of the last trial.

    python -m benchmarks.hosts --repeats 3
"""

import argparse
import os
import re
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.measure import report
from pipelines.outputs.prepared_data import load_meta
from pipelines.runtime.errors import ExternalError, UserError, run_main
from pipelines.runtime.files import read_json
from tools.hosts import Cluster, hosts, why_not

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, TRIALS = 3, 6
TRAIN = {"train": {"epochs": EPOCHS, "seeds": [0], "workers": 2, "threads": 1}}
TUNE = {"train": {"epochs": 1}, "tune": {"trials": TRIALS, "epochs": 1, "finalists": 1, "pruner": "none"}}


def run_stage(cluster: Cluster, settings: dict[str, dict], *command: str) -> tuple[float, Path]:
    """Run a stage on a cluster in a new folder; return the duration of its trials in seconds, and the folder.

    ``settings`` replaces values in the sections of params.yaml.
    """
    folder = Path(tempfile.mkdtemp())
    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text())
    for section, changed in settings.items():
        values[section] |= changed
    yaml.dump(values, folder / "params.yaml")
    for name in ("variants", "stn", "pipelines"):  # includes the code, because Ray ships the current folder
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    (folder / "data/prepared").symlink_to(Path("data/prepared").resolve())
    cluster.env |= {"DVC_ROOT": str(folder), "CHECKPOINT_STORAGE": f"{folder}/checkpoints"}
    driver = cluster.drive(folder, "-m", *command)
    lines, times = [], [0.0]
    assert driver.stdout
    for line in driver.stdout:
        lines.append(line)
        if "at once" in line or re.search(r": trial \d+ ", line):
            times.append(time.monotonic())
    if driver.wait():
        raise ExternalError(f"{' '.join(command)}: {''.join(lines)}")
    return times[-1] - times[min(1, len(times) - 1)], folder


def measure_training(cluster: Cluster) -> tuple[float, float]:
    """Return images per second, and the megabytes that leave a worker's host per epoch."""
    before = cluster.workers[0].bytes_sent()
    _, folder = run_stage(cluster, TRAIN, "pipelines.train", "--variant", "stn")
    history = read_json(folder / "models/stn/training.json")["runs"]["0"]["history"]
    shutil.rmtree(folder)
    speed = statistics.fmean(entry["images_per_second"] for entry in history[1:])
    return speed, (cluster.workers[0].bytes_sent() - before) / EPOCHS / 1e6


def measure_tuning(cluster: Cluster) -> float:
    """Return trials per hour."""
    seconds, folder = run_stage(cluster, TUNE, "pipelines.tune")
    shutil.rmtree(folder)
    return TRIALS / seconds * 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    load_meta()  # raises UserError if no data is prepared
    if reason := why_not():
        raise UserError(reason)
    metrics: dict[str, list[float]] = defaultdict(list)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "OPTUNA_"))}
    with tempfile.TemporaryDirectory() as folder, hosts(5) as (first, single, second, *pair):
        one = Cluster(first, [single], 2, env, Path(folder, "1"))
        two = Cluster(second, pair, 1, env, Path(folder, "2"))
        for number in range(arguments.repeats):
            (single_speed, _), (pair_speed, sent) = measure_training(one), measure_training(two)
            metrics["2 workers on one host, images/s"].append(single_speed)
            metrics["2 workers on two hosts, images/s"].append(pair_speed)
            metrics["two hosts / one host, images/s"].append(pair_speed / single_speed)
            metrics["data sent by one of two hosts, MB/epoch"].append(sent)
            single_trials, pair_trials = measure_tuning(one), measure_tuning(two)
            metrics["one host with 2 CPUs, trials/h"].append(single_trials)
            metrics["two hosts with 1 CPU each, trials/h"].append(pair_trials)
            metrics["two hosts / one host, trials/h"].append(pair_trials / single_trials)
            print(
                f"repeat {number + 1}, two hosts / one host: {pair_speed:,.0f} / {single_speed:,.0f} images/s, "
                f"{sent:.1f} MB/epoch, {pair_trials:.0f} / {single_trials:.0f} trials/h",
                flush=True,
            )
    report("hosts", dict(metrics))


if __name__ == "__main__":
    run_main(main)
