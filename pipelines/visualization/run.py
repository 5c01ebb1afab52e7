"""Draws all figures, logs them to MLflow and writes the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pipelines.outputs import tuning_results
from pipelines.outputs.alignment_results import read_undone
from pipelines.outputs.evaluation_results import read_curve, read_reliability
from pipelines.outputs.motions import MOTIONS, UNDONE_MOTIONS
from pipelines.outputs.prepared_data import DatasetMeta, Labeled, load_meta, load_split
from pipelines.outputs.reports import PICTURES, REPORT
from pipelines.outputs.trained_models import Trained, best_on_validation, load_theta_history, load_trained
from pipelines.runtime.files import replace_atomically, write_text
from pipelines.runtime.progress import track
from pipelines.settings.params import VisualizeParams
from pipelines.tracking.client import connect, log_files, run_exists
from pipelines.visualization.animation import write_animation
from pipelines.visualization.charts import (
    draw_learning_curves,
    draw_reliability,
    draw_robustness,
    draw_undone,
    draw_undone_by_epoch,
    mean_curve,
)
from pipelines.visualization.inner_theta import draw_inner_theta
from pipelines.visualization.report import ANIMATION, render_report
from pipelines.visualization.theta import draw_theta, draw_theta_history


def visualize(variants: Sequence[str], settings: VisualizeParams) -> None:
    """Draw all figures, log them to the runs of the models that they show, and write the report."""
    meta, validation, test = load_meta(), load_split("validation"), _shuffle(load_split("test"))
    models = {variant: load_trained(variant, meta) for variant in variants}
    best = {variant: best_on_validation(trained) for variant, trained in models.items()}
    client = connect()

    pictures = _save_charts(models)
    for model in track("visualize", best.values(), len(best)):
        if model.network.transformer is not None:
            pictures |= _save_theta_pictures(model, meta, validation, test, settings.examples)
        inner = draw_inner_theta(model, meta, test, settings.examples)
        pictures |= {name: _save(figure, name) for name, figure in _of_variant(model, inner).items()}

    for variant, model in best.items():
        if run_exists(client, model.run_id):
            own = [file for name, file in pictures.items() if name.startswith(f"{variant}/")]
            log_files(client, model.run_id, own, "theta")
            compared = [pictures[name] for name in ("robustness", "reliability", "undone") if name in pictures]
            log_files(client, model.run_id, compared, "evaluation")

    pictures |= {f"tune/{file.stem}": file for file in sorted(tuning_results.PICTURES.glob("*.png"))}
    write_text(REPORT, render_report(meta, best, pictures))


def _shuffle(split: Labeled) -> Labeled:
    """Shuffle a split with a fixed seed, because it may be sorted by class."""
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))
    return Labeled(split.images[order], split.labels[order])


def _save_charts(models: Mapping[str, Sequence[Trained]]) -> dict[str, Path]:
    """Draw and save the charts that compare all variants. Returns name → file."""
    histories = {variant: [model.history for model in trained] for variant, trained in models.items()}
    robustness = {
        motion: {variant: mean_curve(read_curve(motion, variant)) for variant in models} for motion in MOTIONS
    }
    undone = {
        motion: {v: curve for v, curve in read_undone(motion).items() if v in models} for motion in UNDONE_MOTIONS
    }
    figures = {
        "curves-accuracy": draw_learning_curves(histories, "validation_accuracy", "validation accuracy"),
        "curves-loss": draw_learning_curves(histories, "train_loss", "training loss"),
        "robustness": draw_robustness(robustness),
        "reliability": draw_reliability({variant: read_reliability(variant) for variant in models}),
    }
    if any(undone.values()):
        figures["undone"] = draw_undone(undone)
    with_theta = {v: of_seeds for v, of_seeds in histories.items() if "theta_undone_rotation" in of_seeds[0][0]}
    if with_theta:
        figures["curves-undone"] = draw_undone_by_epoch(with_theta)
    return {name: _save(figure, name) for name, figure in figures.items()}


def _save_theta_pictures(
    model: Trained, meta: DatasetMeta, validation: Labeled, test: Labeled, examples: int
) -> dict[str, Path]:
    """Draw and save all pictures of one model's transformer. Returns ``<variant>/<picture>`` → file."""
    on_test = draw_theta(model, meta, test, examples)
    in_training = draw_theta_history(model, meta, load_theta_history(model), validation)
    figures = {**on_test._asdict(), "filmstrip": in_training.filmstrip}
    pictures = {name: _save(figure, name) for name, figure in _of_variant(model, figures).items()}
    animation = PICTURES / model.variant / f"{ANIMATION}.png"
    with replace_atomically(animation) as temporary:
        write_animation(in_training.frames, temporary)
    return {**pictures, f"{model.variant}/{ANIMATION}": animation}


def _of_variant(model: Trained, figures: Mapping[str, Figure]) -> dict[str, Figure]:
    return {f"{model.variant}/{name}": figure for name, figure in figures.items()}


def _save(figure: Figure, name: str) -> Path:
    path = PICTURES / f"{name}.png"
    with replace_atomically(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path
