"""Check and measure training on a GPU in one run: python -m benchmarks.gpu --seconds 300. See docs/gpu.md.

Results are written after each phase. After a failure the run goes on, and ends with exit code 1.
"""

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import phases
from benchmarks.gpu.convolutions import convolutions
from benchmarks.gpu.packed_images import FILE, random_splits, read
from benchmarks.gpu.sharing import sharing

SMALL = {"train": 640, "test": 64}


class Run:
    """Runs phases while there is time, and writes their results.

    Args:
        path: the JSON file.
        seconds: the budget. A phase that would begin after it is left out, and this is said.
    """

    def __init__(self, path: Path, seconds: float):
        self.path, self.started, self.seconds = path, time.perf_counter(), seconds
        self.results: dict[str, Any] = {}
        self.failures: list[str] = []

    @property
    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.started)

    def phase(self, name: str, work: Callable[[], phases.Results]) -> None:
        """Run a phase; keep its results, or a line on why there are none."""
        if self.left <= 0:
            self.results[name] = {"left out": "no time was left"}
        else:
            begun = time.perf_counter()
            self.results[name] = self.attempt(name, work) or {"failed": self.failures[-1]}
            print(f"{name}: {time.perf_counter() - begun:.1f} s", flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=2) + "\n")

    def rows(self, measurements: Iterator[tuple[str, Callable[[], float]]], share: float) -> dict[str, float]:
        """Run measurements until ``share`` of the budget is used. A row that fails is left out."""
        rows = {}
        for name, measure in measurements:
            if (value := self.attempt(name, measure)) is not None:
                rows[name] = value
                print(f"  {name}: {value:,.0f} images/s", flush=True)
            if self.left < self.seconds * (1 - share):
                break
        return rows

    def attempt(self, name: str, work: Callable[[], Any]) -> Any:
        """Return what a function returns, or None if it raises an error. The error is kept, and the run goes on."""
        try:
            return work()
        except Exception as error:
            traceback.print_exc()
            self.failures.append(f"{name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            return None


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
    run.failures += run.results["checks"].get("failures", [])
    window, small = (0.3, False) if on_gpu else (0.05, True)
    run.phase("throughput", lambda: run.rows(phases.throughput(splits["train"], device, window, small), 0.6))
    run.phase("tutorial", lambda: phases.tutorial(splits["train"], device, run.seconds / 30 if on_gpu else 0.2))
    if packed:
        run.phase("accuracy", lambda: phases.accuracy(splits, device, 10, 220))
    else:
        run.phase("accuracy", lambda: phases.accuracy(splits, device, 1, 3) | {"note": "random images"})
    run.phase("kernels", lambda: phases.kernels(splits["train"], device, 256 if on_gpu else 64))
    run.phase("convolutions", lambda: convolutions(device, 256 if on_gpu else 8, window))
    if any("captured" in row for row in run.results["throughput"]):
        run.phase("limits", lambda: phases.limits(run.results))
    images, batch_size = (50_000, 256) if on_gpu else (SMALL["train"], 64)
    run.phase("sharing", lambda: sharing(device, images, batch_size, 10 * window))
    print(f"results: {arguments.out}")
    if run.failures:
        raise SystemExit("failed:\n" + "\n".join(run.failures))


if __name__ == "__main__":
    main()
