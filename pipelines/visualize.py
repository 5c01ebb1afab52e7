"""visualize: draws the effect of each variant's transformer on test images, as figures and in one report."""

from pipelines.runtime.errors import run_main
from pipelines.settings.params import load_params


def main() -> None:
    params = load_params()
    # torch and matplotlib take seconds to import. Invalid settings are reported before that.
    from pipelines.outputs.reports import REPORT
    from pipelines.runtime.progress import print_duration
    from pipelines.tracking.client import store_errors_explained
    from pipelines.visualization.run import visualize

    with store_errors_explained("the figures are drawn again"):
        visualize(params.variants, params.visualize)
    print(f"{REPORT}: a report that opens in any browser, {REPORT.stat().st_size / 1e6:.1f} MB")
    print_duration("visualize")


if __name__ == "__main__":
    run_main(main)
