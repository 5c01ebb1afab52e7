"""visualize: what each variant's transformer does to test images, as figures and in one self-contained report."""

import base64
from pathlib import Path

from pipelines.errors import run
from pipelines.params import VisualizeParams, load_params

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

import jinja2
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipelines import tracking
from pipelines.prepared import load_meta, load_split
from pipelines.progress import track
from pipelines.state import read_json
from pipelines.trained import Trained, best_on_validation, load_trained
from stn.batches import Batches
from stn.figures import learning_curves, rectified_batch, sampling_grids, theta_distributions

PICTURES = Path("reports/pictures")
REPORT = Path("reports/report.html")
STUDY_PICTURES = Path("plots/tune")  # of the stage tune
TEMPLATE = Path(__file__).with_name("report.html.j2")


@torch.inference_mode()
def theta_figures(model: Trained, meta: dict, images: Tensor, labels: Tensor, examples: int) -> dict[str, Figure]:
    """Figures of one model's θ over test images uint8 (N, C, H, W); the first ``examples`` are shown one by one."""
    batches = Batches(images, labels, meta["mean"], meta["std"], torch.device("cpu"))
    transformer = model.network.transformer
    assert transformer is not None
    shown, _ = next(batches.ordered(examples))
    theta = transformer.theta(shown)
    grid = transformer.transform(theta, batches.height, batches.width)
    # Shown is what the classifier sees, brought back from normalized values to pixels.
    rectified = batches.denormalize(transformer.sampler(shown, grid))
    predicted = model.network(shown).argmax(1)
    titles = [
        meta["classes"][label] if label == answer else f"{meta['classes'][label]} (said {meta['classes'][answer]})"
        for label, answer in zip(labels[:examples].tolist(), predicted.tolist(), strict=True)
    ]
    pixels = images[:examples].float()
    everything = torch.cat([transformer.theta(batch) for batch, _ in batches.ordered(1000)])
    return {
        "rectified": rectified_batch(pixels, rectified),
        "grids": sampling_grids(pixels, rectified, grid, transformer.transform.matrix(theta), titles),
        "theta": theta_distributions(transformer.transform.describe(everything, batches.height, batches.width)),
    }


def visualize(variants: list[str], settings: VisualizeParams) -> None:
    """Draw the figures, log them to the runs they belong to, and write the report."""
    meta, test = load_meta(), load_split("test")
    # Spread over the test set, whose order may be by class.
    order = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))
    images, labels = test.images[order], test.labels[order]
    models = {variant: load_trained(variant, meta) for variant in variants}
    client = tracking.connect()
    histories = {variant: [model.history for model in of_variant] for variant, of_variant in models.items()}
    figures = {
        "curves-accuracy": learning_curves(histories, "validation_accuracy", "validation accuracy"),
        "curves-loss": learning_curves(histories, "train_loss", "training loss"),
    }
    for variant, of_variant in track("visualize", models.items(), len(models)):
        model = best_on_validation(of_variant)
        if model.network.transformer is None:
            continue
        drawn = theta_figures(model, meta, images, labels, settings.examples)
        figures |= {f"{variant}/{name}": figure for name, figure in drawn.items()}
    files = {}
    for name, figure in figures.items():
        files[name] = PICTURES / f"{name}.png"
        files[name].parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(files[name], dpi=130)
    for variant, of_variant in models.items():
        run_id = best_on_validation(of_variant).run_id
        if tracking.run_exists(client, run_id):
            own = [file for name, file in files.items() if name.startswith(f"{variant}/")]
            tracking.log_files(client, run_id, own, "theta")
    files |= {f"tune/{file.stem}": file for file in sorted(STUDY_PICTURES.glob("*.png"))}
    REPORT.write_text(_report(meta, models, files), encoding="utf-8")


def _report(meta: dict, models: dict[str, list[Trained]], files: dict[str, Path]) -> str:
    """The report: pictures inside, no script, nothing loaded from elsewhere."""
    encoded = {
        name: "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode() for name, file in files.items()
    }
    with_theta = [variant for variant in models if f"{variant}/grids" in files]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        meta=meta,
        metrics=read_json(Path("metrics/evaluate.json")),
        tuning=read_json(Path("metrics/tune.json")),
        best={variant: best_on_validation(of_variant) for variant, of_variant in models.items()},
        with_theta=with_theta,
        pictures=encoded,
    )


def main() -> None:
    params = load_params()
    with tracking.needed("the figures are drawn anew"):
        visualize(params.variants, params.visualize)
    print(f"{REPORT}: a report that opens in any browser, {REPORT.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
