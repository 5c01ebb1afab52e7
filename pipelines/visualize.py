"""visualize: what each variant's transformer does to test images, as figures and in one self-contained report."""

import base64
from io import BytesIO
from pathlib import Path

from pipelines.errors import run
from pipelines.params import VisualizeParams, load_params

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

import jinja2
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats
from torch import Tensor

from pipelines import tracking
from pipelines.prepared import Labeled, load_meta, load_split
from pipelines.progress import track
from pipelines.robustness import MOTIONS, Motion
from pipelines.state import read_json, replacing, write_text
from pipelines.trained import Course, Trained, best_on_validation, load_course, load_trained
from stn.batches import Batches
from stn.figures import (
    learning_curves,
    rectified_batch,
    reliability_diagrams,
    robustness_curves,
    sampling_grids,
    theta_distributions,
)
from stn.film import animate, filmstrip, frame

PICTURES = Path("reports/pictures")
REPORT = Path("reports/report.html")
CURVES = Path("plots/evaluate")  # of the stage evaluate
STUDY_PICTURES = Path("plots/tune")  # of the stage tune
TEMPLATE = Path(__file__).with_name("report.html.j2")
ANIMATION = "epochs"  # in each variant's folder of pictures, as all
FRAMES, STRIPS = 30, 7  # at most so many epochs are shown in an animation and in a filmstrip


@torch.inference_mode()
def theta_figures(model: Trained, meta: dict, images: Tensor, labels: Tensor, examples: int) -> dict[str, Figure]:
    """Figures of one model's θ over test images uint8 (N, C, H, W): the first ``examples`` one by one, so many of those
    with the highest cross-entropy, and θ of all.
    """
    transformer = model.network.transformer
    assert transformer is not None
    batches = Batches(images, labels, meta["mean"], meta["std"], torch.device("cpu"))
    answers = [model.network.predict(batch) for batch, _ in batches.ordered(1000)]
    logits, theta = (torch.cat(parts) for parts in zip(*answers, strict=True))
    worst = F.cross_entropy(logits, labels, reduction="none").argsort(descending=True)[:examples]
    rectified, grids = _one_by_one(model, meta, images[:examples], labels[:examples])
    return {
        "rectified": rectified_batch(images[:examples].float(), rectified),
        "grids": grids,
        "worst": _one_by_one(model, meta, images[worst], labels[worst])[1],
        "theta": theta_distributions(transformer.transform.describe(theta, batches.height, batches.width)),
    }


def _one_by_one(model: Trained, meta: dict, images: Tensor, labels: Tensor) -> tuple[Tensor, Figure]:
    """What the classifier sees of these images, as pixels in [0, 255], and a figure of both with grids and θ."""
    transformer = model.network.transformer
    assert transformer is not None
    batches = Batches(images, labels, meta["mean"], meta["std"], torch.device("cpu"))
    shown, _ = next(batches.ordered(len(images)))
    theta = transformer.theta(shown)
    grid = transformer.transform(theta, *(transformer.output_size or (batches.height, batches.width)))
    rectified = batches.denormalize(transformer.resample(shown, theta))
    predicted = model.network(shown).argmax(1)
    titles = [
        meta["classes"][label] if label == answer else f"{meta['classes'][label]} (said {meta['classes'][answer]})"
        for label, answer in zip(labels.tolist(), predicted.tolist(), strict=True)
    ]
    return rectified, sampling_grids(images.float(), rectified, grid, transformer.transform.readable(theta), titles)


@torch.inference_mode()
def film(model: Trained, meta: dict, course: Course, validation: Labeled) -> tuple[Figure, list[Image.Image]]:
    """What the transformer made of the same few validation images from epoch to epoch: a filmstrip, and the pictures of
    an animation, which begins before the first epoch. Drawn from θ alone, not from the networks of that time.
    """
    transformer = model.network.transformer
    assert transformer is not None
    images, labels = validation.images[course.images], validation.labels[course.images]
    batches = Batches(images, labels, meta["mean"], meta["std"], torch.device("cpu"))
    shown, _ = next(batches.ordered(len(images)))
    heads, epochs = transformer.transform.heads, len(course.theta)
    start = torch.tensor(transformer.transform.identity).expand_as(course.theta[:1])
    theta = torch.cat((start, course.theta))

    def rectified(epoch: int) -> Tensor:
        return batches.denormalize(transformer.resample(shown, theta[epoch]))

    def pictured(epoch: int) -> Image.Image:
        grid = transformer.transform(theta[epoch], *(transformer.output_size or (batches.height, batches.width)))
        caption = f"after epoch {epoch} of {epochs}" if epoch else "before the first epoch"
        return frame(images.float(), rectified(epoch), grid.unflatten(1, (heads, -1)), caption)

    # Evenly in time; and by factors, since most happens early.
    moments = np.linspace(0, epochs, min(FRAMES, epochs + 1)).round().astype(int)
    stops = np.unique(np.geomspace(1, epochs, STRIPS).round().astype(int))
    strip = filmstrip(
        images.float(), {f"epoch {epoch}": rectified(epoch) for epoch in stops.tolist()},
        [meta["classes"][label] for label in labels.tolist()],
    )  # fmt: skip
    return strip, [pictured(epoch) for epoch in moments.tolist()]


def _curve(motion: Motion, variant: str) -> np.ndarray:
    """What the stage evaluate wrote on one motion: amounts, means over the seeds, 95 % t intervals of these; (4, A)."""
    amounts, mean, *seeds = np.loadtxt(CURVES / motion.name / f"{variant}.csv", delimiter=",", skiprows=1).T
    half = np.full_like(mean, np.nan)
    if len(seeds) > 1:
        half = stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(seeds, axis=0)
    return np.stack([amounts, mean, mean - half, mean + half])


def _reliability(variant: str) -> np.ndarray:
    """Of each bin, as the stage evaluate wrote them, confidence, accuracy and number of images: (M, 3)."""
    return np.array([list(b.values()) for b in read_json(CURVES / "reliability" / f"{variant}.json")])


def visualize(variants: list[str], settings: VisualizeParams) -> None:
    """Draw the figures, log them to the runs they belong to, and write the report."""
    meta, validation, test = load_meta(), load_split("validation"), load_split("test")
    # Spread over the test set, whose order may be by class.
    order = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))
    images, labels = test.images[order], test.labels[order]
    models = {variant: load_trained(variant, meta) for variant in variants}
    client = tracking.connect()
    histories = {variant: [model.history for model in of_variant] for variant, of_variant in models.items()}
    figures = {
        "curves-accuracy": learning_curves(histories, "validation_accuracy", "validation accuracy"),
        "curves-loss": learning_curves(histories, "train_loss", "training loss"),
        "robustness": robustness_curves(
            {str(motion): {variant: _curve(motion, variant) for variant in variants} for motion in MOTIONS},
            {str(motion): motion.still for motion in MOTIONS},
        ),
        "reliability": reliability_diagrams({variant: _reliability(variant) for variant in variants}),
    }
    animations: dict[str, list[Image.Image]] = {}
    for variant, of_variant in track("visualize", models.items(), len(models)):
        model = best_on_validation(of_variant)
        if model.network.transformer is None:
            continue
        drawn = theta_figures(model, meta, images, labels, settings.examples)
        drawn["filmstrip"], animations[variant] = film(model, meta, load_course(model), validation)
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
        if tracking.run_exists(client, run_id):
            own = [file for name, file in files.items() if name.startswith(f"{variant}/")]
            tracking.log_files(client, run_id, own, "theta")
            tracking.log_files(client, run_id, [files["robustness"], files["reliability"]], "evaluation")
    files |= {f"tune/{file.stem}": file for file in sorted(STUDY_PICTURES.glob("*.png"))}
    write_text(REPORT, _report(meta, models, files))


def _report(meta: dict, models: dict[str, list[Trained]], files: dict[str, Path]) -> str:
    """The report: pictures inside, no script, nothing loaded from elsewhere."""
    encoded = {name: _encoded(file.read_bytes()) for name, file in files.items()}
    with_theta = [variant for variant in models if f"{variant}/grids" in files]
    stills = {variant: _still(files[f"{variant}/{ANIMATION}"]) for variant in with_theta}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        meta=meta,
        metrics=read_json(Path("metrics/evaluate.json")),
        tuning=read_json(Path("metrics/tune.json")),
        best={variant: best_on_validation(of_variant) for variant, of_variant in models.items()},
        with_theta=with_theta,
        pictures=encoded,
        stills=stills,
    )


def _encoded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _still(animation: Path) -> str:
    """The last picture of an animation, for readers who asked for less motion."""
    with Image.open(animation) as frames:
        frames.seek(frames.n_frames - 1)  # pyright: ignore[reportAttributeAccessIssue]
        stream = BytesIO()
        frames.convert("RGB").save(stream, format="PNG")
    return _encoded(stream.getvalue())


def main() -> None:
    params = load_params()
    with tracking.needed("the figures are drawn anew"):
        visualize(params.variants, params.visualize)
    print(f"{REPORT}: a report that opens in any browser, {REPORT.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
