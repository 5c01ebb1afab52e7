"""Draws all figures, logs them to MLflow and writes the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pipelines.outputs import tuning_results
from pipelines.outputs.alignment_results import read_undone
from pipelines.outputs.class_results import read_confusion
from pipelines.outputs.evaluation_results import read_curve, read_reliability, read_results
from pipelines.outputs.motions import MOTIONS, UNDONE_MOTIONS
from pipelines.outputs.prepared_data import DatasetMeta, Labeled, load_meta, load_split
from pipelines.outputs.reports import PICTURES, REPORT
from pipelines.outputs.trained_models import Trained, best_on_validation, load_theta_history, load_trained
from pipelines.runtime.files import replace_atomically, write_text
from pipelines.runtime.progress import track
from pipelines.settings.metric import Metric
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
from pipelines.visualization.confusion import draw_confusion
from pipelines.visualization.fonts import choose_fonts
from pipelines.visualization.inner_theta import draw_inner_theta
from pipelines.visualization.report import ANIMATION, render_report
from pipelines.visualization.theta import draw_theta, draw_theta_history


def visualize(variants: Sequence[str], settings: VisualizeParams) -> None:
    """Draw all figures, log them to the runs of the models that they show, and write the report.

    The metric of the results of the stage evaluate selects the model of each variant.
    """
    metric = read_results().metric
    meta, validation, test = load_meta(), load_split("validation"), _shuffle(load_split("test"))
    if missing := choose_fonts([*meta.classes, *variants]):
        print(
            f"visualize: no installed font has {missing}, which names of classes contain; they are drawn as boxes. "
            f"Install a font that has them, such as Noto Sans CJK for Chinese, Japanese and Korean",
            flush=True,
        )
    models = {variant: load_trained(variant, meta) for variant in variants}
    best = {variant: best_on_validation(trained, metric) for variant, trained in models.items()}
    client = connect()

    pictures = _save_charts(models, metric)
    for variant in variants:
        confusion = draw_confusion(read_confusion(variant, meta.classes), len(meta.classes))
        pictures[f"confusion-{variant}"] = _save(confusion, f"confusion-{variant}")
    for model in track("visualize", best.values(), len(best)):
        if model.network.transformer is not None:
            pictures |= _save_theta_pictures(model, meta, validation, test, settings.examples)
        inner = draw_inner_theta(model, meta, test, settings.examples)
        pictures |= {name: _save(figure, name) for name, figure in _of_variant(model, inner).items()}

    for variant, model in best.items():
        if run_exists(client, model.run_id):
            own = [file for name, file in pictures.items() if name.startswith(f"{variant}/")]
            log_files(client, model.run_id, own, "theta")
            names = ("robustness", "reliability", "undone", f"confusion-{variant}")
            compared = [pictures[name] for name in names if name in pictures]
            log_files(client, model.run_id, compared, "evaluation")

    pictures |= {f"tune/{file.stem}": file for file in sorted(tuning_results.PICTURES.glob("*.png"))}
    write_text(REPORT, render_report(meta, best, pictures))


def _shuffle(split: Labeled) -> Labeled:
    """Shuffle a split with a fixed seed, because it may be sorted by class."""
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))
    return Labeled(split.images[order], split.labels[order])


def _save_charts(models: Mapping[str, Sequence[Trained]], metric: Metric) -> dict[str, Path]:
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
    measured = all(metric.on_validation in of_seed[0] for of_seeds in histories.values() for of_seed in of_seeds)
    if metric != Metric.ACCURACY and measured:
        label = f"validation {metric.label}"
        figures["curves-metric"] = draw_learning_curves(histories, metric.on_validation, label)
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
