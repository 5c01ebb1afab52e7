"""Optuna's plots of a study, as PNG files."""

import warnings
from pathlib import Path

import matplotlib as mpl
import optuna

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from optuna.trial import TrialState
from optuna.visualization import matplotlib as optuna_plots

from pipelines.runtime.files import replace_atomically

PLOTS = {
    "history": optuna_plots.plot_optimization_history,
    "parallel-coordinates": optuna_plots.plot_parallel_coordinate,
    "importances": optuna_plots.plot_param_importances,
    "slices": optuna_plots.plot_slice,
}


def save_figures(study: optuna.Study, objective: str, folder: Path) -> list[Path]:
    """Plot the finished trials into ``folder`` and return the paths of the pictures.

    ``objective`` is the name of the objective on the axes.

    Without a finished trial there are no pictures. The importance of settings is left out unless two trials differ in
    their result.
    """
    values = {trial.value for trial in study.trials if trial.state == TrialState.COMPLETE}
    paths = []
    for name, plot in PLOTS.items():
        if not values or (name == "importances" and len(values) < 2):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's plots are experimental, and some labels overlap
            axes = np.ravel(np.asarray(plot(study, target_name=objective)))
            figure = axes[0].figure
            if name == "slices":
                figure.set_size_inches(3 * len(axes), 4)
            elif name == "parallel-coordinates":
                figure.set_size_inches(16, 6)
            paths.append(folder / f"{name}.png")
            with replace_atomically(paths[-1]) as beside:
                figure.savefig(beside, dpi=100, bbox_inches="tight")
        plt.close("all")
    return paths


def save_note(text: str, folder: Path) -> None:
    """Save a picture of ``text`` into ``folder``, where there are no trials to plot: DVC warns of an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(5, 1))
    figure.text(0.5, 0.5, text, ha="center", va="center")
    with replace_atomically(folder / "no-trials.png") as beside:
        figure.savefig(beside, dpi=100)
