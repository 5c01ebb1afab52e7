"""How the workers of a Ray cluster reach the prepared images.

On one machine each worker maps the prepared files, so that all share their pages. To other hosts, small data go through
Ray's object store. Large ones are read from the folder, which all hosts must then reach.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch

from pipelines.outputs.prepared_data import PREPARED, Labeled, TrainingSplits, load_meta, load_training
from pipelines.runtime import environment
from pipelines.runtime.errors import UserError
from pipelines.training.cluster import run_on_other_hosts

SENT_AT_MOST = 2 * 2**30  # bytes; Ray's object store holds 30 % of a host's memory by default


class SharedData(NamedTuple):
    """What a worker needs to open the training and validation split.

    Args:
        folder: the prepared data, an absolute path.
        final_fit: the undistorted validation images are training images, too.
        arrays: a list with one reference to the arrays in Ray's object store. Ray passes a reference in a list as it
            is. Empty: the worker maps the files of ``folder``.
    """

    folder: str
    final_fit: bool
    arrays: list[Any]

    def open(self) -> TrainingSplits:
        """Map both splits, or take them from the object store without a copy."""
        if not self.arrays:
            return load_training(self.final_fit, Path(self.folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the arrays are read-only, and nothing writes to them
            *training, validation = (
                Labeled(*map(torch.from_numpy, arrays)) for arrays in ray.get(self.arrays[0])
            )  # fmt: skip
        return TrainingSplits(training, validation)


def share_data(final_fit: bool = False, folder: Path = PREPARED) -> SharedData:
    """Share the prepared data with all workers of the connected cluster.

    Raises:
        UserError: the data are too large for the object store, and another host cannot read the folder.
        ExternalError: a host does not answer.
    """
    path = str(folder.resolve())
    if environment.get("RAY_ADDRESS") is None:
        return SharedData(path, final_fit, [])
    splits = load_training(final_fit, folder)
    arrays = [tuple(tensor.numpy() for tensor in split) for split in (*splits.training, splits.validation)]
    if (size := sum(array.nbytes for split in arrays for array in split)) <= SENT_AT_MOST:
        return SharedData(path, final_fit, [ray.put(arrays)])
    digest = read_digest(path)
    if blind := [host for host, found in run_on_other_hosts(read_digest, path).items() if found != digest]:
        raise UserError(
            f"RAY_ADDRESS: the prepared data, {size / 2**30:.1f} GiB, are more than the "
            f"{SENT_AT_MOST / 2**30:.0f} GiB that are sent to the hosts, and host {blind[0]} does not have them at "
            f"{path}; run in a folder that all hosts reach at the same path"
        )
    return SharedData(path, final_fit, [])


def read_digest(folder: str) -> str:
    """The digest of the prepared data in a folder, as this host sees it; empty if it has none."""
    try:
        return load_meta(Path(folder)).digest
    except Exception:
        return ""
