"""table: the paper's test errors beside ours, as one Markdown table and one figure, of all results that there are.

python -m experiments.paper.table
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t

from experiments.paper.settings import ADDITION, COLOCALIZATION, FOLDER, load_params
from pipelines.runtime.errors import UserError, run
from pipelines.runtime.files import read_json

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
RESULTS = FOLDER / "results"
TABLE, FIGURE = FOLDER / "table.md", FOLDER / "table.png"
OURS, THEIRS = "#d1495b", "#2e86ab"


class Cell(NamedTuple):
    """Test errors in percent of a network on a task: their mean, half of its 95 % interval and their number."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.half:.2f}" if self.n > 1 else "") + f" ({self.n})"


def cell(errors: list[float]) -> Cell:
    """The interval is Student's over the training seeds; of one seed there is none, and ``half`` is NaN."""
    n = len(errors)
    half = float(t.ppf(0.975, n - 1) * np.std(errors, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return Cell(float(np.mean(errors)), half, n)


def load_results() -> list[dict]:
    """All results, of whatever runs there have been.

    Raises:
        UserError: there are none.
    """
    results = [read_json(path) for path in sorted(RESULTS.glob("*/*/*.json"))]
    if not results:
        raise UserError(f"{RESULTS}: no results here; make some with: make paper ONLY=R")
    return results


def load_colocalization() -> list[dict]:
    """The results of co-localization, one for each digit that there is one of."""
    return [read_json(path) for path in sorted((RESULTS / COLOCALIZATION).glob("*.json"))]


def colocalization_table(results: list[dict]) -> str:
    """A column for each digit: the shares of images in which it was found, among nothing and among clutter."""
    digits = [str(result["digit"]) for result in results]
    lines = [
        "Co-localization: percent of the images whose crop overlaps the digit by more than half of both together.",
        "",
        f"| digit | {' | '.join(digits)} | mean | paper |",
        "|---" * (len(digits) + 3) + "|",
    ]
    for name, title, theirs in (("T", "translated", "100"), ("TC", "translated, cluttered", "75 to 93")):
        shares = [result[name] for result in results]
        cells = [f"{share:.0f}" for share in shares]
        lines.append(f"| {title} | {' | '.join(cells)} | {np.mean(shares):.1f} | {theirs} |")
    return "\n".join([*lines, ""])


def _by_cell(results: list[dict]) -> dict[str, dict[str, Cell]]:
    """task → network → its cell, both in the paper's order."""
    errors = defaultdict(list)
    for result in results:
        errors[result["task"], result["network"]].append(result["test_error"])
    return {
        task: {name: cell(errors[task, name]) for name in NETWORKS if (task, name) in errors}
        for task in PAPER
        if any(task == done for done, _ in errors)
    }


def markdown(results: list[dict]) -> str:
    """The table: a row for each network, in each cell our error and the paper's; and what is the same for all."""
    cells = _by_cell(results)
    lines = [
        "Test error in percent: ours, the mean with its 95 % interval over (n) training seeds, and the paper's.",
        "",
        "| | " + " | ".join(f"{task} | paper" for task in cells) + " | parameters |",
        "|---" * (2 * len(cells) + 2) + "|",
    ]
    for network in NETWORKS:
        counts = {result["parameters"] for result in results if result["network"] == network}
        if not counts:
            continue
        row = [network]
        for task, of_task in cells.items():
            theirs = PAPER[task].get(network, "")
            row += [str(of_task.get(network, "")), str(theirs)]
        row.append(" to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)})))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, "", _trained(results), ""])


def _trained(results: list[dict]) -> str:
    def said(name: str, form: str = "{}") -> str:
        return " or ".join(form.format(value) for value in sorted({result[name] for result in results}))

    seconds = [result["seconds"] for result in results]
    tasks = {task: sorted({result["epochs"] for result in results if result["task"] == task}) for task in PAPER}
    epochs = ", ".join(f"{task} {' or '.join(map(str, counts))}" for task, counts in tasks.items() if counts)
    return (
        f"{len(results)} trainings over {said('train_images', '{:,}')} images, "
        f"{said('test_images', '{:,}')} test images; epochs: {epochs}; {said('device')}, {said('precision')}; "
        f"{min(seconds):.0f} to {max(seconds):.0f} s each."
    )


def figure(results: list[dict]) -> Figure:
    """For each task the networks below one another: our mean and its interval, and the paper's error."""
    cells = _by_cell(results)
    columns = min(3, len(cells))
    rows = -(-len(cells) // columns)
    drawn = Figure(figsize=(3.6 * columns + 0.8, 2.6 * rows + 0.6), layout="constrained")
    panels = drawn.subplots(rows, columns, squeeze=False).flat
    for axes, (task, of_task) in zip(panels, cells.items(), strict=False):
        for y, (name, ours) in enumerate(of_task.items()):
            half = None if ours.n == 1 else ours.half
            axes.errorbar(ours.mean, y, xerr=half, fmt="o", color=OURS, capsize=3, label="ours, 95 % interval")
            if name in PAPER[task]:
                axes.plot(PAPER[task][name], y, "D", color=THEIRS, fillstyle="none", label="the paper's")
        axes.set_yticks(range(len(of_task)), list(of_task), fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.08 * axes.dataLim.x1)
        axes.set_title(task)
        axes.grid(axis="x", alpha=0.3)
    for axes in drawn.axes[len(cells) :]:
        axes.remove()
    handles, labels = drawn.axes[0].get_legend_handles_labels()
    drawn.legend(dict(zip(labels, handles, strict=True)).values(), dict.fromkeys(labels), loc="outside upper center",
                 ncols=2, frameon=False)  # fmt: skip
    drawn.supxlabel("test error, percent", fontsize=9)
    return drawn


def main() -> None:
    load_params()
    results = load_results()
    text = markdown(results)
    if found := load_colocalization():
        text += "\n" + colocalization_table(found)
    TABLE.write_text(text, encoding="utf-8")
    figure(results).savefig(FIGURE, dpi=110)
    print(text)


if __name__ == "__main__":
    run(main)
