"""rollback: move the alias ``champion`` back to the previous champion. Each repetition goes one champion further back.

python -m pipelines.commands.rollback stn-cifar10 --reason "errors on night images"
"""

import argparse

from pipelines.runtime.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.rollback",
        description="Move the alias champion back to the previous champion.",
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--reason", default="", help="reason to record")
    arguments = parser.parse_args()

    from pipelines.registry.rollback import rollback
    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("the champion is the same as before"):
        decision = rollback(arguments.model, arguments.reason)
    print(f"{arguments.model}: champion moved back from version {decision.before} to version {decision.after}")


if __name__ == "__main__":
    run_main(main)
