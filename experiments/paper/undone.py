"""undone: train one of the paper's networks, and measure how much of a motion its transformer undoes.

python -m experiments.paper.undone R ST-CNN-tps 0                  with the cross-entropy alone
python -m experiments.paper.undone R ST-CNN-similarity 0 --weight=1    with the alignment term
python -m experiments.paper.undone addition 2xST-FCN-affine 0 --weight=1    a digit for each transformer
python -m experiments.paper.undone addition 2xST-FCN-affine 0 --ramp=0      the whole distortion from the first epoch on

The network, the data and the recipe are those of the paper's table, in fp32. Families that the table does not have,
such as similarity, are allowed too. The measurements are those of the stage evaluate. The results are printed, and the
table does not change.
"""

import argparse
import time
from typing import TYPE_CHECKING, NamedTuple, get_args

from experiments.paper.settings import ADDITION, TrainParams, load_params
from pipelines.runtime.errors import UserError, run_main
from pipelines.settings.params import EvaluateParams
from pipelines.settings.recipe import AlignmentParams
from pipelines.settings.variants import Transform

if TYPE_CHECKING:
    from pipelines.outputs.alignment_results import Alignment
    from stn.classifiers import Network

IMAGES = 2000  # test images that are moved
CONFIDENCE = 0.95  # of the intervals


class Model(NamedTuple):
    """A trained network."""

    seed: int
    network: "Network"


def measure(task: str, network: str, seed: int, settings: TrainParams) -> tuple[float, "Alignment"]:
    """Train a network with a transformer; returns its test error in percent and what its transformer undoes.

    Args:
        network: ``ST-FCN-``, ``ST-CNN-`` or ``2xST-FCN-`` and a family of transforms.

    Raises:
        UserError: the task's data have not been prepared.
    """
    import torch

    from experiments.paper import training
    from pipelines.evaluation.alignment import measure_alignment, summarize
    from pipelines.runtime.progress import progress

    trainer, data = training.make_trainer(task, network, seed, settings, torch.float32)
    with progress(f"{task} {network} seed {seed}", trainer.epochs) as reporter:
        while trainer.done < trainer.epochs:
            metrics = trainer.train_epoch()
            reporter.update(trainer.done, f"validation {metrics['validation_accuracy']:.4f}")
    evaluate = EvaluateParams(batch_size=1000, resamples=1000, confidence=CONFIDENCE, robustness_images=IMAGES)
    test, models = training.load_test(task), {network: [Model(seed, trainer.result)]}
    measured = measure_alignment(models, test, data.meta, evaluate)
    return training.measure_test_error(trainer, data), summarize(measured[network], CONFIDENCE)


def main() -> None:
    params = load_params()
    parser = argparse.ArgumentParser(prog="python -m experiments.paper.undone", description="What θ undoes.")
    parser.add_argument("task", choices=[*params.distortions, ADDITION])
    networks = [f"{kind}-{family}" for kind in ("ST-FCN", "ST-CNN", "2xST-FCN") for family in get_args(Transform)]
    parser.add_argument("network", choices=networks)
    parser.add_argument("seed", type=int)
    parser.add_argument("--weight", type=float, default=0.0, help="of the alignment term; 0: no term")
    parser.add_argument("--to", choices=["upright", "itself"], default="upright", help="see train.alignment.to")
    parser.add_argument("--epochs", type=int, help="instead of those of the table")
    parser.add_argument("--ramp", type=int, help="epochs in which the distortion grows, instead of those of the table")
    given = parser.parse_args()
    if not 0 <= given.weight <= 1000:
        raise UserError(f"--weight: {given.weight:g} given; 0 to 1000 are allowed")
    if given.epochs is not None and given.epochs < 1:
        raise UserError(f"--epochs: {given.epochs} given; 1 or more are allowed")
    table = params.train_of(given.task, "short")
    epochs = table.epochs if given.epochs is None else given.epochs
    ramp = table.distortion_ramp if given.ramp is None else given.ramp
    if not 0 <= ramp < epochs:
        allowed = f"0 to {epochs - 1} are allowed, so that an epoch has the whole distortion"
        raise UserError(f"--ramp: {ramp} given; {allowed}")
    term = AlignmentParams(weight=given.weight, to=given.to)
    settings = table.model_copy(update={"epochs": epochs, "distortion_ramp": ramp, "alignment": term})
    started = time.perf_counter()
    error, alignment = measure(given.task, given.network, given.seed, settings)
    title = f"{given.task} {given.network} weight {given.weight:g} ramp {ramp} seed {given.seed}"
    print(f"{title}: test error {error:.2f} %, {time.perf_counter() - started:.0f} s")
    for name, slope in alignment.slopes.items():
        print(f"  {name}: median slope {slope}, mean slope {slope.mean:.2f}")
    print(f"  corners {alignment.corner_error:.1f} px, θ fixed {alignment.fixed_error:.1f} px")
    print(f"  undone {100 * alignment.undone:.0f} %", flush=True)


if __name__ == "__main__":
    run_main(main)
