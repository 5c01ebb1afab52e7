"""history: print all decisions about the champion of a registered model, oldest first.

python -m pipelines.commands.history stn-cifar10
"""

import argparse

from pipelines.runtime.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.history",
        description="Print all decisions about the champion of a registered model.",
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    name = parser.parse_args().model

    from pipelines.registry.champion import read_history
    from pipelines.registry.provenance import format_time
    from pipelines.registry.versions import aliases_of, versions_by_number
    from pipelines.tracking.client import connect, store_errors_explained

    with store_errors_explained("nothing was changed"):
        client = connect()
        versions_by_number(client, name)  # raises if there is no such model
        decisions, aliases = read_history(client, name), aliases_of(client, name)
    for decision in decisions:
        stays = "" if decision.moved else f", version {decision.before} stays"
        versions = f"{decision.before} → {decision.after}" if decision.moved else decision.after
        print(f"{format_time(decision.time_ms)}  {decision.outcome} version {versions}{stays}, by {decision.by}")
        for title, text in (("reason", decision.reason), ("gates", decision.gates)):
            if text:
                print(f"    {title}: {text}")
    print(f"{name}: the champion is version {aliases.get('champion', 'none')}")


if __name__ == "__main__":
    run_main(main)
