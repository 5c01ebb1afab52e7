"""Draws the figures, logs them to the runs that they belong to, writes the report."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import stats

from pipelines.outputs.evaluation_results import MOTIONS, Motion, read_curve, read_reliability
from pipelines.outputs.prepared_data import load_meta, load_split
from pipelines.outputs.reports import PICTURES, REPORT
from pipelines.outputs.trained_models import best_on_validation, load_theta_history, load_trained
from pipelines.runtime.files import replacing, write_text
from pipelines.runtime.progress import track
from pipelines.settings.params import VisualizeParams
from pipelines.tracking.client import connect, log_files, run_exists
from pipelines.visualization.animation import animate
from pipelines.visualization.figures import learning_curves, reliability_diagrams, robustness_curves
from pipelines.visualization.report import ANIMATION, render_report
from pipelines.visualization.theta import film, theta_figures

STUDY_PICTURES = Path("plots/tune")  # of the stage tune


def visualize(variants: list[str], settings: VisualizeParams) -> None:
    """Draw the figures, log them to the runs they belong to, and write the report."""
    meta, validation, test = load_meta(), load_split("validation"), load_split("test")
    # Spread over the test set, whose order may be by class.
    order = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))
    images, labels = test.images[order], test.labels[order]
    models = {variant: load_trained(variant, meta) for variant in variants}
    client = connect()
    histories = {variant: [model.history for model in of_variant] for variant, of_variant in models.items()}
    figures = {
        "curves-accuracy": learning_curves(histories, "validation_accuracy", "validation accuracy"),
        "curves-loss": learning_curves(histories, "train_loss", "training loss"),
        "robustness": robustness_curves(
            {str(motion): {variant: _with_interval(motion, variant) for variant in variants} for motion in MOTIONS},
            {str(motion): motion.still for motion in MOTIONS},
        ),
        "reliability": reliability_diagrams({variant: read_reliability(variant) for variant in variants}),
    }
    animations: dict[str, list[Image.Image]] = {}
    for variant, of_variant in track("visualize", models.items(), len(models)):
        model = best_on_validation(of_variant)
        if model.network.transformer is None:
            continue
        drawn = theta_figures(model, meta, images, labels, settings.examples)
        drawn["filmstrip"], animations[variant] = film(model, meta, load_theta_history(model), validation)
        figures |= {f"{variant}/{name}": figure for name, figure in drawn.items()}
    files = {}
    for name, figure in figures.items():
        files[name] = PICTURES / f"{name}.png"
        with replacing(files[name]) as beside:
            figure.savefig(beside, dpi=130)
    for variant, frames in animations.items():
        files[f"{variant}/{ANIMATION}"] = PICTURES / variant / f"{ANIMATION}.png"
        with replacing(files[f"{variant}/{ANIMATION}"]) as beside:
            animate(frames, beside)
    for variant, of_variant in models.items():
        run_id = best_on_validation(of_variant).run_id
        if run_exists(client, run_id):
            own = [file for name, file in files.items() if name.startswith(f"{variant}/")]
            log_files(client, run_id, own, "theta")
            log_files(client, run_id, [files["robustness"], files["reliability"]], "evaluation")
    files |= {f"tune/{file.stem}": file for file in sorted(STUDY_PICTURES.glob("*.png"))}
    write_text(REPORT, render_report(meta, models, files))


def _with_interval(motion: Motion, variant: str) -> np.ndarray:
    """The curve of a motion: amounts, mean accuracies over the seeds, bounds of the means' 95 % t intervals; (4, A)."""
    mean, seeds = read_curve(motion, variant)
    half = np.full_like(mean, np.nan)
    if len(seeds) > 1:
        half = stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(seeds, axis=0)
    return np.stack([np.array(motion.amounts, dtype=float), mean, mean - half, mean + half])
