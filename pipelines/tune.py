"""tune: Optuna study of the localization network on Ray workers; writes the winner to variants/tuned.yaml.

python -m pipelines.tune                run the study of params.yaml, up to tune.trials trials in total
python -m pipelines.tune --dashboard    print the study's storage in the format of optuna-dashboard --from-config
"""

import argparse

from pipelines.runtime.errors import run_main
from pipelines.settings.params import load_params
from pipelines.settings.variants import BASELINE, TUNED, load_variant, variant_file


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.tune", description="Tune the localization network.")
    parser.add_argument(
        "--dashboard", action="store_true", help="print the study's storage for optuna-dashboard --from-config"
    )
    dashboard = parser.parse_args().dashboard
    params, baseline = load_params(), load_variant(BASELINE)
    # Importing torch, Ray and Optuna takes seconds: only after the settings have been checked.
    if dashboard:
        from pipelines.tuning.dashboard import dashboard_config

        print(dashboard_config(params, baseline))
        return
    from pipelines.tuning.run import tune

    results = tune(params, baseline)
    print(
        f"tune: {results.finished} trials finished, {results.pruned} pruned, {results.failed} failed; "
        f"the winner is {results.winner}: {variant_file(TUNED)}"
    )


if __name__ == "__main__":
    run_main(main)
