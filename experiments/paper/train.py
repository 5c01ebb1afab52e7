"""train: one network of the paper's on one distortion, or on the addition of two digits, with one training seed.

python -m experiments.paper.train R ST-CNN-affine 0
"""

import argparse
import time
from pathlib import Path
from typing import Any

from experiments.paper.settings import ADDITION, FOLDER, Params, load_params
from pipelines.runtime.errors import ExternalError, run
from stn.training import default_device

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

import torch

from experiments.paper.addition import SUMS, Sums, pair
from experiments.paper.networks import count_parameters, paper_network
from pipelines.outputs.prepared_data import Labeled, load_arrays, load_meta, load_split
from pipelines.runtime.files import write_json
from pipelines.runtime.home import state_dir
from pipelines.runtime.keys import digest_code, key_of
from pipelines.runtime.locks import locked
from pipelines.runtime.progress import progress
from pipelines.training.trainer import Trainer, make_batches
from stn.batches import Augmentation, Batches
from stn.distortions import make_distortion
from stn.training import NotFiniteError, choose_precision, predict

RESULTS = FOLDER / "results"
# The code that a result depends on.
CODE = (
    "stn", "pipelines/networks", "pipelines/training/trainer.py", "experiments/paper/train.py",
    "experiments/paper/networks.py", "experiments/paper/addition.py",
)  # fmt: skip


def train(task: str, network: str, seed: int, params: Params) -> dict[str, Any]:
    """Train a network and evaluate it on the test images, going on where a kill left it; returns the result.

    Raises:
        UserError: there are no prepared data.
        ExternalError: the loss became infinite or NaN.
    """
    settings = params.train_of(task)
    recipe = settings.model_dump()
    meta, training, validation, test = load_data(task, recipe)
    variant = paper_network(network, meta["image_shape"], len(meta["classes"]), settings)
    precision, _ = choose_precision(settings.precision, default_device())
    fit = Trainer(recipe, variant.model_dump(), meta, training, validation, seed, precision)
    key = key_of(task, network, seed, recipe, meta["digest"], digest_code(*CODE))
    checkpoint = state_dir("paper") / f"{task}-{network}-{seed}-{key}.pt"
    with locked(f"paper-{checkpoint.stem}"):  # make clean-all leaves it alone
        _run(fit, checkpoint, f"{task} {network} seed {seed}")
    logits, labels, _ = predict(fit.network, test.ordered(1000))
    last = fit.history[-1]
    result = {
        "task": task, "network": network, "seed": seed,
        "test_error": 100 * (logits.argmax(1) != labels).double().mean().item(),
        "validation_error": 100 * (1 - last["validation_accuracy"]),
        "parameters": count_parameters(variant, meta["image_shape"], len(meta["classes"])),
        "train_images": len(training), "test_images": len(test), "epochs": fit.epochs,
        "seconds": round(sum(entry["epoch_seconds"] for entry in fit.history), 1),
        "device": torch.cuda.get_device_name() if default_device().type == "cuda" else "CPU",
        "precision": str(precision).removeprefix("torch."),
    }  # fmt: skip
    write_json(RESULTS / task / network / f"{seed}.json", result)
    checkpoint.unlink(missing_ok=True)  # a second one of the same waited and is done as well
    return result


def _run(fit: Trainer, checkpoint: Path, title: str) -> None:
    """Train to the end, from ``checkpoint`` where there is one; it is written after each epoch.

    Raises:
        ExternalError: the loss became infinite or NaN.
    """
    if checkpoint.exists():
        fit.load_state_dict(torch.load(checkpoint, map_location=default_device(), weights_only=True))
    with progress(title, fit.epochs) as reporter:
        reporter.update(fit.done)
        while fit.done < fit.epochs:
            done = fit.done
            try:
                entry = fit.epoch(lambda step, done=done: reporter.update(done + step / fit.steps))
            except NotFiniteError as error:
                raise ExternalError(f"{title}: {error}; a smaller train.lr may help") from None
            save(fit, checkpoint)
            reporter.update(fit.done, f"validation {entry['validation_accuracy']:.4f}")


def load_data(task: str, recipe: dict[str, Any]) -> tuple[dict, Batches, Batches, Batches]:
    """What meta.json says of the data, and the training, validation and test images of a task.

    Raises:
        UserError: they have not been prepared.
    """
    folder = FOLDER / "data" / ("RTS" if task == ADDITION else task)
    meta = load_meta(folder)
    if task != ADDITION:
        training, validation = make_batches(load_arrays(folder=folder), meta, recipe, default_device())
        return meta, training, validation, batches(load_split("test", folder), meta)
    augmentation = Augmentation(distortion=make_distortion(**meta["distortion"]))
    training = Sums(*load_split("train", folder), meta["mean"], meta["std"], default_device(), augmentation)
    height, width = meta["image_shape"][1:]
    meta |= {"image_shape": [2, height, width], "mean": meta["mean"] * 2, "std": meta["std"] * 2, "classes": SUMS}
    validation, test = (batches(pair(load_split(name, folder), seed), meta) for seed, name in enumerate(HELD_OUT))
    return meta, training, validation, test


HELD_OUT = ("validation", "test")


def batches(split: Labeled, meta: dict) -> Batches:
    return Batches(split.images, split.labels, meta["mean"], meta["std"], default_device())


def save(fit: Trainer, path: Path) -> None:
    """Written beside ``path`` and moved into place, so that a kill leaves no half of it."""
    beside = path.with_suffix(".part")
    torch.save(fit.state_dict(), beside)
    beside.replace(path)


def main() -> None:
    params = load_params()
    parser = argparse.ArgumentParser(prog="python -m experiments.paper.train", description="Train one network.")
    parser.add_argument("task", choices=[*params.distortions, ADDITION])
    parser.add_argument("network", choices=[*dict.fromkeys([*params.networks, *params.addition])])
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    started = time.perf_counter()
    result = train(arguments.task, arguments.network, arguments.seed, params)
    print(
        f"{result['task']} {result['network']} seed {result['seed']}: test error {result['test_error']:.2f} %, "
        f"{result['parameters']:,} parameters, {time.perf_counter() - started:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    run(main)
