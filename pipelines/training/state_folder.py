"""The folders of state/training, one for each training."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.training.checkpoints import Checkpoint, checkpoints, storage_of


@dataclass(frozen=True)
class Training:
    """A folder of state/training: one training of a variant with certain settings, data and code."""

    path: Path

    @property
    def variant(self) -> str:
        return self.path.name.rpartition("-")[0]

    @property
    def lock(self) -> str:
        return f"train-{self.path.name.rpartition('-')[2]}"

    @property
    def is_finished(self) -> bool:
        return (self.path / "result").exists()

    @property
    def digest(self) -> str:
        """That by which DVC knows the metrics of a finished training, speed included: no other has it."""
        metrics = (self.path / "result" / "metrics.json").read_bytes()
        return hashlib.md5(metrics, usedforsecurity=False).hexdigest()

    @property
    def storage(self) -> str:
        return storage_of(self.path.name)

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The newest first."""
        return checkpoints(self.storage)

    @property
    def time(self) -> float:
        """When something was last written, in seconds."""
        files = [path.stat().st_mtime for path in (self.path, *self.path.iterdir())]
        return max(files + [checkpoint.time for checkpoint in self.checkpoints])
