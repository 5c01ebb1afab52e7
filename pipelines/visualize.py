"""visualize: what each variant's transformer does to test images, as figures and in one self-contained report."""

from pipelines.runtime.errors import run
from pipelines.settings.params import load_params


def main() -> None:
    params = load_params()
    # Imports torch and matplotlib, which takes seconds: only after the settings have been checked.
    from pipelines.outputs.reports import REPORT
    from pipelines.tracking.client import store_errors_explained
    from pipelines.visualization.run import visualize

    with store_errors_explained("the figures are drawn anew"):
        visualize(params.variants, params.visualize)
    print(f"{REPORT}: a report that opens in any browser, {REPORT.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
