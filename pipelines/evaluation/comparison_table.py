"""The comparison of all variants, as Markdown."""

from pipelines.outputs.evaluation_results import MOTIONS
from pipelines.settings.params import EvaluateParams


def comparison_table(metrics: dict, meta: dict, settings: EvaluateParams) -> str:
    """The comparison as Markdown: a table over variants, and a line for each pair of them."""
    seeds = len(next(iter(metrics["variants"].values()))["seeds"])
    spread = " (mean ± std)" if seeds > 1 else ""
    lines = [
        f"{meta['dataset']}: {meta['counts']['test']} test images, {seeds} training seed(s){spread}.",
        "",
        "| variant | parameters | multiply-adds | validation accuracy | test accuracy | test loss |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, values in metrics["variants"].items():
        std = f" ± {values['test_accuracy_std'] * 100:.2f}" if seeds > 1 else ""
        lines.append(
            f"| {name} | {values['parameters']:,} | {values['multiply_adds']:,} | {values['validation_accuracy']:.2%} "
            f"| {values['test_accuracy'] * 100:.2f}{std} % | {values['test_loss']:.4f} |"
        )
    lines += [
        "",
        "Mean accuracy over a range of motions of the same images; and how far confidence is off (calibration error):",
        "",
        f"| variant | {' | '.join(str(motion) for motion in MOTIONS)} | calibration error |",
        f"|---|{'---:|' * (len(MOTIONS) + 1)}",
    ]
    for name, values in metrics["variants"].items():
        means = [f"{values['robustness'][motion.name]:.2%}" for motion in MOTIONS]
        lines.append(f"| {name} | {' | '.join(means)} | {values['calibration_error']:.2%} |")
    if any(values["final_fit"] for values in metrics["variants"].values()):
        lines += ["", "Trained on the validation images, too (train.final_fit): their accuracy says nothing."]
    if metrics["pairs"]:
        lines += ["", "On the same test images, each variant's model that is best on validation:", ""]
    for pair, d in metrics["pairs"].items():
        lines.append(
            f"- {pair}: {d['difference'] * 100:+.2f} points, {settings.confidence * 100:g}% interval "
            f"{d['low'] * 100:+.2f} to {d['high'] * 100:+.2f}; McNemar's exact p = {d['p_value']:.2g} "
            f"({d['only_second']} images right in the first alone, {d['only_first']} in the second alone)"
        )
    return "\n".join(lines) + "\n"
