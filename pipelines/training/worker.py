"""What runs in each Ray worker: all training seeds of one variant, one after another, with a checkpoint every epoch.

A checkpoint holds everything: finished seeds with their weights, history and course of θ, and the network, optimizer
and schedule of the seed at work. Random numbers are drawn anew from (seed, epoch, rank) at each epoch's start, so a run
that was killed and started again goes the same way as one that was not.
"""

import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from ray.train.torch import get_device

from pipelines.runtime.files import write_bytes
from pipelines.training.checkpoints import STATE_FILE, load_state
from pipelines.training.trainer import Trainer, make_batches
from stn.training import NotFiniteError, choose_precision

SAY_EVERY_S = 1.0


def train_worker(config: dict[str, Any]) -> None:
    """The training function of Ray Train; :func:`~pipelines.training.distributed.worker_config` makes ``config``."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config["threads"])
    device = get_device()
    precision, reason = choose_precision(config["train"]["precision"], device)

    training, validation = make_batches(ray.get(config["data"]), config["meta"], config["train"], device)
    state, notes = load_state(config["storage"]) if rank == 0 else (None, [])
    state = broadcast(state)
    state = state or {"finished": {}, "current": None}
    if rank == 0:
        resumed = sum(len(done["history"]) for done in state["finished"].values())
        resumed += state["current"]["epoch"] if state["current"] else 0
        start = {"kind": "start", "time": time.time(), "device": str(device), "resumed": resumed, "notes": notes}
        start |= {"precision": str(precision).removeprefix("torch."), "reason": reason, "workers": world_size}
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
    fit = Trainer(settings, config["variant"], config["meta"], training, validation, seed, precision, rank, world_size)
    if state["current"] is not None:
        assert state["current"]["seed"] == seed, (state["current"]["seed"], seed)
        fit.load_state_dict(state["current"])
    if rank == 0:
        mailbox.put.remote({"kind": "seed", "seed": seed})
    while fit.done < fit.epochs:
        say = _teller(mailbox, seed, fit.done, fit.steps, settings["batch_size"]) if rank == 0 else None
        entry = fit.epoch(say)
        if fit.done == fit.epochs:
            state["finished"][seed] = {
                "weights": fit.weights(), "history": fit.history, "watched": fit.watched, "course": fit.course,
            }  # fmt: skip
            state["current"] = None
        else:
            state["current"] = {"seed": seed} | fit.state_dict()
        _report(state, rank)
        if rank == 0:
            mailbox.put.remote({"kind": "epoch", "time": time.time(), "seed": seed, "entry": entry})


def _report(state: dict, rank: int) -> None:
    if rank != 0:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory() as folder:
        buffer = BytesIO()  # to a file, torch ends the whole process where a disk is full
        torch.save(state, buffer)
        write_bytes(Path(folder) / STATE_FILE, buffer.getvalue())
        # Returns once the folder is in the storage.
        ray.train.report({}, checkpoint=Checkpoint.from_directory(folder))


def broadcast(value):
    """Rank 0's ``value``, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _teller(mailbox, seed: int, epoch: int, steps: int, batch_size: int):
    """A callback for :meth:`Fit.epoch` that tells the driver about once a second how far this epoch is."""
    started = said = time.monotonic()

    def say(step: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= SAY_EVERY_S:
            said = now
            rate = step * batch_size / (now - started)
            mailbox.put.remote({"kind": "step", "seed": seed, "done": epoch + step / steps, "rate": rate})

    return say
