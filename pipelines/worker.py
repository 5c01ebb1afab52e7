"""What runs in each Ray worker: all training seeds of one variant, one after another, with a checkpoint every epoch.

A checkpoint holds everything: finished seeds with their weights and history, and the network, optimizer and
schedule of the seed at work. Random numbers are drawn anew from (seed, epoch, rank) at each epoch's start, so a run
that was killed and started again goes the same way as one that was not.
"""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from ray.train.torch import get_device
from torch.nn.parallel import DistributedDataParallel

from stn.batches import Augmentation, Batches, mix
from stn.classifiers import build_network
from stn.distortions import Distortion
from stn.training import (
    NotFiniteError,
    check_finite,
    choose_precision,
    make_optimizer,
    metric_sums,
    one_cycle,
    predict,
    train_epoch,
)

STATE_FILE = "state.pt"
SAY_EVERY_S = 1.0


def train_worker(config: dict[str, Any]) -> None:
    """The training function given to Ray Train; ``config`` is made by :func:`pipelines.train.worker_config`."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config["threads"])
    device = get_device()
    precision, reason = choose_precision(config["train"]["precision"], device)

    arrays: dict = ray.get(config["data"])  # pyright: ignore[reportAssignmentType]
    data = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    meta = config["meta"]
    training, validation = (
        Batches(data[f"{split}_images"], data[f"{split}_labels"], meta["mean"], meta["std"], device, augmentation)
        for split, augmentation in (("train", augmentation_of(config)), ("validation", Augmentation()))
    )
    del data, arrays  # the batches hold their own
    state, notes = load_state(config["storage"]) if rank == 0 else (None, [])
    state = broadcast(state)
    state = state or {"finished": {}, "current": None}
    if rank == 0:
        resumed = sum(len(done["history"]) for done in state["finished"].values())
        resumed += state["current"]["epoch"] if state["current"] else 0
        start = {"kind": "start", "time": time.time(), "device": str(device), "resumed": resumed, "notes": notes}
        start |= {"precision": str(precision).removeprefix("torch."), "reason": reason}
        config["mailbox"].put.remote(start)
    for seed in config["seeds"]:
        if seed not in state["finished"]:
            try:
                _train_seed(config, seed, state, training, validation, precision, rank, world_size)
            except NotFiniteError as error:
                # Every rank sees the same losses and gets here. Returning keeps Ray from trying the same again.
                if rank == 0:
                    ray.get(config["mailbox"].put.remote({"kind": "not finite", "seed": seed, "error": str(error)}))
                return


def _train_seed(config, seed, state, training, validation, precision, rank, world_size) -> None:
    """Train one seed from where ``state`` stands to its end; ``state`` then holds it among the finished."""
    settings, mailbox = config["train"], config["mailbox"]
    epochs, batch_size = settings["epochs"], settings["batch_size"]
    torch.manual_seed(seed)
    shape, classes = config["meta"]["image_shape"], len(config["meta"]["classes"])
    network = build_network(shape, classes, config["variant"]["transformer"], settings["dropout"])
    network.to(training.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(
        network, settings["lr"], settings["momentum"], settings["weight_decay"], config["variant"]["localization_lr"]
    )
    steps = len(training) // batch_size
    scheduler = one_cycle(optimizer, steps * epochs, settings["warmup"])
    history, first = [], 0
    if state["current"] is not None:
        current = state["current"]
        assert current["seed"] == seed, (current["seed"], seed)
        network.load_state_dict(current["network"])
        optimizer.load_state_dict(current["optimizer"])
        scheduler.load_state_dict(current["scheduler"])
        history, first = current["history"], current["epoch"]
    model = network if world_size == 1 else DistributedDataParallel(network)
    if rank == 0:
        mailbox.put.remote({"kind": "seed", "seed": seed})

    for epoch in range(first, epochs):
        torch.manual_seed(mix(seed, epoch, rank))
        say, started = _teller(mailbox, seed, epoch, steps, batch_size, rank), time.perf_counter()
        batches = training.shuffled(batch_size, seed, epoch, rank, world_size)
        losses = train_epoch(
            model, batches, batch_size, optimizer, scheduler, precision, world_size, settings["max_grad_norm"], say
        )
        losses = all_reduce(losses) / world_size
        check_finite(losses)
        seconds = time.perf_counter() - started
        outputs = predict(network, validation.ordered(1000, rank, world_size), precision)
        sums = metric_sums(network, validation, outputs)
        total = dict(zip(sums, all_reduce(torch.stack(list(sums.values()))).tolist(), strict=True))
        if not math.isfinite(total["loss"]):  # the last step's weights, which no training loss has seen yet
            raise NotFiniteError(f"the validation loss became {total['loss']} after epoch {epoch + 1}")
        history.append(
            {
                "epoch": epoch + 1,
                "timestamp": int(time.time() * 1000),
                "train_loss": losses.mean().item(),
                "lr": scheduler.get_last_lr()[0],
                "images_per_second": steps * batch_size / seconds,
                "epoch_seconds": seconds,
            }
            | {
                name if name.startswith("theta_") else f"validation_{name}": value / total["count"]
                for name, value in total.items()
                if name != "count"
            }
        )
        if epoch + 1 == epochs:
            weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
            state["finished"][seed] = {"weights": weights, "history": history}
            state["current"] = None
        else:
            state["current"] = {
                "seed": seed, "epoch": epoch + 1, "history": history, "network": network.state_dict(),
                "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
            }  # fmt: skip
        _report(state, rank)
        if rank == 0:
            mailbox.put.remote({"kind": "epoch", "time": time.time(), "seed": seed, "entry": history[-1]})


def augmentation_of(config: dict[str, Any]) -> Augmentation:
    """The library's form of the recipe's augmentation and of the data's distortion."""
    return Augmentation(config["train"]["flip"], config["train"]["shift"], Distortion(**config["meta"]["distortion"]))


def load_state(storage: str) -> tuple[dict | None, list[str]]:
    """The furthest state among all checkpoints under ``storage`` (a path or URI), and notes on those left aside.

    Ray's own record of the last checkpoint is not asked: a process killed while that is written leaves half a file.
    """
    filesystem, root = pyarrow.fs.FileSystem.from_uri(storage)
    selector = pyarrow.fs.FileSelector(root, allow_not_found=True, recursive=True)
    best, notes = None, []
    for info in filesystem.get_file_info(selector):
        if info.base_name != STATE_FILE:
            continue
        try:
            with filesystem.open_input_file(info.path) as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a half-written archive makes the reader raise
            notes.append(f"{info.path}: unreadable checkpoint left aside ({type(error).__name__})")
            continue
        if best is None or _advance(state) > _advance(best):
            best = state
    return best, notes


def _advance(state: dict) -> tuple[int, int]:
    return len(state["finished"]), state["current"]["epoch"] if state["current"] else 0


def _report(state: dict, rank: int) -> None:
    if rank != 0:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / STATE_FILE)
        # Returns once the folder is in the storage.
        ray.train.report({}, checkpoint=Checkpoint.from_directory(folder))


def broadcast(value):
    """Rank 0's ``value``, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_reduce(values: torch.Tensor) -> torch.Tensor:
    """The sum of ``values`` over the ranks."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def _teller(mailbox, seed: int, epoch: int, steps: int, batch_size: int, rank: int):
    """A callback for :func:`train_epoch` that tells the driver about once a second how far this epoch is."""
    if rank != 0:
        return None
    started = said = time.monotonic()

    def say(step: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= SAY_EVERY_S:
            said = now
            rate = step * batch_size / (now - started)
            mailbox.put.remote({"kind": "step", "seed": seed, "done": epoch + step / steps, "rate": rate})

    return say
