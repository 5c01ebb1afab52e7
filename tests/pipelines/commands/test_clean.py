"""clean: what is deleted and what stays, that it is listed before, and that files in use are skipped."""

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from pipelines.commands import clean
from pipelines.params import set_value
from pipelines.runtime.files import write_json
from pipelines.runtime.locks import hold_lock
from pipelines.settings.params import load_params

ROOT = Path(__file__).resolve().parents[3]
PRECIOUS = (
    "state/mlflow.db", "state/artifacts/stn-mine/model.pt2", "state/tuning/study.log", "data/raw/README.md",
    "data/raw/cifar-10-python.tar.gz", ".dvc/cache/files/md5/aa/bb", "dvc.lock", "variants/stn.yaml",
)  # fmt: skip
MADE = ("models/stn/0.safetensors", "models/old/0.safetensors", "data/prepared/meta.json", "metrics/evaluate.json",
        "plots/tune/history.png", "reports/report.html", "registered.json", "variants/tuned.yaml",
        "stn/__pycache__/a.pyc", ".pytest_cache/x")  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A work tree after many runs; state/training is empty."""
    for name in (*PRECIOUS, *MADE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 100)
    (tmp_path / "state/training").mkdir()
    for name in ("params.yaml", "variants/plain.yaml", "variants/stn.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    set_value("variants=[plain, stn]")
    return tmp_path


class Trainings:
    """Creates folders of state/training, each later than the one before."""

    def __init__(self, folder: Path):
        self.folder, self.clock, self.made = folder, 1_700_000_000, 0

    def _name(self, variant: str) -> Path:
        self.made += 1
        return self.folder / "state/training" / f"{variant}-{self.made:016x}"

    def _tick(self, path: Path) -> None:
        self.clock += 60
        for each in (*path.rglob("*"), path):
            if each.stat().st_mtime > 1_800_000_000 or each.stat().st_mtime < 1_700_000_000:
                os.utime(each, (self.clock, self.clock))

    def unfinished(self, variant: str, *starts: int, half_written: bool = False) -> Path:
        """Create an unfinished training of seed 0 with this many checkpoints of each start."""
        path = self._name(variant)
        path.mkdir()
        self.add_seed(path, *starts, half_written=half_written)
        return path

    def add_seed(self, path: Path, *starts: int, seed: int = 0, half_written: bool = False) -> None:
        """Add this many checkpoints of each start of a seed to an unfinished training."""
        for start, count in enumerate(starts):
            for number in range(count):
                checkpoint = path / "checkpoints" / f"seed-{seed}" / f"start{start}" / f"checkpoint_{number}"
                checkpoint.mkdir(parents=True)
                torch.save({"epoch": number, "w": torch.ones(500)}, checkpoint / "state.pt")
                last = number == count - 1 and start == len(starts) - 1
                if half_written and last:
                    (checkpoint / "state.pt").write_bytes((checkpoint / "state.pt").read_bytes()[:900])
                self._tick(checkpoint)
        self._tick(path)

    def finished(self, variant: str, recorded: bool = True) -> Path:
        """Create a finished training; ``recorded`` adds it to DVC's run cache."""
        path = self._name(variant)
        write_json(path / "result/metrics.json", {"speed": self.made})
        if recorded:
            md5 = hashlib.md5((path / "result/metrics.json").read_bytes()).hexdigest()
            entry = self.folder / f".dvc/cache/runs/ab/{self.made}/{self.made}"
            entry.parent.mkdir(parents=True)
            entry.write_text(f"outs:\n- path: metrics/train/{variant}.json\n  md5: {md5}\n")
        self._tick(path)
        return path


@pytest.fixture
def trainings(folder) -> Trainings:
    return Trainings(folder)


def run(capsys, *arguments: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["clean", *arguments])
        clean.main()
    return capsys.readouterr().out


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("arguments", [(), ("--all",)])
def test_files_that_can_be_recreated_go_and_all_others_stay(folder, trainings, capsys, arguments):
    kept = trainings.unfinished("stn", 2)
    (folder / ".venv").mkdir()
    (folder / ".venv/python").write_bytes(b"x" * 1000)
    before = read_all(folder)
    listed = run(capsys, *arguments, "--dry-run")
    assert read_all(folder) == before, "a dry run deletes something"
    printed = run(capsys, *arguments)
    after = read_all(folder)
    assert {name: after.get(name) for name in PRECIOUS} == {name: before[name] for name in PRECIOUS}
    assert not set(MADE) & set(after)
    everything = bool(arguments)
    assert kept.exists() != everything and (folder / ".venv").exists() != everything
    assert [line for line in printed.splitlines() if "freed" not in line] == listed.splitlines()[:-1]
    gone = sum(len(content) for name, content in before.items() if name not in after)
    assert f"{gone / 1e6:.1f} MB  will be freed" in printed and printed.endswith(f"{gone / 1e6:.1f} MB  freed\n")
    assert "with old, no longer in params.yaml" in printed
    assert "state/training" in printed if everything else "state/training" not in printed
    assert "nothing to free" in run(capsys, *arguments)


def test_every_item_is_listed_before_any_is_deleted(folder, capsys, monkeypatch):
    monkeypatch.setattr(clean, "delete_items", lambda items: pytest.fail(capsys.readouterr().out))
    with pytest.raises(pytest.fail.Exception) as printed:
        run(capsys)
    for name in ("data/prepared", "models", "metrics", "plots", "reports", "registered.json", "1 × __pycache__"):
        assert name in str(printed.value)


def listed_state(folder: Path, *settings: str) -> set[Path]:
    """What would be deleted in the folder ``state``."""
    for setting in settings:
        set_value(setting)
    paths = (Path(item.path) for item in clean.find_items(load_params()))
    return {path for path in paths if path.is_relative_to(folder / "state")}


def test_recorded_trainings_beyond_those_to_keep_go(folder, trainings):
    recorded = [trainings.finished("stn") for _ in range(4)]
    trainings.finished("plain")
    unrecorded = trainings.finished("stn", recorded=False)  # DVC was killed; the next start uses the result
    assert listed_state(folder, "clean.experiments=2") == set(recorded[:2])
    assert listed_state(folder, "clean.experiments=9") == set()
    assert unrecorded not in listed_state(folder, "clean.experiments=0")


def test_superseded_trainings_beyond_those_to_keep_go(folder, trainings):
    first, second, third = (trainings.unfinished("stn", 1) for _ in range(3))
    own = trainings.unfinished("stn-own", 1)  # another variant, whose name has the same prefix
    trainings.finished("stn")
    assert listed_state(folder, "clean.superseded=1") == {first, second}
    assert listed_state(folder, "clean.superseded=0") == {first, second, third}
    assert own not in listed_state(folder)
    latest = trainings.unfinished("stn", 1)
    assert listed_state(folder, "clean.superseded=1") == {first, second}
    assert latest not in listed_state(folder, "clean.superseded=0")


def test_the_newest_readable_checkpoints_stay(folder, trainings):
    training = trainings.unfinished("stn", 2, 3, half_written=True)
    checkpoints = training / "checkpoints/seed-0"
    first, second = checkpoints / "start0", checkpoints / "start1"
    half = second / "checkpoint_2"
    assert listed_state(folder, "clean.checkpoints=3") == {first / "checkpoint_0", half}
    assert listed_state(folder, "clean.checkpoints=1") == {first / "checkpoint_0", first / "checkpoint_1",
                                                    second / "checkpoint_0", half}  # fmt: skip
    trainings.add_seed(training, 2, seed=5)
    clean.delete_items(clean.find_items(load_params()))
    kept = [path.parent for path in sorted(training.rglob("state.pt"))]
    assert kept == [second / "checkpoint_1", training / "checkpoints/seed-5/start0/checkpoint_1"]


@pytest.mark.slow
@pytest.mark.parametrize("shared", ["folder", "s3"])
def test_checkpoints_elsewhere_go_if_they_belong_to_trainings_of_the_folder(
    folder, trainings, capsys, monkeypatch, request, shared
):
    """Surplus checkpoints are deleted, and all with their training. Checkpoints of another folder's trainings stay."""
    place = f"{folder}/shared"
    if shared == "s3":
        for name, value in request.getfixturevalue("s3").env.items():
            monkeypatch.setenv(name, value)
        place = f"s3://bucket/{folder.name}"
    monkeypatch.setenv("CHECKPOINT_STORAGE", place)
    filesystem, root = fs.FileSystem.from_uri(place)
    others, own = folder / "state/training/stn-others", trainings.unfinished("stn", 3)
    shutil.copytree(own / "checkpoints", others)

    def move(source: Path, name: str) -> None:
        fs.copy_files(str(source), f"{place}/{name}")
        shutil.rmtree(source)

    move(others, others.name)
    move(own / "checkpoints", own.name)

    def left() -> set[str]:
        files = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        return {info.path[len(root) + 1 :] for info in files if info.base_name == "state.pt"}

    before = left()
    assert len(before) == 6
    # The copies have the same age, so any one of the three may be the surplus one.
    assert len(re.findall(rf"{own.name}/seed-0/start0/checkpoint_\d  \(not among", run(capsys))) == 1
    after = left()
    assert len(after) == 5 and all(name.startswith(own.name) for name in before - after)
    run(capsys, "--all")
    assert left() == {name for name in before if name.startswith(others.name)}


def test_a_training_at_work_is_left_alone(folder, trainings, capsys):
    first = trainings.unfinished("stn", 1)
    trainings.finished("stn")
    set_value("clean.superseded=0")
    with hold_lock(f"train-{first.name.removeprefix('stn-')}"):
        printed = run(capsys)
    assert (
        first.exists()
        and f"{first.relative_to(folder)} stays: process {os.getpid()} is working on the same task" in printed
    )
    run(capsys)
    assert not first.exists()


@pytest.mark.parametrize("left", ["paper/R-CNN-0-0123456789abcdef.pt", "reproduce/tmp_x1y2z3/tree/params.yaml"])
def test_state_of_a_killed_process_is_deleted_by_all_unless_it_is_in_use(folder, capsys, left):
    file = folder / "state" / left
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 1000)
    kind, name = left.split("/")[:2]
    run(capsys)
    assert file.exists()
    with hold_lock(f"{kind}-{Path(name).stem}"):
        assert "is working on the same task" in run(capsys, "--all")
    assert file.exists()
    run(capsys, "--all")
    assert not file.exists()


def test_links_are_removed_and_not_followed(folder, capsys):
    elsewhere = folder / "elsewhere"
    shutil.move(folder / "models", elsewhere)
    (folder / "models").symlink_to(elsewhere)
    run(capsys)
    assert not (folder / "models").is_symlink() and (elsewhere / "stn/0.safetensors").exists()
