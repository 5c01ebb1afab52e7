"""The folders of state/training, one for each training."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.training.checkpoints import Checkpoint, checkpoints, storage_of


@dataclass(frozen=True)
class Training:
    """The folder ``state/training/<variant>-<key>`` of one training, whose key is its :func:`training_key`."""

    path: Path

    @property
    def variant(self) -> str:
        return self.path.name.rpartition("-")[0]

    @property
    def lock(self) -> str:
        """Name of the lock that the driver holds while it trains."""
        return f"train-{self.path.name.rpartition('-')[2]}"

    @property
    def is_finished(self) -> bool:
        return (self.path / "result").exists()

    @property
    def digest(self) -> str:
        """MD5 of a finished training's metrics file, as DVC records it. The measured speed makes it unique."""
        metrics = (self.path / "result" / "metrics.json").read_bytes()
        return hashlib.md5(metrics, usedforsecurity=False).hexdigest()

    @property
    def storage(self) -> str:
        """Folder of its checkpoints, an absolute path or a URI."""
        return storage_of(self.path.name)

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """Its checkpoints, newest first."""
        return checkpoints(self.storage)

    @property
    def time(self) -> float:
        """When something was last written, in seconds since the Unix epoch."""
        times = []
        for path in (self.path, *self.path.iterdir()):
            with suppress(FileNotFoundError):  # a running training may have deleted it
                times.append(path.stat().st_mtime)
        return max(times + [checkpoint.time for checkpoint in self.checkpoints])
