"""history: every decision on who is champion of a registered model, the oldest first.

python -m pipelines.commands.history stn-cifar10
"""

import argparse
from datetime import datetime

from pipelines.registry import champion
from pipelines.registry.versions import aliases_of, versions_by_number
from pipelines.runtime.errors import run
from pipelines.tracking.client import connect, store_errors_explained


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.history",
        description="Every decision on who is champion of a registered model.",
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    name = parser.parse_args().model
    with store_errors_explained("nothing was changed"):
        client = connect()
        versions_by_number(client, name)  # there is such a model
        decisions, aliases = champion.history(client, name), aliases_of(client, name)
    for decision in decisions:
        at = datetime.fromtimestamp(decision.at / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
        kept = "" if decision.moved else f", version {decision.before} stays"
        move = f"{decision.before} → {decision.after}" if decision.moved else decision.after
        print(f"{at}  {decision.outcome} version {move}{kept}, by {decision.by}")
        for what, text in (("reason", decision.reason), ("gates", decision.gates)):
            if text:
                print(f"    {what}: {text}")
    print(f"{name}: the champion is version {aliases.get('champion', 'none')}")


if __name__ == "__main__":
    run(main)
