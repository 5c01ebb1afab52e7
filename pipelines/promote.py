"""promote: move the alias ``champion`` of a registered model to its challenger.

python -m pipelines.promote stn-cifar10
"""

import argparse

from pipelines import tracking
from pipelines.errors import UserError, run


def promote(name: str) -> tuple[str | None, str]:
    """Make the challenger the champion; returns the champion's version before and after.

    The version that had the alias is kept as a tag of the new champion.

    Raises:
        UserError: there is no such model, or it has no challenger.
    """
    client = tracking.connect()
    aliases = tracking.aliases(client, name)
    if "challenger" not in aliases:
        known = ", ".join(model.name for model in client.search_registered_models()) or "none"
        raise UserError(
            f"MODEL: {name!r} given; the registry has no such model with a challenger (it has: {known}). "
            f"dvc repro register makes one"
        )
    before, after = aliases.get("champion"), aliases["challenger"]
    if before != after:
        client.set_model_version_tag(name, after, "previous_champion", before or "none")
        client.set_registered_model_alias(name, "champion", after)
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.promote", description="Move the alias champion to the challenger."
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    name = parser.parse_args().model
    before, after = promote(name)
    if before == after:
        print(f"{name}: version {after} is the champion already")
    else:
        print(f"{name}: champion moved from version {before} to version {after}")


if __name__ == "__main__":
    run(main)
