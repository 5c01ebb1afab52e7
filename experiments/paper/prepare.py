"""prepare: MNIST with one of the paper's distortions, prepared like the data of the main pipeline.

python -m experiments.paper.prepare R
"""

import argparse
import os.path

from experiments.paper.settings import FOLDER, load_params
from pipelines.runtime.errors import run_main
from pipelines.settings.data_params import DataParams, DistortionParams, PrepareParams


def main() -> None:
    params = load_params()
    parser = argparse.ArgumentParser(prog="python -m experiments.paper.prepare", description="Prepare distorted MNIST.")
    parser.add_argument("distortion", choices=params.distortions)
    protocol = parser.parse_args().distortion
    # Imported only after the settings are checked, because torch takes seconds to import.
    from pipelines.preparation.run import prepare_source, report

    distortion = DistortionParams(protocol=protocol, rotation=0, scale=[1.0, 1.0], shift=0, padding_mode="zeros")
    source = os.path.normpath(FOLDER / params.prepare.source)  # relative to params.yaml, as DVC reads it
    data = DataParams(dataset="mnist", source=source, size=28, channels=1, skip_broken=False, distortion=distortion)
    # MNIST has a test split, so that the share of test images is not used.
    settings = PrepareParams(validation=params.prepare.validation, test=0.5, seed=params.prepare.seed)
    report(prepare_source(data, settings, FOLDER / "data" / protocol))


if __name__ == "__main__":
    run_main(main)
