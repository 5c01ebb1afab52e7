"""Comparison of all variants as Markdown."""

from collections.abc import Mapping
from itertools import combinations

from pipelines.evaluation.significance import compare_seeds
from pipelines.outputs.alignment_results import Alignment
from pipelines.outputs.evaluation_results import Difference, EvaluationResults, VariantResults
from pipelines.outputs.motions import MOTIONS, UNDONE_MOTIONS
from pipelines.outputs.prepared_data import DatasetMeta


def comparison_table(results: EvaluationResults, meta: DatasetMeta, confidence: float) -> str:
    """Format the results as Markdown: up to three tables with one row per variant, and one line per pair of variants.

    Args:
        confidence: confidence level of the intervals, in (0, 1).
    """
    variants = results.variants
    seeds = len(next(iter(variants.values())).seeds)
    spread = " (mean ± std)" if seeds > 1 else ""
    lines = [
        f"{meta.dataset}: {meta.counts['test']} test images, {seeds} training seed(s){spread}.",
        *(f"\n**Trouble**: {line}." for line in results.trouble),
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
    lines += _alignment_lines({name: v.alignment for name, v in variants.items() if v.alignment}, confidence)
    if any(variant.final_fit for variant in variants.values()):
        lines += ["", "Validation accuracy is meaningless: models trained on the validation images (train.final_fit)."]
    lines += _seed_lines(variants, confidence)
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


def _seed_lines(variants: Mapping[str, VariantResults], confidence: float) -> list[str]:
    compared = {
        f"{second} vs {first}": compare_seeds(variants[first].seeds, variants[second].seeds, confidence)
        for first, second in combinations(variants, 2)
    }
    lines = [
        f"- {pair}: {difference.mean * 100:+.2f} points, interval {difference.low * 100:+.2f} to "
        f"{difference.high * 100:+.2f}"
        for pair, difference in compared.items()
        if difference is not None
    ]
    title = f"Difference in test accuracy, paired by training seed, with its {confidence * 100:g}% t-interval:"
    return ["", title, "", *lines] if lines else []


def _alignment_lines(alignments: Mapping[str, Alignment], confidence: float) -> list[str]:
    if not alignments:
        return []
    return [
        "",
        "What the transformers undo of motions of the test images. Slope of θ on the motion (0: nothing, 1: all) with "
        f"its {confidence * 100:g}% interval. Distance of the corners of two views of an image in pixels, median and "
        "90th percentile, also with θ fixed:",
        "",
        f"| variant | {' | '.join(map(str, UNDONE_MOTIONS))} | corners | corners, θ fixed | undone |",
        f"|---|{'---:|' * (len(UNDONE_MOTIONS) + 3)}",
        *(_alignment_row(name, alignment) for name, alignment in alignments.items()),
    ]


def _alignment_row(name: str, alignment: Alignment) -> str:
    slopes = " | ".join(str(alignment.slopes[motion.name]) for motion in UNDONE_MOTIONS)
    return (
        f"| {name} | {slopes} | {alignment.corner_error:.1f} ({alignment.corner_error_90:.1f}) "
        f"| {alignment.fixed_error:.1f} ({alignment.fixed_error_90:.1f}) | {alignment.undone:.0%} |"
    )


def _pair_line(pair: str, difference: Difference, confidence: float) -> str:
    second, first = pair.split(" vs ")
    return (
        f"- {pair}: {difference.difference * 100:+.2f} points, {confidence * 100:g}% interval "
        f"{difference.low * 100:+.2f} to {difference.high * 100:+.2f}; McNemar's exact p = {difference.p_value:.2g} "
        f"({difference.only_second} images classified correctly by {second} alone, "
        f"{difference.only_first} by {first} alone)"
    )
