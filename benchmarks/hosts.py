"""Claim: two workers on two hosts train about as fast as on one: what goes over the network between them is little.

The stages train and tune as they are, on data/prepared, on two Ray clusters of this machine's own: one host that lends
two CPUs, and two hosts that lend one each, in turn, and in both a head for the driver. The hosts are network namespaces
(:mod:`tools.hosts`), which share this machine's cores and memory: what a real network costs beyond the bytes, and what
more cores bring, they cannot show. Images a second are each epoch's as recorded, without the first; trials are counted
from the workers' start to the last one's end.

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
from pipelines.runtime.errors import ExternalError, UserError, run
from pipelines.runtime.files import read_json
from tools.hosts import Cluster, hosts, why_not

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, TRIALS = 3, 6
TRAIN = {"train": {"epochs": EPOCHS, "seeds": [0], "workers": 2, "threads": 1}}
TUNE = {"train": {"epochs": 1}, "tune": {"trials": TRIALS, "epochs": 1, "finalists": 1, "pruner": "none"}}


def work(cluster: Cluster, settings: dict[str, dict], *command: str) -> tuple[float, Path]:
    """Run a stage on a cluster in a folder of its own; seconds of its trials, the folder."""
    folder = Path(tempfile.mkdtemp())
    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text())
    for section, changed in settings.items():
        values[section] |= changed
    yaml.dump(values, folder / "params.yaml")
    for name in ("variants", "stn", "pipelines"):  # the code, since Ray ships that of the current folder
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


def train(cluster: Cluster) -> tuple[float, float]:
    """Images a second, and megabytes that leave a worker's host for each epoch."""
    before = cluster.workers[0].bytes_sent()
    _, folder = work(cluster, TRAIN, "pipelines.train", "--variant", "stn")
    history = read_json(folder / "models/stn/training.json")["runs"]["0"]["history"]
    shutil.rmtree(folder)
    speed = statistics.fmean(entry["images_per_second"] for entry in history[1:])
    return speed, (cluster.workers[0].bytes_sent() - before) / EPOCHS / 1e6


def tune(cluster: Cluster) -> float:
    """Trials an hour."""
    seconds, folder = work(cluster, TUNE, "pipelines.tune")
    shutil.rmtree(folder)
    return TRIALS / seconds * 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    load_meta()  # says what to do where nothing is prepared
    if reason := why_not():
        raise UserError(reason)
    figures: dict[str, list[float]] = defaultdict(list)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "OPTUNA_"))}
    with tempfile.TemporaryDirectory() as folder, hosts(5) as (first, single, second, *pair):
        one = Cluster(first, [single], 2, env, Path(folder, "1"))
        two = Cluster(second, pair, 1, env, Path(folder, "2"))
        for number in range(arguments.repeats):
            (alone, _), (spread, sent) = train(one), train(two)
            figures["2 workers on one host, images a second"].append(alone)
            figures["2 workers on two hosts, images a second"].append(spread)
            figures["two hosts / one host"].append(spread / alone)
            figures["MB that leave a host of two for each epoch"].append(sent)
            trials = tune(one), tune(two)
            figures["trials an hour on one host of 2 CPUs"].append(trials[0])
            figures["trials an hour on two hosts of 1 CPU"].append(trials[1])
            figures["two hosts / one host, trials an hour"].append(trials[1] / trials[0])
            print(
                f"repeat {number + 1}, two hosts / one: {spread:,.0f} / {alone:,.0f} images a second, {sent:.1f} MB an "
                f"epoch; {trials[1]:.0f} / {trials[0]:.0f} trials an hour",
                flush=True,
            )
    report("hosts", dict(figures))


if __name__ == "__main__":
    run(main)
