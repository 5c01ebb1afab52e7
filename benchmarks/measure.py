"""Shared parts of the benchmarks: isolated processes, mean ± standard deviation, and results stored as JSON.

python -m benchmarks.measure OLD.json NEW.json     compares two results, metric by metric
"""

import argparse
import json
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from stn.precision import describe_bf16
from stn.training import default_device

RESULTS = Path(__file__).resolve().parent / "results"


def start_process() -> ProcessPoolExecutor:
    """Start a process for one side of a comparison.

    The process keeps its loaded objects between calls and shares neither memory nor settings with other processes. To
    alternate two sides, wait for the result of each call before the next call of the other side.
    """
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def describe_machine() -> str:
    """Describe the CPU or GPU and what determines its speed."""
    device = default_device()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name()}, {name}"
    _, reason = describe_bf16(device)
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}; {reason}"


def format_spread(values: list[float]) -> str:
    """Format a sample as mean ± standard deviation, with zero to two decimals depending on the mean."""
    mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    digits = 0 if abs(mean) >= 1000 else 1 if abs(mean) >= 100 else 2
    return f"{mean:,.{digits}f} ± {std:,.{digits}f}"


def report(name: str, metrics: dict[str, list[float]]) -> None:
    """Print metrics and store them in benchmarks/results/.

    The name of each metric includes its unit. Each metric has one value per repeat.
    """
    machine = describe_machine()
    print(f"\n{name}: mean ± std; {machine}")
    for metric, values in metrics.items():
        print(f"  {metric:<62} {format_spread(values):>20}  n = {len(values)}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps({"machine": machine, "metrics": metrics}, indent=2) + "\n")
    print(f"  stored in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare two results of one benchmark.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    for path in (arguments.old, arguments.new):
        if not path.is_file():
            parser.error(f"{path}: no such file")
    old, new = (json.loads(path.read_text()) for path in (arguments.old, arguments.new))
    print(f"old: {old['machine']}\nnew: {new['machine']}")
    for metric, values in new["metrics"].items():
        if metric in old["metrics"]:
            before = old["metrics"][metric]
            ratio = statistics.fmean(values) / statistics.fmean(before)
            print(f"  {metric:<62} {format_spread(before):>20} → {format_spread(values):>20}  × {ratio:.2f}")


if __name__ == "__main__":
    main()
