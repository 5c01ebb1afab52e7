"""clean: delete what the stages wrote, and the state of trainings beyond what the section ``clean`` keeps.

Everything is listed before it is deleted. Checkpoints under CHECKPOINT_STORAGE are included if they belong to trainings
of this folder. Never deleted: the tracking database and its artifacts, studies, raw data, and DVC's cache, from which
``dvc checkout`` restores the outputs of the stages.

    python -m pipelines.commands.clean --dry-run     list only
    python -m pipelines.commands.clean --all         also the state of every training, the copies of reports, and .venv
"""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.runtime.errors import ExternalError, run_main
from pipelines.runtime.home import home
from pipelines.runtime.locks import hold_lock
from pipelines.settings.params import CleanParams, Params, load_params

if TYPE_CHECKING:
    from pipelines.training.checkpoints import Checkpoint
    from pipelines.training.state_folder import Training

# Outputs of the stages, including temporary ones that a kill left behind, and caches of tools.
OUTPUTS = (
    "data/prepared", "data/.prepared", "data/.prepared-before", "models", "metrics", "plots", "reports",
    "registered.json", "variants/tuned.yaml", "variants/.tuned.yaml", "experiments/paper/data",
    "experiments/paper/code",
)  # fmt: skip
CACHES = (".pytest_cache", ".ruff_cache", ".hypothesis", "stn_pipelines.egg-info", "dvc_plots")
CODE = ("stn", "pipelines", "own_networks", "benchmarks", "experiments", "tests", "tools")


class Item(NamedTuple):
    """A file or folder to delete.

    Args:
        path: local path, or as a string the URI of a folder of checkpoints in CHECKPOINT_STORAGE.
        reason: shown to the user.
        lock: name of the lock that a process holds while it uses the item.
    """

    path: Path | str
    reason: str = ""
    lock: str = ""


def find_items(params: Params, everything: bool = False) -> list[Item]:
    """List what exists and is to be deleted; ``everything`` is the option ``--all``."""
    from pipelines.training.state_folder import Training

    items = [Item(Path(name), _describe_unlisted_models(params) if name == "models" else "") for name in OUTPUTS]
    items += [Item(Path(name)) for name in CACHES]
    items += [Item(cache) for folder in CODE for cache in sorted(Path(folder).rglob("__pycache__"))]
    trainings = [Training(path) for path in sorted(home().glob("state/training/*")) if path.is_dir()]
    if everything:
        items += [item for training in trainings for item in _items_of_training(training)]
        # A training of the paper or a reproduction deletes its state when it ends, so these are running or were killed.
        killed = [*sorted(home().glob("state/paper/*")), *sorted(home().glob("state/reproduce/*"))]
        items += [Item(path, "of a process that was killed", f"{path.parent.name}-{path.stem}") for path in killed]
        items += [Item(home() / "state/reports", "copies; MLflow has the originals"), Item(Path(".venv"))]
    else:
        items += _surplus_items(trainings, params.clean)
    return [item for item in items if _exists(item.path)]


def _items_of_training(training: "Training", reason: str = "") -> list[Item]:
    """List the folder of a training, and its checkpoints if they are stored elsewhere."""
    storage = training.storage
    items = [Item(training.path, reason, training.lock)]
    if not Path(storage).is_relative_to(training.path):
        items.append(Item(_local_path(storage), reason, training.lock))
    return items


def _surplus_items(trainings: Sequence["Training"], keep: CleanParams) -> list[Item]:
    """List the trainings and checkpoints beyond what the section ``clean`` of params.yaml keeps."""
    recorded, items = _read_run_cache(), []
    newest_first = sorted(trainings, key=lambda training: training.time, reverse=True)
    for variant in sorted({training.variant for training in trainings}):
        latest, *earlier = of_variant = [training for training in newest_first if training.variant == variant]
        # A finished training that DVC has not recorded, because it was killed, is used by the next start.
        finished = [training for training in of_variant if training.is_finished and training.digest in recorded]
        for training in finished[keep.experiments :]:
            items += _items_of_training(training, "finished, and recorded by DVC")
        superseded = [training for training in earlier if not training.is_finished]
        for training in superseded[keep.superseded :]:
            items += _items_of_training(training, "unfinished; a later training was started")
        for training in [latest, *superseded[: keep.superseded]]:
            items += [
                Item(_local_path(folder), "not among the newest checkpoints", training.lock)
                for folder in _surplus_checkpoints(training.checkpoints, keep.checkpoints)
            ]
    return items


def _surplus_checkpoints(newest_first: Sequence["Checkpoint"], keep: int) -> list[str]:
    """The folders of checkpoints that are broken, or not among the ``keep`` newest of their seed."""
    kept, surplus = Counter(), []
    for checkpoint in newest_first:
        if checkpoint.is_whole and kept[checkpoint.seed_folder] < keep:
            kept[checkpoint.seed_folder] += 1
        else:
            surplus.append(checkpoint.folder)
    return sorted(surplus)


def _read_run_cache() -> str:
    """Return the text of DVC's run cache, which records the outputs of every stage that ran here."""
    files = home().glob(".dvc/cache/runs/*/*/*")
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


def _describe_unlisted_models(params: Params) -> str:
    """Name the models of variants that are not in params.yaml; stages that depend on models/ depend on them too."""
    unlisted = sorted(path.name for path in Path("models").glob("*/") if path.name not in params.variants)
    return f"with {', '.join(unlisted)}, no longer in params.yaml" if unlisted else ""


def delete_items(items: Sequence[Item]) -> int:
    """Delete the items that no process uses, and return the number of bytes freed.

    Raises:
        ExternalError: an item cannot be removed. The items before it are deleted.
    """
    freed = 0
    for item in items:
        size = size_of(item.path)
        try:
            if item.lock:
                with hold_lock(item.lock, wait=False):
                    _remove(item.path)
            else:
                _remove(item.path)
        except ExternalError as error:
            print(f"{_relative(item.path)} stays: {error}")
            continue
        except OSError as error:
            raise ExternalError(f"{item.path}: cannot be removed: {error.strerror}") from None
        freed += size
    return freed


def size_of(path: Path | str) -> int:
    """Return the bytes of a file, or of all files in a folder. Links are not followed."""
    if isinstance(path, str):
        from pipelines.training import checkpoints

        return checkpoints.size_of(path)
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def _exists(path: Path | str) -> bool:
    return size_of(path) > 0 if isinstance(path, str) else path.is_symlink() or path.exists()


def _remove(path: Path | str) -> None:
    if isinstance(path, str):
        from pipelines.training import checkpoints

        checkpoints.remove(path)
    elif path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)


def _local_path(folder: str) -> Path | str:
    """Return a local folder as a Path, and a URI unchanged."""
    return Path(folder) if folder.startswith("/") else folder


def _relative(path: Path | str) -> Path | str:
    """Return a path relative to the current folder if it is below it, and a URI unchanged."""
    return path.relative_to(Path.cwd()) if isinstance(path, Path) and path.is_relative_to(Path.cwd()) else path


def _megabytes(size: int) -> str:
    return f"{size / 1e6:8.1f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.clean", description="Delete files that can be recreated."
    )
    parser.add_argument(
        "--all", action="store_true", help="also delete the state of every training, the copies of reports, and .venv"
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would be deleted, and delete nothing")
    arguments = parser.parse_args()
    items = find_items(load_params(), arguments.all)
    caches = [item for item in items if isinstance(item.path, Path) and item.path.name == "__pycache__"]
    for item in items:
        if item not in caches:
            note = f"  ({item.reason})" if item.reason else ""
            print(f"{_megabytes(size_of(item.path))}  {_relative(item.path)}{note}")
    if caches:
        print(f"{_megabytes(sum(size_of(item.path) for item in caches))}  {len(caches)} × __pycache__")
    total = sum(size_of(item.path) for item in items)
    if arguments.dry_run or not items:
        print(f"{_megabytes(total)}  would be freed" if items else "nothing to free")
        return
    print(f"{_megabytes(total)}  will be freed", flush=True)
    freed = delete_items(items)
    print(f"{_megabytes(freed)}  freed")


if __name__ == "__main__":
    run_main(main)
