"""Pictures of a study, as Optuna draws them."""

import warnings
from pathlib import Path

import matplotlib as mpl
import optuna

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from optuna.trial import TrialState
from optuna.visualization import matplotlib as drawings

from pipelines.runtime.files import replacing

PICTURES = {
    "history": drawings.plot_optimization_history,
    "parallel-coordinates": drawings.plot_parallel_coordinate,
    "importances": drawings.plot_param_importances,
    "slices": drawings.plot_slice,
}


def save_figures(study: optuna.Study, folder: Path) -> list[Path]:
    """Draw what the finished trials have to show into ``folder``; the pictures' paths.

    The importance of settings needs trials that differ in their result; where there are none that picture is left out.
    """
    values = {trial.value for trial in study.trials if trial.state == TrialState.COMPLETE}
    paths = []
    for name, draw in PICTURES.items():
        if not values or (name == "importances" and len(values) < 2):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental, and labels that overlap
            axes = draw(study)
            figure = np.ravel(np.asarray(axes))[0].figure
            if name == "slices":
                figure.set_size_inches(3 * len(np.ravel(np.asarray(axes))), 4)
            elif name == "parallel-coordinates":
                figure.set_size_inches(16, 6)
            paths.append(folder / f"{name}.png")
            with replacing(paths[-1]) as beside:
                figure.savefig(beside, dpi=100, bbox_inches="tight")
        plt.close("all")
    return paths
