"""train: train one of the paper's networks on a distortion or on the addition of two digits, with one seed.

python -m experiments.paper.train R ST-CNN-affine 0
python -m experiments.paper.train R ST-CNN-affine 0 --schedule=long     the paper's 150,000 steps
"""

import argparse
import time

from experiments.paper.settings import ADDITION, load_params
from pipelines.runtime.errors import run_main


def main() -> None:
    params = load_params()
    parser = argparse.ArgumentParser(prog="python -m experiments.paper.train", description="Train one network.")
    parser.add_argument("task", choices=[*params.distortions, ADDITION])
    parser.add_argument("network", choices=[*dict.fromkeys([*params.networks, *params.addition])])
    parser.add_argument("seed", type=int)
    parser.add_argument("--schedule", choices=["short", "long"], default="short")
    arguments = parser.parse_args()
    started = time.perf_counter()
    # Imported only after the settings are checked, because torch takes seconds to import.
    from experiments.paper.training import train

    result = train(arguments.task, arguments.network, arguments.seed, params, arguments.schedule)
    print(
        f"{result.task} {result.network} seed {result.seed}: test error {result.test_error:.2f} %, "
        f"{result.parameters:,} parameters, {time.perf_counter() - started:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    run_main(main)
