"""Comparison of all variants as Markdown."""

from collections.abc import Mapping
from itertools import combinations

from pipelines.evaluation.significance import compare_seeds
from pipelines.outputs.alignment_results import Alignment
from pipelines.outputs.evaluation_results import EvaluationResults, VariantResults
from pipelines.outputs.motions import MOTIONS, UNDONE_MOTIONS
from pipelines.outputs.prepared_data import DatasetMeta
from pipelines.settings.metric import Metric


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
        *(f"\n**No right answer**: {line}." for line in results.never_right),
        "",
        f"| variant | parameters | multiply-adds | validation {results.metric.label} "
        f"| {' | '.join(f'test {metric.label}' for metric in Metric)} | test loss |",
        f"|---|{'---:|' * (4 + len(Metric))}",
        *(_metrics_row(name, variant, results.metric) for name, variant in variants.items()),
        "",
        "Mean accuracy over a range of motions of the test images, and calibration error:",
        "",
        f"| variant | {' | '.join(str(motion) for motion in MOTIONS)} | calibration error |",
        f"|---|{'---:|' * (len(MOTIONS) + 1)}",
        *(_robustness_row(name, variant) for name, variant in variants.items()),
    ]
    lines += _alignment_lines({name: v.alignment for name, v in variants.items() if v.alignment}, confidence)
    if any(variant.final_fit for variant in variants.values()):
        reason = "models trained on the validation images (train.final_fit)"
        lines += ["", f"Validation {results.metric.label} is meaningless: {reason}."]
    lines += _seed_lines(results, confidence)
    if results.pairs:
        label = results.metric.label
        title = (
            f"Difference in test {label} on the same images, between each variant's best model by validation {label}:"
        )
        lines += ["", title, ""]
        lines += [_pair_line(pair, results, confidence) for pair in results.pairs]
    return "\n".join(lines) + "\n"


def _metrics_row(name: str, variant: VariantResults, metric: Metric) -> str:
    validation = variant.on_validation(metric)
    on_test = " | ".join(str(variant.on_test(each)) for each in Metric)
    return (
        f"| {name} | {variant.parameters:,} | {variant.multiply_adds:,} "
        f"| {'not measured' if validation is None else f'{validation:.2%}'} | {on_test} | {variant.test_loss:.4f} |"
    )


def _robustness_row(name: str, variant: VariantResults) -> str:
    means = [f"{variant.robustness[motion.name]:.2%}" for motion in MOTIONS]
    return f"| {name} | {' | '.join(means)} | {variant.calibration_error:.2%} |"


def _seed_lines(results: EvaluationResults, confidence: float) -> list[str]:
    variants, metric = results.variants, results.metric
    compared = {
        f"{second} vs {first}": compare_seeds(variants[first].seeds, variants[second].seeds, metric, confidence)
        for first, second in combinations(variants, 2)
    }
    lines = [
        f"- {pair}: {difference.mean * 100:+.2f} points, interval {difference.low * 100:+.2f} to "
        f"{difference.high * 100:+.2f}"
        for pair, difference in compared.items()
        if difference is not None
    ]
    title = f"Difference in test {metric.label}, paired by training seed, with its {confidence * 100:g}% t-interval:"
    return ["", title, "", *lines] if lines else []


def _alignment_lines(alignments: Mapping[str, Alignment], confidence: float) -> list[str]:
    if not alignments:
        return []
    return [
        "",
        "What the transformers undo of motions of the test images. Median slope of θ on the motion (0: nothing, "
        f"1: all) with its {confidence * 100:g}% interval. Distance of the corners of two views of an image in pixels, "
        "median and 90th percentile, also with θ fixed:",
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


def _pair_line(pair: str, results: EvaluationResults, confidence: float) -> str:
    difference, (second, first) = results.pairs[pair], pair.split(" vs ")
    return (
        f"- {pair}: {difference.difference * 100:+.2f} points, {confidence * 100:g}% interval "
        f"{difference.low * 100:+.2f} to {difference.high * 100:+.2f}; "
        f"{results.p_value_name} = {difference.p_value:.2g} "
        f"({difference.only_second} images classified correctly by {second} alone, "
        f"{difference.only_first} by {first} alone)"
    )
