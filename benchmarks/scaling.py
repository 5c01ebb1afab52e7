"""Claim: two workers (on Ray) of one core each train nearly twice as fast as one (without Ray), at equal global batch.

The stage train runs unchanged on data/prepared, alternately with one worker and with two workers of one CPU core each,
and with one worker that has both cores as threads. With GPUs, it runs on one GPU and on all GPUs. The measured values
are the recorded images per second of all epochs except the first; they do not include the start of Ray.

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
from pipelines.runtime.errors import UserError, run_main
from pipelines.runtime.files import read_json

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 4


def measure(workers: int, threads: int | str, seed: int, variant: str) -> float:
    """Run the stage train in a new folder with its own state; return images per second."""
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
    load_meta()  # raises UserError if no data is prepared
    gpus = torch.cuda.device_count()
    if gpus == 1:
        raise UserError("this machine has one GPU; the benchmark needs no GPU or at least two")
    many, threads = (gpus, "auto") if gpus > 1 else (2, 1)
    metrics: dict[str, list[float]] = defaultdict(list)
    for number in range(arguments.repeats):
        one, several = (measure(workers, threads, number, arguments.variant) for workers in (1, many))
        metrics["1 worker, images/s"].append(one)
        metrics[f"{many} workers, images/s"].append(several)
        metrics[f"{many} workers / 1 worker"].append(several / one)
        print(f"repeat {number + 1}: {several:,.0f} / {one:,.0f} images/s", flush=True)
        if not gpus:
            threaded = measure(1, many, number, arguments.variant)
            metrics[f"1 worker with {many} threads, images/s"].append(threaded)
            metrics[f"{many} workers / 1 worker with {many} threads"].append(several / threaded)
    report("scaling", dict(metrics))


if __name__ == "__main__":
    run_main(main)
