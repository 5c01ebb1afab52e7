"""What the benchmarks share: sides in processes of their own, mean ± std with n, the machine, results kept as JSON.

python -m benchmarks.measure OLD.json NEW.json     two results side by side, figure by figure
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

from stn.training import choose_precision

RESULTS = Path(__file__).resolve().parent / "results"


def side() -> ProcessPoolExecutor:
    """A new process for one side: it keeps what it has loaded, and shares neither memory nor settings with the other.

    Sides alternate by waiting for each call's result before the other side's next call.
    """
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def machine() -> str:
    """The CPU or GPU in words, with what decides its speed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name()}, {name}"
    reason = choose_precision("auto", device)[1]
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}; {reason}"


def spread(values: list[float]) -> str:
    """Mean ± standard deviation of a sample; the larger the mean, the fewer decimals, two at most."""
    mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    digits = 0 if abs(mean) >= 1000 else 1 if abs(mean) >= 100 else 2
    return f"{mean:,.{digits}f} ± {std:,.{digits}f}"


def report(name: str, figures: dict[str, list[float]]) -> None:
    """Print each figure, a name with its unit and a value for each repeat, and keep all under benchmarks/results/."""
    print(f"\n{name}: mean ± std; {machine()}")
    for figure, values in figures.items():
        print(f"  {figure:<62} {spread(values):>20}  n = {len(values)}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n")
    print(f"  kept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}", flush=True)


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
    for figure, values in new["figures"].items():
        if figure in old["figures"]:
            before = old["figures"][figure]
            ratio = statistics.fmean(values) / statistics.fmean(before)
            print(f"  {figure:<62} {spread(before):>20} → {spread(values):>20}  × {ratio:.2f}")


if __name__ == "__main__":
    main()
