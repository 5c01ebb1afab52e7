"""promote: compare the challenger of a registered model with the champion; it becomes champion if it passes the gates.

The gates are in the section ``promote`` of params.yaml. The decision, passed or refused, is recorded as an MLflow run
and in the version's tags. Exit code 3: refused.

    python -m pipelines.commands.promote stn-cifar10 --dry-run
"""

import argparse

from pipelines.runtime.errors import GateRefused, run_main
from pipelines.settings.params import load_params


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.promote",
        description="Make the challenger of a registered model the champion if it passes the gates of params.yaml.",
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", help="number or alias of the version to promote; default: challenger")
    parser.add_argument("--dry-run", action="store_true", help="only decide; move and record nothing")
    parser.add_argument(
        "--force", default="", metavar="REASON", help="move the alias even if a gate refuses; the reason is recorded"
    )
    arguments = parser.parse_args()
    params, name = load_params(), arguments.model

    from pipelines.registry.promotion import promote
    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("the champion is the same as before"):
        promotion = promote(name, params, arguments.version, dry_run=arguments.dry_run, force=arguments.force.strip())
    if promotion is None:
        version = f"version {arguments.version}" if arguments.version else "the challenger"
        print(f"{name}: {version} is the champion already")
        return
    print(promotion.report)
    decision = promotion.decision
    if not decision.moved:
        verb = "would be" if arguments.dry_run else "is"
        raise GateRefused(f"{name}: version {decision.after} {verb} refused, the champion stays {decision.before}")
    verb = "would move" if arguments.dry_run else "moved"
    print(f"{name}: champion {verb} from version {decision.before} to version {decision.after} ({decision.outcome})")


if __name__ == "__main__":
    run_main(main)
