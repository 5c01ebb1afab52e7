"""rollback: give the alias ``champion`` back to the version that had it before. Repeated, it goes further back.

python -m pipelines.commands.rollback stn-cifar10 --reason "mistakes on night images"
"""

import argparse

from pipelines.registry import champion
from pipelines.runtime.errors import run
from pipelines.tracking.client import connect, store_errors_explained


def rollback(name: str, reason: str = "") -> champion.Decision:
    """Restore the previous champion that still exists.

    Raises:
        UserError: there is no such model, or no champion to go back to.
    """
    client = connect()
    with champion.promotion_lock(client, name):
        before, after = champion.previous(client, name)
        decision = champion.decide(champion.ROLLED_BACK, before, after, reason)
        champion.record(client, name, decision)
    return decision


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.rollback", description="Give the alias champion back to the version before."
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--reason", default="", help="why; it is recorded")
    arguments = parser.parse_args()
    with store_errors_explained("the champion is the same as before"):
        decision = rollback(arguments.model, arguments.reason)
    print(f"{arguments.model}: champion moved back from version {decision.before} to version {decision.after}")


if __name__ == "__main__":
    run(main)
