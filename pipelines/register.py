"""register: of each variant the model that is best on validation → MLflow's registry, as ``stn-<dataset>``.

Its out, registered.json, is never restored from DVC's run cache, so that this stage always meets the store at hand.
It is idempotent: a model that is registered already is not registered again.
"""

from pipelines.runtime.errors import run
from pipelines.settings.params import load_params


def main() -> None:
    params = load_params()
    # Imports torch and MLflow, which takes seconds: only after the settings have been checked.
    from pipelines.registry.registration import register
    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("nothing is registered twice"):
        registered = register(params.variants, params.register_.tags)
    versions = ", ".join(f"{variant} is version {version}" for variant, version in registered["versions"].items())
    print(
        f"{registered['model']}: {versions}; challenger is version {registered['challenger']}, "
        f"champion is version {registered['champion']}"
    )


if __name__ == "__main__":
    run(main)
