"""Comparison of all variants as Markdown."""

from pipelines.outputs.evaluation_results import MOTIONS, Difference, EvaluationResults, VariantResults
from pipelines.outputs.prepared_data import DatasetMeta


def comparison_table(results: EvaluationResults, meta: DatasetMeta, confidence: float) -> str:
    """Format the results as Markdown: two tables with one row per variant, and one line per pair of variants.

    Args:
        confidence: confidence level of the intervals, in (0, 1).
    """
    variants = results.variants
    seeds = len(next(iter(variants.values())).seeds)
    spread = " (mean ± std)" if seeds > 1 else ""
    lines = [
        f"{meta.dataset}: {meta.counts['test']} test images, {seeds} training seed(s){spread}.",
        "",
        "| variant | parameters | multiply-adds | validation accuracy | test accuracy | test loss |",
        "|---|---:|---:|---:|---:|---:|",
        *(_accuracy_row(name, variant) for name, variant in variants.items()),
        "",
        "Mean accuracy over a range of motions of the test images, and calibration error:",
        "",
        f"| variant | {' | '.join(str(motion) for motion in MOTIONS)} | calibration error |",
        f"|---|{'---:|' * (len(MOTIONS) + 1)}",
        *(_robustness_row(name, variant) for name, variant in variants.items()),
    ]
    if any(variant.final_fit for variant in variants.values()):
        lines += ["", "Validation accuracy is meaningless: models trained on the validation images (train.final_fit)."]
    if results.pairs:
        lines += ["", "Paired tests on the same test images, between each variant's best model on validation:", ""]
        lines += [_pair_line(pair, difference, confidence) for pair, difference in results.pairs.items()]
    return "\n".join(lines) + "\n"


def _accuracy_row(name: str, variant: VariantResults) -> str:
    std = "" if variant.test_accuracy_std is None else f" ± {variant.test_accuracy_std * 100:.2f}"
    return (
        f"| {name} | {variant.parameters:,} | {variant.multiply_adds:,} | {variant.validation_accuracy:.2%} "
        f"| {variant.test_accuracy * 100:.2f}{std} % | {variant.test_loss:.4f} |"
    )


def _robustness_row(name: str, variant: VariantResults) -> str:
    means = [f"{variant.robustness[motion.name]:.2%}" for motion in MOTIONS]
    return f"| {name} | {' | '.join(means)} | {variant.calibration_error:.2%} |"


def _pair_line(pair: str, difference: Difference, confidence: float) -> str:
    second, first = pair.split(" vs ")
    return (
        f"- {pair}: {difference.difference * 100:+.2f} points, {confidence * 100:g}% interval "
        f"{difference.low * 100:+.2f} to {difference.high * 100:+.2f}; McNemar's exact p = {difference.p_value:.2g} "
        f"({difference.only_second} images classified correctly by {second} alone, "
        f"{difference.only_first} by {first} alone)"
    )
