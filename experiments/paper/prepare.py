"""prepare: MNIST by one of the paper's distortions, as the project's own stage prepares any data.

python -m experiments.paper.prepare R
"""

import argparse

from experiments.paper.settings import FOLDER, load_params
from pipelines.runtime.errors import run

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

from pipelines.preparation.run import prepare_source, report
from pipelines.settings.params import DataParams, DistortionParams, PrepareParams


def main() -> None:
    params = load_params()
    parser = argparse.ArgumentParser(prog="python -m experiments.paper.prepare", description="Prepare distorted MNIST.")
    parser.add_argument("distortion", choices=params.distortions)
    protocol = parser.parse_args().distortion
    distortion = DistortionParams(protocol=protocol, rotation=0, scale=[1.0, 1.0], shift=0, padding_mode="zeros")
    data = DataParams(
        dataset="mnist", source=params.prepare.source, size=28, channels=1, skip_broken=False, distortion=distortion
    )
    # MNIST brings its own test images: the share of these is never asked for.
    settings = PrepareParams(validation=params.prepare.validation, test=0.5, seed=params.prepare.seed)
    report(prepare_source(data, settings, FOLDER / "data" / protocol))


if __name__ == "__main__":
    run(main)
