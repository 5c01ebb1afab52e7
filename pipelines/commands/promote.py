"""promote: put the challenger of a registered model to the gates of params.yaml; if it passes, it becomes champion.

Challenger and champion are loaded from the registry as any user would, and both answer the same prepared test images.
The decision, passed or refused, is recorded as an MLflow run and on the version. Exit code 3: refused.

    python -m pipelines.commands.promote stn-cifar10 --dry-run
"""

import argparse

from pipelines.registry.promotion import promote
from pipelines.runtime.errors import GateRefused, run
from pipelines.settings.params import load_params

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import


from pipelines.tracking.client import store_errors_explained


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.promote",
        description="Put the challenger of a registered model to the gates of params.yaml; passing, it is champion.",
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", help="another version than the challenger")
    parser.add_argument("--dry-run", action="store_true", help="decide only; nothing is moved or recorded")
    parser.add_argument("--force", default="", metavar="REASON", help="move the alias whatever the gates say, and why")
    arguments = parser.parse_args()
    name = arguments.model
    with store_errors_explained("the champion is the same as before"):
        outcome = promote(name, load_params(), arguments.version, arguments.dry_run, arguments.force.strip())
    if outcome is None:
        version = f"version {arguments.version}" if arguments.version else "the challenger"
        print(f"{name}: {version} is the champion already")
        return
    print(outcome.report)
    decision = outcome.decision
    if not decision.moved:
        is_ = "would be" if arguments.dry_run else "is"
        raise GateRefused(f"{name}: version {decision.after} {is_} refused, the champion stays {decision.before}")
    moved = "would move" if arguments.dry_run else "moved"
    way = f"from version {decision.before} to version {decision.after} ({decision.outcome})"
    print(f"{name}: champion {moved} {way}")


if __name__ == "__main__":
    run(main)
