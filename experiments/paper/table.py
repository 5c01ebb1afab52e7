"""table: write the paper's test errors and ours to table.md and table.png, from all results; ours to table.json, too.

python -m experiments.paper.table
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t

from experiments.paper.result_files import ColocalizationResult, Result, load_colocalization, load_results
from experiments.paper.settings import ADDITION, FOLDER, LONG, Schedule, load_params
from pipelines.runtime.errors import run_main
from pipelines.runtime.files import write_json

# Test error in percent, Jaderberg et al. (2015), section 4.1 and appendix A.
PAPER = {
    "R": {"FCN": 2.1, "CNN": 1.2, "ST-FCN-affine": 1.2, "ST-FCN-projective": 1.3, "ST-FCN-tps": 1.1,
          "ST-CNN-affine": 0.7, "ST-CNN-projective": 0.8, "ST-CNN-tps": 0.7},
    "RTS": {"FCN": 5.2, "CNN": 0.8, "ST-FCN-affine": 0.8, "ST-FCN-projective": 0.9, "ST-FCN-tps": 0.8,
            "ST-CNN-affine": 0.5, "ST-CNN-projective": 0.6, "ST-CNN-tps": 0.5},
    "P": {"FCN": 3.1, "CNN": 1.5, "ST-FCN-affine": 1.5, "ST-FCN-projective": 1.4, "ST-FCN-tps": 1.4,
          "ST-CNN-affine": 0.8, "ST-CNN-projective": 0.8, "ST-CNN-tps": 0.8},
    "E": {"FCN": 3.2, "CNN": 1.4, "ST-FCN-affine": 2.7, "ST-FCN-projective": 2.6, "ST-FCN-tps": 2.4,
          "ST-CNN-affine": 1.2, "ST-CNN-projective": 1.3, "ST-CNN-tps": 1.1},
    "TC": {"FCN": 13.2, "CNN": 3.5, "ST-FCN-affine": 2.0, "ST-CNN-affine": 1.7},
    ADDITION: {"FCN": 47.7, "CNN": 14.7, "ST-FCN-affine": 22.6, "2xST-FCN-affine": 9.0, "2xST-FCN-projective": 5.9,
               "2xST-FCN-tps": 5.8},
}  # fmt: skip
NETWORKS = list(dict.fromkeys(name for row in (PAPER["R"], PAPER[ADDITION]) for name in row))
TABLE, FIGURE, METRICS = FOLDER / "table.md", FOLDER / "table.png", FOLDER / "table.json"
OURS, OURS_LONG = "ours, 95 % interval", "ours with the paper's schedule"
OUR_COLOR, LONG_COLOR, PAPER_COLOR = "#d1495b", "#edae49", "#2e86ab"


class Cell(NamedTuple):
    """Test errors in percent of a network on a task: their mean, half of its 95 % interval, and their number."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.half:.2f}" if self.n > 1 else "") + f" ({self.n})"


def make_cell(errors: Sequence[float]) -> Cell:
    """Summarize the errors of several seeds. The interval is Student's; ``half`` is NaN for a single seed."""
    n = len(errors)
    half = float(t.ppf(0.975, n - 1) * np.std(errors, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return Cell(float(np.mean(errors)), half, n)


def make_colocalization_table(results: list[ColocalizationResult]) -> str:
    """A Markdown table with a column for each digit: the percentage of images in which it was found."""
    digits = [str(result.digit) for result in results]
    lines = [
        "Co-localization: percent of the images whose crop overlaps the digit by more than half of both together.",
        "",
        f"| digit | {' | '.join(digits)} | mean | paper |",
        "|---" * (len(digits) + 3) + "|",
    ]
    rows = (
        ("translated", [result.T for result in results], "100"),
        ("translated, cluttered", [result.TC for result in results], "75 to 93"),
    )
    for title, percentages, paper in rows:
        cells = [f"{percentage:.0f}" for percentage in percentages]
        lines.append(f"| {title} | {' | '.join(cells)} | {np.mean(percentages):.1f} | {paper} |")
    return "\n".join([*lines, ""])


def _group(results: list[Result]) -> dict[str, dict[str, Cell]]:
    """task → network → cell, both in the paper's order."""
    errors = defaultdict(list)
    for result in results:
        errors[result.task, result.network].append(result.test_error)
    return {
        task: {name: make_cell(errors[task, name]) for name in NETWORKS if (task, name) in errors}
        for task in PAPER
        if any(task == trained for trained, _ in errors)
    }


def of_schedule(results: list[Result], schedule: Schedule) -> list[Result]:
    """The results with this schedule."""
    return [result for result in results if result.schedule == schedule]


def make_tables(results: list[Result]) -> str:
    """The table of the short schedule, and that of the paper's own; one without results is left out."""
    tables = [make_table(short)] if (short := of_schedule(results, "short")) else []
    if long := of_schedule(results, "long"):
        tables.append("The same with the paper's schedule, 150,000 steps of SGD.\n\n" + make_table(long))
    return "\n".join(tables)


def make_table(results: list[Result]) -> str:
    """A Markdown table with a row for each network: our error and the paper's for each task, and its parameters.

    A line below says how the networks were trained.
    """
    groups = _group(results)
    lines = [
        "Test error in percent: ours, the mean with its 95 % interval over (n) training seeds, and the paper's.",
        "",
        "| | " + " | ".join(f"{task} | paper" for task in groups) + " | parameters |",
        "|---" * (2 * len(groups) + 2) + "|",
    ]
    for network in NETWORKS:
        counts = {result.parameters for result in results if result.network == network}
        if not counts:
            continue
        row = [network]
        for task, cells in groups.items():
            row += [str(cells.get(network, "")), str(PAPER[task].get(network, ""))]
        row.append(" to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)})))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, "", _describe_trainings(results), ""])


def _describe_trainings(results: list[Result]) -> str:
    """One line: numbers of trainings, images and epochs, devices, precisions and durations."""
    epochs = {task: sorted({result.epochs for result in results if result.task == task}) for task in PAPER}
    epochs_by_task = ", ".join(f"{task} {' or '.join(map(str, counts))}" for task, counts in epochs.items() if counts)
    train_images = " or ".join(f"{count:,}" for count in sorted({result.train_images for result in results}))
    test_images = " or ".join(f"{count:,}" for count in sorted({result.test_images for result in results}))
    devices = " or ".join(sorted({result.device for result in results}))
    precisions = " or ".join(sorted({result.precision for result in results}))
    seconds = [result.seconds for result in results]
    return (
        f"{len(results)} trainings over {train_images} images, {test_images} test images; epochs: {epochs_by_task}; "
        f"{devices}, {precisions}; {min(seconds):.0f} to {max(seconds):.0f} s each."
    )


def draw_figure(results: list[Result]) -> Figure:
    """A panel for each task, with a row for each network: our mean with its interval, and the paper's error.

    The means of the paper's own schedule have a marker of their own, a little lower.
    """
    groups, long = _group(results), _group(of_schedule(results, "long"))
    short = _group(of_schedule(results, "short"))
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.8, 2.6 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (task, cells) in zip(panels, groups.items(), strict=False):
        for y, name in enumerate(cells):
            for drawn, marker, color, lower, label in (
                (short, "o", OUR_COLOR, 0, OURS), (long, "s", LONG_COLOR, 0.25, OURS_LONG),
            ):  # fmt: skip
                if (ours := drawn.get(task, {}).get(name)) is not None:
                    half = None if ours.n == 1 else ours.half
                    axes.errorbar(
                        ours.mean, y + lower, xerr=half, fmt=marker, color=color, ms=5, capsize=2, label=label
                    )
            if name in PAPER[task]:
                axes.plot(PAPER[task][name], y, "D", color=PAPER_COLOR, fillstyle="none", label="the paper's")
        axes.set_yticks(range(len(cells)), list(cells), fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.08 * axes.dataLim.x1)
        axes.set_title(task)
        axes.grid(axis="x", alpha=0.3)
    for axes in figure.axes[len(groups) :]:
        axes.remove()
    by_label = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        by_label |= dict(zip(labels, handles, strict=True))
    figure.legend(by_label.values(), by_label, loc="outside upper center", ncols=3, frameon=False)
    figure.supxlabel("test error, percent", fontsize=9)
    return figure


def make_metrics(results: list[Result]) -> dict[str, Any]:
    """DVC's metrics: task → network → mean test error in percent; ``long`` → task → … for the paper's own schedule."""

    def means(schedule: Schedule) -> dict[str, Any]:
        groups = _group(of_schedule(results, schedule))
        return {task: {name: cell.mean for name, cell in cells.items()} for task, cells in groups.items()}

    return means("short") | ({LONG: long} if (long := means("long")) else {})


def main() -> None:
    load_params()
    results = load_results()
    text = make_tables(results)
    if colocalization := load_colocalization():
        text += "\n" + make_colocalization_table(colocalization)
    TABLE.write_text(text, encoding="utf-8")
    draw_figure(results).savefig(FIGURE, dpi=110)
    write_json(METRICS, make_metrics(results))
    print(text)


if __name__ == "__main__":
    run_main(main)
