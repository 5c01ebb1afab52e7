"""history: every decision on who is champion of a registered model, the oldest first.

python -m pipelines.history stn-cifar10
"""

import argparse
from datetime import datetime

from pipelines import champion, registry, tracking
from pipelines.errors import run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.history", description="Every decision on who is champion of a registered model."
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    name = parser.parse_args().model
    with tracking.needed("nothing was changed"):
        client = tracking.connect()
        registry.versions(client, name)  # there is such a model
        decisions, aliases = champion.history(client, name), tracking.aliases(client, name)
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
