"""tune: an Optuna study of the localization network on Ray workers, whose winner is written to variants/tuned.yaml.

python -m pipelines.tune                the study of params.yaml, up to tune.trials in total
python -m pipelines.tune --dashboard    where that study is kept, as optuna-dashboard's --from-config takes it
"""

import argparse

from pipelines.runtime.errors import run
from pipelines.settings.params import load_params
from pipelines.settings.variants import BASELINE, TUNED, load_variant, variant_file


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.tune", description="Tune the localization network.")
    parser.add_argument(
        "--dashboard", action="store_true", help="where the study is, for optuna-dashboard --from-config"
    )
    dashboard = parser.parse_args().dashboard
    params, baseline = load_params(), load_variant(BASELINE)
    # Imports torch, Ray and Optuna, which takes seconds: only after the settings have been checked.
    from pipelines.tuning.run import dashboard_config, tune

    if dashboard:
        print(dashboard_config(params, baseline))
        return
    metrics = tune(params, baseline)
    print(
        f"tune: {metrics['finished']} trials finished, {metrics['pruned']} pruned, {metrics['failed']} failed; "
        f"the winner is {metrics['winner']}: {variant_file(TUNED)}"
    )


if __name__ == "__main__":
    run(main)
