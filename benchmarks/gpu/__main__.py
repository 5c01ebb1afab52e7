"""Check and measure training on a GPU in one run: python -m benchmarks.gpu --seconds 300. See docs/gpu.md.

Results are written after each phase. Failed checks end the run with exit code 1.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch

from benchmarks.gpu import phases
from benchmarks.gpu.packed_images import FILE, random_splits, read

SMALL = {"train": 640, "test": 64}


class Run:
    """Runs phases while there is time, and writes their results.

    Args:
        path: the JSON file.
        seconds: the budget. A phase that would begin after it is left out, and this is said.
    """

    def __init__(self, path: Path, seconds: float):
        self.path, self.started, self.seconds = path, time.perf_counter(), seconds
        self.results: dict = {}

    @property
    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.started)

    def phase(self, name: str, work) -> None:
        """Run a phase; keep its results, or a line on why there are none."""
        if self.left <= 0:
            self.results[name] = {"left out": "no time was left"}
        else:
            begun = time.perf_counter()
            self.results[name] = work()
            print(f"{name}: {time.perf_counter() - begun:.1f} s", flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=2) + "\n")

    def rows(self, generator, share: float) -> dict[str, float]:
        """Collect the rows of a generator until ``share`` of the budget is used."""
        rows = {}
        for name, value in generator:
            rows[name] = value
            print(f"  {name}: {value:,.0f} images/s", flush=True)
            if self.left < self.seconds * (1 - share):
                break
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="budget for all phases")
    parser.add_argument("--out", type=Path, default=FILE.parent / "results.json")
    parser.add_argument("--data", type=Path, default=FILE, help="made by benchmarks.gpu.pack_data")
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    run = Run(arguments.out, arguments.seconds)
    run.phase("machine", lambda: phases.machine(device))
    packed = arguments.data.is_file() and on_gpu
    splits = read(arguments.data, os.cpu_count() or 1) if packed else random_splits(
        {"train": 50_000, "test": 10_000} if on_gpu else SMALL
    )  # fmt: skip
    run.results["data"] = {"images": "JPEG copy of CIFAR-10" if packed else "random"}
    run.phase("checks", lambda: phases.checks(splits["train"], device))
    if failures := run.results["checks"].get("failures"):
        raise SystemExit(f"checks failed: {', '.join(failures)}; see {arguments.out}")
    window, small = (0.3, False) if on_gpu else (0.05, True)
    run.phase("throughput", lambda: run.rows(phases.throughput(splits["train"], device, window, small), 0.6))
    run.phase("tutorial", lambda: phases.tutorial(splits["train"], device, 10 if on_gpu else 0.2))
    if packed:
        run.phase("accuracy", lambda: phases.accuracy(splits, device, 10, 220))
    else:
        run.phase("accuracy", lambda: phases.accuracy(splits, device, 1, 3) | {"note": "random images"})
    run.phase("kernels", lambda: phases.kernels(splits["train"], device, 256 if on_gpu else 64))
    if "left out" not in run.results["throughput"]:
        run.phase("limits", lambda: phases.limits(run.results))
    print(f"results: {arguments.out}")


if __name__ == "__main__":
    main()
