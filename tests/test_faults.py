"""Full disks at each file that a stage writes, and truncated files at each file that a stage reads.

Each gives one line and exit code 1, leaves no partial file, and the next start continues.
"""

import contextlib
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipelines import evaluate, register, visualize
from pipelines.commands import doctor
from pipelines.outputs.trained_models import FinishedSeed, ThetaHistory, TrainingRecord, write_result
from pipelines.outputs.tuning_results import TuningResults
from pipelines.params import set_value
from pipelines.preparation.run import prepare_source
from pipelines.registry.versions import list_versions
from pipelines.runtime.errors import run_main
from pipelines.runtime.files import read_json, write_json
from pipelines.settings.params import load_params
from pipelines.settings.variants import load_variant
from pipelines.tracking.client import connect
from pipelines.tuning.winner import write_winner

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ("plain", "stn")


class FullDisk:
    """Refuses to open the files that ``refused`` selects for writing, as the system does on a full disk.

    An audit hook sees every file that Python opens, in any library. A hook cannot be removed, only disabled.
    """

    def __init__(self) -> None:
        self.refused: Callable[[Path], bool] | None = None
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, arguments: tuple) -> None:
        if self.refused is None or event != "open" or not isinstance(arguments[0], str | bytes):
            return
        path, _, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR) and self.refused(Path(os.fsdecode(path))):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def where(self, refused: Callable[[Path], bool]) -> Iterator[None]:
        self.refused = refused
        try:
            yield
        finally:
            self.refused = None


DISK = FullDisk()


@pytest.fixture(scope="session")
def untouched(tmp_path_factory) -> Path:
    """A folder as after the stage train: data, and the untrained networks of two variants."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    shutil.copytree(ROOT / "variants", folder / "variants")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        for setting in (
            "data.dataset=digits", "data.size=28", "variants=[plain, stn]", "evaluate.robustness_images=20",
            "visualize.examples=4", "prepare.test=0.05", "prepare.validation=0.05",
        ):  # fmt: skip
            set_value(setting)
        params = load_params()
        meta = prepare_source(params.data, params.prepare)
        entry = {"epoch": 1, "timestamp": 10**12, "train_loss": 2.0, "lr": 0.1, "images_per_second": 9.0}
        entry |= {"epoch_seconds": 1.0, "validation_loss": 2.0, "validation_accuracy": 0.5}
        for name in VARIANTS:
            torch.manual_seed(0)
            variant = load_variant(name)
            network = meta.network_builder(variant, params.train.dropout)()
            record = TrainingRecord(
                variant=variant, train=params.train, data=meta, git_commit="none", git_dirty="false", git_diff="",
                libraries={}, workers=1, threads=1, gpu=False,
            )  # fmt: skip
            theta_history = None
            if network.transformer is not None:
                identity = torch.tensor([[network.transformer.transform.identity]])
                theta_history = ThetaHistory(torch.tensor([0]), identity)
            weights = {key: value.contiguous() for key, value in network.state_dict().items()}
            done = FinishedSeed(weights, [entry], theta_history)
            write_result({0: done}, {0: f"gone-{name}"}, record, folder / name)
            shutil.copytree(folder / name / "model", folder / "models" / name)
            shutil.rmtree(folder / name)
        write_winner(load_variant("stn"), ["Nothing was tuned."], TuningResults(winner="stn"))
        evaluate.main()
        visualize.main()
    return folder


@pytest.fixture
def folder(untouched, tmp_path, monkeypatch) -> Path:
    """A copy of that folder, as the current folder."""
    shutil.copytree(untouched, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "state")  # its database points to the other folder
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path, *parts: str) -> dict[str, bytes]:
    """All files below these parts of the folder."""
    found = (path for part in parts for path in sorted((folder / part).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def fails(main: Callable[[], object], capsys) -> str:
    """The one line that ``main`` prints before it ends with exit code 1."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run_main(main)
    said = [line for line in capsys.readouterr().err.splitlines() if "egistered model" not in line]  # MLflow's news
    assert ended.value.code == 1
    (line,) = [line for line in said if not line.startswith("Created version")]
    assert line.startswith("error: ")
    return line


def refuse_nth(folder: Path, n: int) -> Callable[[Path], bool]:
    """Select the n-th file opened for writing in the folder, and all after it; lock files do not count."""
    opened = 0

    def refused(path: Path) -> bool:
        nonlocal opened
        if folder not in (Path.cwd() / path).parents or "locks" in path.parts:
            return False
        opened += 1
        return opened >= n

    return refused


@pytest.mark.slow
@pytest.mark.parametrize("stage", [evaluate, visualize], ids=lambda stage: stage.__name__)
def test_a_disk_full_at_any_file_of_a_stage(stage, folder, untouched, capsys):
    results = ("metrics", "plots", "reports")
    whole = files(untouched, *results)
    points = 0
    while True:
        points += 1
        with DISK.where(refuse_nth(folder, points)):
            try:
                line = fails(stage.main, capsys)
            except BaseException as error:
                if "DID NOT RAISE" not in str(error):
                    raise
                break
        assert "No space left on device; free disk space there; finished work is kept" in line, line
        assert files(folder, *results) == whole, "a file was left half written, or one beside it"
    assert points > 5
    assert files(folder, *results) == whole


@pytest.mark.slow
def test_a_disk_full_while_registering_registers_nothing_twice(folder, capsys):
    # Artifacts of a run, the exported program, the model's description, artifacts of a version, files in the home.
    for part in (
        "lineage/.artifact",
        "network.pt2",
        "MLmodel",
        "evaluation/.artifact",
        "report.html",
        "registered.json",
    ):
        with DISK.where(lambda path, part=part: part in str(path)):
            line = fails(register.main, capsys)
        assert "No space left on device" in line, line
        assert not (folder / "registered.json").exists()
    register.main()
    client = connect()
    versions = list_versions(client, "stn-digits")
    assert {version.tags["variant"] for version in versions} == set(VARIANTS)
    registered = read_json(folder / "registered.json")
    register.main()
    assert read_json(folder / "registered.json") == registered
    assert len(list_versions(client, "stn-digits")) == len(versions)


READERS = {"evaluate": evaluate.main, "visualize": visualize.main, "register": register.main}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("data/prepared/meta.json", "evaluate"),
        ("data/prepared/test.safetensors", "evaluate"),
        ("models/stn/training.json", "evaluate"),
        ("models/stn/0.safetensors", "visualize"),
        ("plots/evaluate/reliability/stn.json", "visualize"),
        ("metrics/evaluate.json", "register"),
    ],
)
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_truncated_file_is_named_with_the_remedy(folder, file, stage, share, capsys):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(share * len(content))])
    line = fails(READERS[stage], capsys)
    assert f"error: {file}: truncated or damaged (" in line and "delete it, and dvc repro creates it again" in line


@pytest.mark.slow
def test_doctor_reports_a_registered_json_that_is_cut_off(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["doctor"])
    write_json(folder / "registered.json", {"model": "stn-digits", "versions": {}})
    (folder / "registered.json").write_bytes((folder / "registered.json").read_bytes()[:20])
    assert "registered.json: truncated or damaged" in fails(doctor.main, capsys)


@pytest.mark.slow
def test_a_folder_in_a_files_place_is_reported(folder, capsys):
    (folder / "metrics/evaluate.json").unlink()
    (folder / "metrics/evaluate.json").mkdir()
    assert "metrics/evaluate.json: Is a directory; move that folder away" in fails(evaluate.main, capsys)


def test_settings_that_cannot_be_written_stay(folder, capsys):
    before = (folder / "params.yaml").read_bytes()
    with DISK.where(lambda path: "params.yaml" in path.name):
        line = fails(lambda: set_value("train.lr=0.05"), capsys)
    assert line.startswith("error: params.yaml: No space left on device; free disk space there")
    assert (folder / "params.yaml").read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_every_row_of_the_table_of_faults_names_existing_tests():
    """They exist in the files that the row names, or in the file of its section."""
    rows, named = 0, set()
    for section in (ROOT / "docs/faults.md").read_text().split("\n## ")[1:]:
        header, _, table = section.partition("|---|---|---|\n")
        for row in table.splitlines():
            rows += 1
            files = re.findall(r"\(((?:\w+/)*test_\w+\.py)\)", row)
            files += re.findall(r"`tests/pipelines/(\w+/test_\w+\.py)`", header)
            code = "".join(
                path.read_text()
                for path in (ROOT / "tests").rglob("test_*.py")
                if path.as_posix().endswith(tuple(f"/{f}" for f in files))
            )
            tests = re.findall(r"`(test_\w+)`", row)
            assert tests, f"no test shows it: {row}"
            for test in tests:
                assert f"def {test}(" in code, f"{test} is not in {files}"
            named.update(tests)
    print(f"{rows} faults, {len(named)} tests")
    assert rows > 50
