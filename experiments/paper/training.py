"""Train one of the paper's networks and measure its test error."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from experiments.paper.addition import SUMS, Sums, make_pairs
from experiments.paper.networks import paper_network
from experiments.paper.result_files import Result, write_result
from experiments.paper.settings import ADDITION, FOLDER, Params, Schedule, TrainParams
from pipelines.outputs.prepared_data import DatasetMeta, Labeled, load_meta, load_split
from pipelines.runtime.errors import ExternalError
from pipelines.runtime.home import state_dir
from pipelines.runtime.keys import digest_code, key_of
from pipelines.runtime.locks import hold_lock
from pipelines.runtime.progress import progress
from pipelines.training.recipe import recipe_of
from pipelines.training.trainer import Trainer, TrainingData
from stn.augmentation import Augmentation
from stn.batches import Batches
from stn.precision import choose_precision
from stn.training import NotFiniteError, default_device, predict

# The code that a checkpoint depends on.
CODE = (
    "stn", "pipelines/networks", "pipelines/outputs/prepared_data.py", "pipelines/training/recipe.py",
    "pipelines/training/trainer.py", "pipelines/training/ranks.py", "experiments/paper/training.py",
    "experiments/paper/networks.py", "experiments/paper/addition.py",
)  # fmt: skip


class TaskData(NamedTuple):
    """The images of a task, on the device, and their description."""

    meta: DatasetMeta
    training: TrainingData
    test: Batches


def train(task: str, network: str, seed: int, params: Params, schedule: Schedule = "short") -> Result:
    """Train a network, evaluate it on the test images and write the result.

    ``long`` is the paper's own schedule, the section ``long`` of params.yaml.

    A training that was killed continues after its last epoch.

    Raises:
        UserError: the task's data have not been prepared.
        ExternalError: the loss became infinite or NaN.
    """
    settings, device = params.train_of(task, schedule), default_device()
    precision, _ = choose_precision(settings.precision, device)
    trainer, data = make_trainer(task, network, seed, settings, precision)
    key = key_of(task, network, seed, settings.model_dump(), data.meta.digest, digest_code(*CODE))
    checkpoint = state_dir("paper") / f"{task}-{network}-{seed}-{key}.pt"
    with hold_lock(f"paper-{checkpoint.stem}"):  # make clean-all does not delete a checkpoint that is locked
        _train_to_end(trainer, checkpoint, f"{task} {network} seed {seed}")
    result = Result(
        task=task,
        network=network,
        seed=seed,
        test_error=measure_test_error(trainer, data),
        validation_error=100 * (1 - trainer.history[-1]["validation_accuracy"]),
        parameters=sum(parameter.numel() for parameter in trainer.network.parameters()),
        train_images=len(data.training.training),
        test_images=len(data.test),
        epochs=trainer.epochs,
        seconds=round(sum(entry["epoch_seconds"] for entry in trainer.history), 1),
        device=torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        precision=str(precision).removeprefix("torch."),
        schedule=schedule,
    )
    write_result(result)
    checkpoint.unlink(missing_ok=True)  # another process with the same arguments may have deleted it already
    return result


def make_trainer(
    task: str, network: str, seed: int, settings: TrainParams, precision: torch.dtype
) -> tuple[Trainer, TaskData]:
    """Make what trains one of the networks, and load its data.

    Raises:
        UserError: the task's data have not been prepared.
    """
    data = load_data(task, settings)
    variant = paper_network(network, data.meta.image_shape, len(data.meta.classes), settings)
    make_network = data.meta.network_builder(variant, settings.dropout)
    recipe = recipe_of(settings, variant)
    return Trainer(make_network, recipe, data.training, seed, precision=precision), data


def measure_test_error(trainer: Trainer, data: TaskData) -> float:
    """The share of the test images that the trained network classifies wrongly, in percent."""
    logits, labels, _ = predict(trainer.result, data.test.ordered(1000))
    return 100 * (logits.argmax(1) != labels).double().mean().item()


def _train_to_end(trainer: Trainer, checkpoint: Path, title: str) -> None:
    """Train all remaining epochs, starting from ``checkpoint`` if it exists, and save it after each epoch.

    Raises:
        ExternalError: the loss became infinite or NaN.
    """
    if checkpoint.exists():
        trainer.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    with progress(title, trainer.epochs) as reporter:
        reporter.update(trainer.done)
        while trainer.done < trainer.epochs:
            done = trainer.done
            try:
                metrics = trainer.train_epoch(lambda step, done=done: reporter.update(done + step / trainer.steps))
            except NotFiniteError as error:
                raise ExternalError(f"{title}: {error}; a smaller train.lr may help") from None
            _save(trainer, checkpoint)
            reporter.update(trainer.done, f"validation {metrics['validation_accuracy']:.4f}")


def _save(trainer: Trainer, checkpoint: Path) -> None:
    """Replace a checkpoint atomically, so that a kill leaves the previous one."""
    # The same stem as the checkpoint's: by it, make clean-all finds the lock.
    beside = checkpoint.with_suffix(".part")
    torch.save(trainer.state_dict(), beside)
    beside.replace(checkpoint)


def load_data(task: str, settings: TrainParams) -> TaskData:
    """Load the training, validation and test images of a task.

    Raises:
        UserError: they have not been prepared.
    """
    if task == ADDITION:
        return _load_addition(settings)
    folder, device = FOLDER / "data" / task, default_device()
    meta = load_meta(folder)
    training, validation = (load_split(name, folder) for name in ("train", "validation"))
    augmentation = Augmentation(
        settings.flip, settings.shift, meta.make_distortion(), settings.crop, color_jitter=settings.color_jitter,
        mixup=settings.mixup, vertical_flip=settings.vertical_flip, distortion_ramp=settings.distortion_ramp,
    )  # fmt: skip
    batches = TrainingData(meta.batches(training, device, augmentation), meta.batches(validation, device))
    return TaskData(meta, batches, meta.batches(load_test(task), device))


def _load_addition(settings: TrainParams) -> TaskData:
    """The images of the addition: training images are paired again in each epoch, the others once."""
    folder, device = FOLDER / "data" / "RTS", default_device()
    single = load_meta(folder)
    training = load_split("train", folder)
    augmentation = Augmentation(distortion=single.make_distortion(), distortion_ramp=settings.distortion_ramp)
    sums = Sums(training.images, training.labels, single.normalization, device, augmentation)
    _, height, width = single.image_shape
    meta = replace(single, image_shape=(2, height, width), mean=[*single.mean] * 2, std=[*single.std] * 2, classes=SUMS)
    validation = meta.batches(make_pairs(load_split("validation", folder), seed=0), device)
    return TaskData(meta, TrainingData(sums, validation), meta.batches(load_test(ADDITION), device))


def load_test(task: str) -> Labeled:
    """The test images of a task; those of the addition are pairs of the test images of RTS.

    Raises:
        UserError: they have not been prepared.
    """
    if task == ADDITION:
        return make_pairs(load_test("RTS"), seed=1)
    return load_split("test", FOLDER / "data" / task)
