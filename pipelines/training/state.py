"""The state of a training as stored in its checkpoints: finished seeds and the seed in progress."""

from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import torch
from pyarrow.fs import FileSystem

from pipelines.outputs.trained_models import FinishedSeed, ThetaHistory
from pipelines.training.checkpoints import state_files
from pipelines.training.precision import Precision
from pipelines.training.trainer import Trainer


@dataclass
class TrainingState:
    """Everything that a checkpoint stores.

    Args:
        finished: results of the finished seeds.
        seed: the seed in progress; None between two seeds.
        trainer: the :meth:`~pipelines.training.trainer.Trainer.state_dict` of that seed; None between two seeds.
        precision: the precision of all seeds; None before it is chosen.
    """

    finished: dict[int, FinishedSeed] = field(default_factory=dict)
    seed: int | None = None
    trainer: dict[str, Any] | None = None
    precision: Precision | None = None

    @property
    def epochs_done(self) -> int:
        """The number of finished epochs of all seeds."""
        return sum(len(done.history) for done in self.finished.values()) + self._epochs_in_progress

    @property
    def progress(self) -> tuple[int, int]:
        """Finished seeds and finished epochs of the seed in progress. Compares greater for a later state."""
        return len(self.finished), self._epochs_in_progress

    @property
    def _epochs_in_progress(self) -> int:
        return 0 if self.trainer is None else self.trainer["epoch"]

    def update(self, seed: int, trainer: Trainer) -> None:
        """Take over the state of the trainer of ``seed``, or its result after the last epoch."""
        if trainer.done < trainer.epochs:
            self.seed, self.trainer = seed, trainer.state_dict()
            return
        thetas = trainer.theta_history
        theta_history = ThetaHistory(trainer.watched, torch.stack(thetas)) if thetas else None
        self.finished[seed] = FinishedSeed(trainer.weights(), trainer.history, theta_history)
        self.seed = self.trainer = None

    def to_plain(self) -> dict[str, Any]:
        """Convert to tensors and built-in types, which ``torch.load`` accepts with ``weights_only``."""
        return {
            "finished": {seed: _plain_seed(done) for seed, done in self.finished.items()},
            "seed": self.seed,
            "trainer": self.trainer,
            "precision": None if self.precision is None else tuple(self.precision),
        }

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "TrainingState":
        """Convert the value of :meth:`to_plain` back."""
        finished = {seed: _finished_seed(done) for seed, done in values["finished"].items()}
        precision = None if values["precision"] is None else Precision(*values["precision"])
        return cls(finished, values["seed"], values["trainer"], precision)


def _plain_seed(done: FinishedSeed) -> dict[str, Any]:
    theta_history = None if done.theta_history is None else done.theta_history._asdict()
    return {"weights": dict(done.weights), "history": done.history, "theta_history": theta_history}


def _finished_seed(done: dict[str, Any]) -> FinishedSeed:
    theta_history = None if done["theta_history"] is None else ThetaHistory(**done["theta_history"])
    return FinishedSeed(done["weights"], done["history"], theta_history)


def serialize(state: TrainingState) -> bytes:
    """The content of a checkpoint file."""
    buffer = BytesIO()  # torch.save to a file aborts the whole process when the disk is full
    torch.save(state.to_plain(), buffer)
    return buffer.getvalue()


def load_state(storage: str) -> tuple[TrainingState | None, list[str]]:
    """Load the latest state of all checkpoints under ``storage`` (a path or URI).

    Returns:
        The state, or None if there is no readable checkpoint; one line for each unreadable checkpoint.

    Raises:
        ExternalError: ``storage`` cannot be read.
    """
    filesystem, _ = FileSystem.from_uri(storage)
    latest, notes = None, []
    for info in state_files(storage):
        try:
            with filesystem.open_input_file(info.path) as file:
                state = TrainingState.from_plain(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:  # a half-written archive raises many kinds of errors
            notes.append(f"{info.path}: unreadable checkpoint skipped ({type(error).__name__})")
            continue
        if latest is None or state.progress > latest.progress:
            latest = state
    return latest, notes
