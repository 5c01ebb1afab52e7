"""reproduce: train a registered version again from its commit, changes, settings and data, and compare the weights.

Training runs in a temporary work tree with its own tracking store; the current work tree and store are not changed.

    python -m pipelines.commands.reproduce stn-cifar10 --version 3
"""

import argparse

from pipelines.runtime.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.reproduce",
        description="Train a registered version again and compare the weights.",
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", default="champion", help="number or alias of the version; default: champion")
    arguments = parser.parse_args()

    from pipelines.registry.reproduction import reproduce
    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("nothing was changed"):
        result = reproduce(arguments.model, arguments.version)
    print(f"{arguments.model}: {result}")


if __name__ == "__main__":
    run_main(main)
