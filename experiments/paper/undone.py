"""undone: train one of the paper's networks, and measure how much of a motion its transformer undoes.

python -m experiments.paper.undone R ST-CNN-tps 0                  with the cross-entropy alone
python -m experiments.paper.undone R ST-CNN-similarity 0 --weight=1    with the alignment term

The network, the data and the recipe are those of the paper's table, in fp32. Families that the table does not have,
such as similarity, are allowed too. The measurements are those of the stage evaluate. The results are printed, and the
table does not change.
"""

import argparse
import time
from typing import TYPE_CHECKING, NamedTuple

from experiments.paper.settings import load_params
from pipelines.runtime.errors import UserError, run_main
from pipelines.settings.params import EvaluateParams

if TYPE_CHECKING:
    from stn.classifiers import Network


class Model(NamedTuple):
    """A trained network."""

    seed: int
    network: "Network"


def main() -> None:
    params = load_params()
    parser = argparse.ArgumentParser(prog="python -m experiments.paper.undone", description="What θ undoes.")
    parser.add_argument("task", choices=params.distortions)
    parser.add_argument("network", help="a network with a transformer, such as ST-CNN-affine")
    parser.add_argument("seed", type=int)
    parser.add_argument("--weight", type=float, default=0.0, help="of the alignment term; 0: no term")
    parser.add_argument("--to", choices=["upright", "itself"], default="upright", help="see train.alignment.to")
    given = parser.parse_args()
    if "ST-" not in given.network:
        raise UserError(f"network: {given.network!r} given; it has no transformer. Give one such as ST-CNN-affine")
    started = time.perf_counter()
    # Imported only after the settings are checked, because torch takes seconds to import.
    import torch

    from experiments.paper.networks import paper_network
    from experiments.paper.settings import FOLDER
    from experiments.paper.training import load_data
    from pipelines.evaluation.alignment import measure_alignment, summarize
    from pipelines.outputs.prepared_data import load_split
    from pipelines.runtime.progress import progress
    from pipelines.settings.recipe import AlignmentParams
    from pipelines.training.recipe import recipe_of
    from pipelines.training.trainer import Trainer
    from stn.training import predict

    settings = params.train_of(given.task, "short").model_copy(
        update={"alignment": AlignmentParams(weight=given.weight, to=given.to)}
    )
    data = load_data(given.task, settings)
    variant = paper_network(given.network, data.meta.image_shape, len(data.meta.classes), settings)
    make_network = data.meta.network_builder(variant, settings.dropout)
    trainer = Trainer(make_network, recipe_of(settings, variant), data.training, given.seed, precision=torch.float32)
    title = f"{given.task} {given.network} weight {given.weight:g} seed {given.seed}"
    with progress(title, trainer.epochs) as reporter:
        while trainer.done < trainer.epochs:
            metrics = trainer.train_epoch()
            reporter.update(trainer.done, f"validation {metrics['validation_accuracy']:.4f}")
    logits, labels, _ = predict(trainer.result, data.test.ordered(1000))
    error = 100 * (logits.argmax(1) != labels).double().mean().item()
    evaluate = EvaluateParams(batch_size=1000, resamples=1000, confidence=0.95, robustness_images=2000)
    models = {given.network: [Model(given.seed, trainer.result.eval())]}
    test = load_split("test", FOLDER / "data" / given.task)
    alignment = summarize(measure_alignment(models, test, data.meta, evaluate)[given.network], evaluate.confidence)
    print(f"{title}: test error {error:.2f} %, {time.perf_counter() - started:.0f} s")
    for name, slope in alignment.slopes.items():
        print(f"  {name}: median slope {slope}, mean slope {slope.mean:.2f}")
    print(f"  corners {alignment.corner_error:.1f} px, θ fixed {alignment.fixed_error:.1f} px")
    print(f"  undone {100 * alignment.undone:.0f} %", flush=True)


if __name__ == "__main__":
    run_main(main)
