"""The state of a seed as stored in its checkpoints: its result, or the training in progress."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from pyarrow.fs import FileSystem

from pipelines.outputs.trained_models import FinishedSeed, ThetaHistory
from pipelines.training.checkpoints import state_files
from pipelines.training.precision import Precision
from pipelines.training.trainer import Trainer


@dataclass(frozen=True)
class SeedState:
    """Everything that a checkpoint of a seed stores.

    Args:
        seed: the training seed.
        precision: the precision of all seeds.
        trainer: the :meth:`~pipelines.training.trainer.Trainer.state_dict`; None after the last epoch.
        finished: the result after the last epoch, else None.
    """

    seed: int
    precision: Precision
    trainer: dict[str, Any] | None = None
    finished: FinishedSeed | None = None

    @property
    def epochs_done(self) -> int:
        """The number of finished epochs."""
        if self.finished is not None:
            return len(self.finished.history)
        return 0 if self.trainer is None else self.trainer["epoch"]

    @classmethod
    def of(cls, trainer: Trainer, precision: Precision) -> "SeedState":
        """The state of a trainer, which is its result after the last epoch."""
        if trainer.done < trainer.epochs:
            return cls(trainer.seed, precision, trainer=trainer.state_dict())
        thetas = trainer.theta_history
        theta_history = ThetaHistory(trainer.watched, torch.stack(thetas)) if thetas else None
        return cls(trainer.seed, precision, finished=FinishedSeed(trainer.weights(), trainer.history, theta_history))

    def to_plain(self) -> dict[str, Any]:
        """Convert to tensors and built-in types, which ``torch.load`` accepts with ``weights_only``."""
        return {
            "seed": self.seed,
            "precision": tuple(self.precision),
            "trainer": self.trainer,
            "finished": None if self.finished is None else _plain_result(self.finished),
        }

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "SeedState":
        """Convert the value of :meth:`to_plain` back."""
        finished = None if values["finished"] is None else _result(values["finished"])
        return cls(values["seed"], Precision(*values["precision"]), values["trainer"], finished)


def _plain_result(done: FinishedSeed) -> dict[str, Any]:
    theta_history = None if done.theta_history is None else done.theta_history._asdict()
    return {"weights": dict(done.weights), "history": done.history, "theta_history": theta_history}


def _result(done: dict[str, Any]) -> FinishedSeed:
    theta_history = None if done["theta_history"] is None else ThetaHistory(**done["theta_history"])
    return FinishedSeed(done["weights"], done["history"], theta_history)


def serialize(state: SeedState) -> bytes:
    """The content of a checkpoint file."""
    buffer = BytesIO()  # torch.save to a file aborts the whole process when the disk is full
    torch.save(state.to_plain(), buffer)
    return buffer.getvalue()


def load_states(storage: str) -> tuple[dict[int, SeedState], list[str]]:
    """Load the latest state of each seed from all checkpoints under ``storage`` (a path or URI).

    Returns:
        The states by seed, without seeds that have no readable checkpoint; one line for each unreadable checkpoint.

    Raises:
        ExternalError: ``storage`` cannot be read.
    """
    filesystem, _ = FileSystem.from_uri(storage)
    latest: dict[int, SeedState] = {}
    notes = []
    for info in state_files(storage):
        try:
            with filesystem.open_input_file(info.path) as file:
                state = SeedState.from_plain(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:  # a half-written archive raises many kinds of errors
            notes.append(f"{info.path}: unreadable checkpoint skipped ({type(error).__name__})")
            continue
        if state.seed not in latest or state.epochs_done > latest[state.seed].epochs_done:
            latest[state.seed] = state
    return latest, notes
