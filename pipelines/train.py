"""Stage train: train one variant with every training seed. A start after a kill continues from the last checkpoint.

python -m pipelines.train --variant stn
"""

import argparse

from pipelines.runtime.errors import run_main
from pipelines.settings.params import load_params
from pipelines.settings.variants import load_variant


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.train", description="Train one variant with all seeds.")
    parser.add_argument("--variant", required=True, help="name of a file in variants/, without .yaml")
    name = parser.parse_args().variant
    params, variant = load_params(), load_variant(name)
    # Imports torch and Ray, which takes seconds: only after the settings have been checked.
    from pipelines.training.run import train

    metrics = train(name, params, variant)
    print(
        f"{name}: validation accuracy {metrics['validation_accuracy']:.2%}, "
        f"balanced accuracy {metrics['validation_balanced_accuracy']:.2%}, "
        f"{metrics['images_per_second']:,.0f} images/s"
    )


if __name__ == "__main__":
    run_main(main)
