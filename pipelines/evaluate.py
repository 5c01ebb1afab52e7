"""evaluate: every trained model on the test images, and the variants against each other.

It reports two distinct comparisons: mean ± std over training seeds (does the transformer pay?), and a paired test
between two models on the same images (is this model better than that one?). Beside both stands the accuracy of each
model on images that are rotated, scaled and shifted.
"""

from pipelines.runtime.errors import run
from pipelines.settings.params import load_params


def main() -> None:
    params = load_params()
    # Imports torch and MLflow, which takes seconds: only after the settings have been checked.
    from pipelines.evaluation.run import evaluate
    from pipelines.outputs.evaluation_results import COMPARISON
    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("the models are evaluated anew"):
        evaluate(params.variants, params.evaluate)
    print(COMPARISON.read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main)
