"""Claim: two Ray workers of one core each train nearly twice as many images a second as one, the global batch fixed.

The stage train as it is, on data/prepared, in turn with one worker and with two of one CPU core each, and with one that
has both cores as threads; with GPUs, on one and on all of them. What is measured is each epoch's images a second as
recorded, Ray's start not included, the first epoch left out.

    python -m benchmarks.scaling --repeats 3
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from ruamel.yaml import YAML

from benchmarks.measure import report
from pipelines.outputs.prepared_data import load_meta
from pipelines.runtime.errors import UserError, run
from pipelines.runtime.files import read_json

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 4


def train(workers: int, threads: int | str, seed: int, variant: str) -> float:
    """Images a second of the stage train on so many workers, in a folder and a state of its own."""
    with tempfile.TemporaryDirectory() as folder:
        yaml = YAML()
        values = yaml.load((ROOT / "params.yaml").read_text())
        values["train"] |= {"epochs": EPOCHS, "seeds": [seed], "workers": workers, "threads": threads}
        values["variants"] = [variant]
        yaml.dump(values, Path(folder) / "params.yaml")
        shutil.copytree(ROOT / "variants", Path(folder) / "variants")
        Path(folder, "data").mkdir()
        Path(folder, "data/prepared").symlink_to(Path("data/prepared").resolve())
        environment = os.environ | {"DVC_ROOT": folder, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "pipelines.train", "--variant", variant]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        history = read_json(Path(folder) / "models" / variant / "training.json")["runs"][str(seed)]["history"]
    return statistics.fmean(entry["images_per_second"] for entry in history[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", default="stn")
    arguments = parser.parse_args()
    load_meta()  # says what to do where nothing is prepared
    gpus = torch.cuda.device_count()
    if gpus == 1:
        raise UserError("this machine has one GPU: there is nothing to scale over; none or at least two are needed")
    many, threads = (gpus, "auto") if gpus > 1 else (2, 1)
    figures: dict[str, list[float]] = defaultdict(list)
    for number in range(arguments.repeats):
        one, several = (train(workers, threads, number, arguments.variant) for workers in (1, many))
        figures["1 worker, images a second"].append(one)
        figures[f"{many} workers, images a second"].append(several)
        figures[f"{many} workers / 1 worker"].append(several / one)
        print(f"repeat {number + 1}: {several:,.0f} / {one:,.0f} images a second", flush=True)
        if not gpus:
            alone = train(1, many, number, arguments.variant)
            figures[f"1 worker of {many} threads, images a second"].append(alone)
            figures[f"{many} workers / 1 worker of {many} threads"].append(several / alone)
    report("scaling", dict(figures))


if __name__ == "__main__":
    run(main)
