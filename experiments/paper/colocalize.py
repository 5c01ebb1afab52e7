"""colocalize: find the same digit in a hundred images, without labels of its location.

python -m experiments.paper.colocalize 3
"""

import argparse

from experiments.paper.result_files import write_colocalization
from experiments.paper.settings import load_params
from pipelines.runtime.errors import run_main


def main() -> None:
    params = load_params()
    parser = argparse.ArgumentParser(prog="python -m experiments.paper.colocalize", description="Find a digit.")
    parser.add_argument("digit", type=int, choices=params.digits)
    digit = parser.parse_args().digit
    # Imported only after the settings are checked, because torch takes seconds to import.
    from experiments.paper.colocalization import colocalize

    result = colocalize(digit, params)
    write_colocalization(result)
    print(f"digit {digit}: {result.T:.0f} % found, among clutter {result.TC:.0f} %", flush=True)


if __name__ == "__main__":
    run_main(main)
