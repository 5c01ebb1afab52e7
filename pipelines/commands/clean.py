"""clean: free what the stages made, and of unfinished and recorded trainings what the section ``clean`` does not keep.

It says what it will free before it does, of checkpoints under CHECKPOINT_STORAGE, too, where they are of this folder's
trainings. Never touched: the tracking database and its artifacts, studies, raw data and DVC's cache, from which
``dvc checkout`` brings back what the stages made.

    python -m pipelines.commands.clean --dry-run     says it and frees nothing
    python -m pipelines.commands.clean --all         every training's state, the copies of reports and .venv, too
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from pipelines.runtime.errors import ExternalError, run
from pipelines.runtime.home import home
from pipelines.runtime.locks import locked
from pipelines.settings.params import CleanParams, Params, load_params
from pipelines.training import checkpoints
from pipelines.training.state_folder import Training

# What the stages make, halves that a kill left of it included, and caches of tools.
OUTPUTS = (
    "data/prepared", "data/.prepared", "data/.prepared-before", "models", "metrics", "plots", "reports",
    "registered.json", "variants/tuned.yaml", "variants/.tuned.yaml", "experiments/paper/data",
)  # fmt: skip
CACHES = (".pytest_cache", ".ruff_cache", ".hypothesis", "stn_pipelines.egg-info", "dvc_plots")
CODE = ("stn", "pipelines", "benchmarks", "experiments", "tests", "tools")


class Item(NamedTuple):
    """Something to free: where it lies, why, and the lock that whoever is at work on it holds.

    A path that is a text is the URI of checkpoints: a folder under CHECKPOINT_STORAGE.
    """

    path: Path | str
    why: str = ""
    lock: str = ""


def _items(training: Training, why: str = "") -> list[Item]:
    """All of a training: its folder, and its checkpoints where these lie elsewhere."""
    storage = training.storage
    shared = [] if Path(storage).is_relative_to(training.path) else [Item(_placed(storage), why, training.lock)]
    return [Item(training.path, why, training.lock), *shared]


def plan(params: Params, everything: bool = False) -> list[Item]:
    """What would be freed now."""
    items = [Item(Path(name), _no_longer_named(params) if name == "models" else "") for name in OUTPUTS]
    items += [Item(Path(name)) for name in CACHES]
    items += [Item(cache) for folder in CODE for cache in sorted(Path(folder).rglob("__pycache__"))]
    trainings = [Training(path) for path in sorted(home().glob("state/training/*")) if path.is_dir()]
    if everything:
        items += [item for training in trainings for item in _items(training)]
        # A training of the paper's, or one made again, is here only while it is at work, or after it was killed.
        killed = [*sorted(home().glob("state/paper/*")), *sorted(home().glob("state/reproduce/*"))]
        items += [Item(path, "of one that was killed", lock=f"{path.parent.name}-{path.stem}") for path in killed]
        items += [Item(home() / "state/reports", "copies, which MLflow has, too"), Item(Path(".venv"))]
    else:
        items += _trainings(trainings, params.clean)
    return [item for item in items if _exists(item.path)]


def _trainings(trainings: list[Training], keep: CleanParams) -> list[Item]:
    recorded, items = _recorded(), []
    newest_first = sorted(trainings, key=lambda training: training.time, reverse=True)
    for variant in sorted({training.variant for training in trainings}):
        latest, *before = of_variant = [training for training in newest_first if training.variant == variant]
        # One that DVC has not recorded, since it was killed, is there for the next start to take over.
        done = [training for training in of_variant if training.is_finished and training.digest in recorded]
        for training in done[keep.experiments :]:
            items += _items(training, "finished, and recorded by DVC")
        superseded = [training for training in before if not training.is_finished]
        for training in superseded[keep.superseded :]:
            items += _items(training, "not finished; another one was begun later")
        for training in [latest, *superseded[: keep.superseded]]:
            kept = [checkpoint for checkpoint in training.checkpoints if checkpoint.is_whole][: keep.checkpoints]
            surplus = sorted(checkpoint.folder for checkpoint in training.checkpoints if checkpoint not in kept)
            items += [Item(_placed(each), "not among the newest checkpoints", training.lock) for each in surplus]
    return items


def _recorded() -> str:
    """What DVC's run cache says of all stages that ever ran here."""
    files = home().glob(".dvc/cache/runs/*/*/*")
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


def _no_longer_named(params: Params) -> str:
    """Models of variants that were taken out of params.yaml are hashed by whatever depends on models/."""
    left = sorted(path.name for path in Path("models").glob("*/") if path.name not in params.variants)
    return f"with {', '.join(left)}, no longer in params.yaml" if left else ""


def clean(items: list[Item]) -> int:
    """Free what is not at work; returns the bytes freed.

    Raises:
        ExternalError: something cannot be removed; what stands before it is gone.
    """
    freed = 0
    for item in items:
        size = size_of(item.path)
        try:
            if item.lock:
                with locked(item.lock, wait=False):
                    _remove(item.path)
            else:
                _remove(item.path)
        except ExternalError as error:
            print(f"{_shown(item.path)} stays: {error}")
            continue
        except OSError as error:
            raise ExternalError(f"{item.path}: cannot be removed: {error.strerror}") from None
        freed += size
    return freed


def _placed(place: str) -> Path | str:
    """A folder of this machine's as such."""
    return Path(place) if place.startswith("/") else place


def _exists(path: Path | str) -> bool:
    if isinstance(path, str):
        return checkpoints.size_of(path) > 0
    return path.is_symlink() or path.exists()


def _remove(path: Path | str) -> None:
    if isinstance(path, str):
        checkpoints.remove(path)
    elif path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)


def size_of(path: Path | str) -> int:
    """Bytes of a file or of all files in a folder; links are not followed."""
    if isinstance(path, str):
        return checkpoints.size_of(path)
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def _shown(path: Path | str) -> Path | str:
    return path.relative_to(Path.cwd()) if isinstance(path, Path) and path.is_relative_to(Path.cwd()) else path


def _megabytes(size: int) -> str:
    return f"{size / 1e6:8.1f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.clean", description="Free what can be made again."
    )
    parser.add_argument("--all", action="store_true", help="every training's state, reports' copies and .venv, too")
    parser.add_argument("--dry-run", action="store_true", help="say what would be freed, and free nothing")
    arguments = parser.parse_args()
    items = plan(load_params(), arguments.all)
    caches = [item for item in items if isinstance(item.path, Path) and item.path.name == "__pycache__"]
    for item in items:
        if item not in caches:
            note = f"  ({item.why})" if item.why else ""
            print(f"{_megabytes(size_of(item.path))}  {_shown(item.path)}{note}")
    if caches:
        print(f"{_megabytes(sum(size_of(item.path) for item in caches))}  {len(caches)} × __pycache__")
    total = sum(size_of(item.path) for item in items)
    if arguments.dry_run or not items:
        print(f"{_megabytes(total)}  would be freed" if items else "nothing to free")
        return
    print(f"{_megabytes(total)}  will be freed", flush=True)
    freed = clean(items)
    print(f"{_megabytes(freed)}  freed")


if __name__ == "__main__":
    run(main)
