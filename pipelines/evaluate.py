"""evaluate: evaluates every trained model on the test images and compares the variants.

It reports two distinct comparisons. Mean ± standard deviation over training seeds shows whether the transformer helps.
A paired test of two models on the same images shows whether one model is better than the other. It also reports the
robustness of each model: its accuracy on test images that are rotated, scaled and shifted.
"""

from pipelines.runtime.errors import run_main
from pipelines.settings.params import load_params


def main() -> None:
    params = load_params()
    # torch and MLflow take seconds to import. Invalid settings are reported before that.
    from pipelines.evaluation.run import evaluate
    from pipelines.outputs.evaluation_results import COMPARISON
    from pipelines.runtime.progress import print_duration
    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("the models are evaluated again"):
        evaluate(params.variants, params.evaluate)
    print(COMPARISON.read_text(encoding="utf-8"))
    print_duration("evaluate")


if __name__ == "__main__":
    run_main(main)
