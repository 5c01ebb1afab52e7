"""The actor of scoring: it holds the model, and reads, decodes and classifies batches of items."""

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from pipelines.serving.loaded_version import Identity, load_fetched
from pipelines.serving.score_results import SCHEMA, pack
from pipelines.serving.score_sources import Content, read_item

BATCH = 64  # files that are held, and images that the model classifies at once
READERS = 8  # threads that wait for files most of the time


class Scorer:
    """Scores items, on a GPU if the actor has one.

    Args:
        files: reference to the files of the version, relative path → content.
        identity: which version it is.
        threads: threads of the model, and of decoding.
    """

    def __init__(self, files: Any, identity: Identity, threads: int):
        torch.set_num_threads(threads)
        self.identity = identity
        with tempfile.TemporaryDirectory() as folder:
            contents: Any = ray.get(files)
            for name, content in contents.items():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_bytes(content)
            self.version = load_fetched(Path(folder), identity)
        self.readers, self.decoders = ThreadPoolExecutor(READERS), ThreadPoolExecutor(threads)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """Score the items of a batch: the table of :meth:`score`, packed."""
        return pack(self.score([str(item) for item in batch["item"]]))

    def score(self, items: Sequence[str]) -> pa.Table:
        """Score items: a table with :data:`~pipelines.serving.score_results.SCHEMA`."""
        rows = []
        for first in range(0, len(items), BATCH):
            part = items[first : first + BATCH]
            read = self.readers.map(lambda item: list(read_item(item)), part)
            contents = [(item, content) for item, of_item in zip(part, read, strict=True) for content in of_item]
            for start in range(0, len(contents), BATCH):
                rows += self._score(contents[start : start + BATCH])
        return pa.Table.from_pylist(rows, SCHEMA)

    def _score(self, contents: Sequence[tuple[str, Content]]) -> list[dict]:
        """Return a row for each image; that of a broken one has a reason and no class."""
        rows: list[dict] = [{"item": item, "path": content.path} for item, content in contents]
        decoded = list(self.decoders.map(self._decode, (content for _, content in contents)))
        good = [i for i, pixels in enumerate(decoded) if isinstance(pixels, np.ndarray)]
        for row, pixels in zip(rows, decoded, strict=True):
            if isinstance(pixels, str):
                row["reason"] = pixels
        if good:
            outputs = self.version.predict(np.stack([decoded[i] for i in good]))
            classes = self.version.metadata.classes
            name, number, digest, _ = self.identity
            for i, probabilities, k in zip(good, outputs.probabilities, range(len(good)), strict=True):
                rows[i] |= {"class": classes[int(probabilities.argmax())], "probabilities": probabilities.tolist()}
                rows[i] |= {"model": name, "version": number, "digest": digest}
                if outputs.theta is not None:
                    theta = outputs.theta[k]
                    rows[i]["theta"] = theta.reshape(-1, theta.shape[-1]).tolist()  # the rows of several heads
        return rows

    def _decode(self, content: Content) -> np.ndarray | str:
        """Return the model's input, or the reason why there is none."""
        if content.reason:
            return content.reason
        try:
            return self.version.decode(content.content)
        except ValueError as error:
            return str(error)
