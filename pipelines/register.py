"""register: register each variant's best model on validation with MLflow, as a version of ``stn-<dataset>``.

DVC never restores this stage's output ``registered.json`` from its run cache, so the stage always runs against the
configured store. It is idempotent: a registered model is not registered again.
"""

from pipelines.runtime.errors import run_main
from pipelines.settings.params import load_params


def main() -> None:
    params = load_params()
    # Importing torch and MLflow takes seconds, so the settings are checked first.
    from pipelines.outputs.evaluation_results import read_results
    from pipelines.registry.registration import register
    from pipelines.runtime.progress import print_duration
    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("nothing is registered twice"):
        registered = register(params.variants, params.register_.tags)
    versions = ", ".join(f"{variant} is version {version}" for variant, version in registered.versions.items())
    print(
        f"{registered.model}: {versions}; challenger, by validation {read_results().metric.label}, is version "
        f"{registered.challenger}, "
        + (f"champion is version {registered.champion}" if registered.champion else "there is no champion")
    )
    print_duration("register")


if __name__ == "__main__":
    run_main(main)
