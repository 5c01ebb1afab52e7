"""dvc.yaml against the code: a stage's dependencies are the files that it loads, and DVC keeps its outs."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines.commands.clean import OUTPUTS
from pipelines.settings.params import RecipeParams
from tools.imports import modules, needed_by

ROOT = Path(__file__).resolve().parents[1]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
# Code that a stage imports and does not depend on: it changes no result.
LEFT_OUT = {
    "prepare": ("pipelines/runtime",),
    "tune": ("pipelines/runtime", "pipelines/tracking"),
    "train": ("pipelines/runtime", "pipelines/tracking"),
    "evaluate": ("pipelines/runtime",),
    "visualize": ("pipelines/runtime",),
    "register": ("pipelines/runtime",),
}


def within(file: str, places: Iterable[str]) -> bool:
    return any(file == place or file.startswith(f"{place}/") for place in places)


def outs(stage: str, *kinds: str) -> dict[str, dict]:
    """The stage's outs of these kinds: path → options."""
    entries = [entry for kind in kinds for entry in STAGES[stage].get(kind, [])]
    return {
        path: options or {}
        for entry in entries
        for path, options in (entry.items() if isinstance(entry, dict) else [(entry, {})])
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name_everywhere(stage):
    assert (ROOT / "pipelines" / f"{stage}.py").is_file()
    assert STAGES[stage]["cmd"].split()[:3] == ["python", "-m", f"pipelines.{stage}"]
    assert stage in PARAMS and stage in STAGES[stage]["params"], "a change of its own settings does not run it again"
    for param in STAGES[stage]["params"]:
        section, _, key = param.partition(".")
        assert section in PARAMS and (not key or key in PARAMS[section]), param


def test_every_section_belongs_to_a_stage():
    tracked = {name.partition(".")[0] for stage in STAGES.values() for name in stage["params"]}
    # The stage train takes the names of variants from its matrix. promote and clean are commands, not stages.
    assert tracked | {"promote", "clean"} == set(PARAMS)
    assert STAGES["train"]["matrix"]["variant"] == "${variants}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_code_lies_within_its_dependencies(stage):
    """A missing dependency would hide a change of code; an unused one would run the stage without need."""
    code = [dep for dep in STAGES[stage]["deps"] if within(dep, ("pipelines", "stn"))]
    files = {modules()[name].relative_to(ROOT).as_posix() for name in needed_by(f"pipelines.{stage}")}
    files = {
        file for file in files if file.startswith("stn/") or not file.endswith("__init__.py")
    }  # these hold a docstring
    assert [file for file in sorted(files) if not within(file, (*code, *LEFT_OUT[stage]))] == []
    assert [dep for dep in code if not any(within(file, [dep]) for file in files)] == []


@pytest.mark.slow
def test_an_edit_of_code_that_changes_no_result_trains_nothing(project):
    def changed() -> set[str]:
        return set(json.loads(project.run("dvc", "status", "--json", "train@plain", "train@stn", "tune").stdout))

    def edit(file: str) -> set[str]:
        path = project.folder / file
        before = path.read_bytes() if path.exists() else None
        path.write_bytes((before or b"") + b"\n# a change\n")
        found = changed()
        path.unlink() if before is None else path.write_bytes(before)
        return found

    trained = {"train@plain", "train@stn"}
    for stage in ("tune", "train@plain", "train@stn"):  # as if they had been run
        lock(project, stage)
    assert changed() == set()
    for file in ("pipelines/runtime/progress.py", "pipelines/tracking/client.py", "stn/.muon.py.swp", "stn/muon.py~"):
        assert edit(file) == set(), file
    assert edit("stn/muon.py") == {*trained, "tune"}
    assert edit("pipelines/training/trainer.py") == {*trained, "tune"}
    assert edit("pipelines/tuning/search.py") == {"tune"}


def lock(project, stage: str) -> None:
    """Record a stage in dvc.lock with its current dependencies and with invented outs."""
    name, _, variant = stage.partition("@")
    for path in outs(name, "outs", "metrics", "plots"):
        target = project.folder / path.replace("${item.variant}", variant)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix in (".json", ".csv", ".yaml"):
            target.write_text("{}\n")
        else:
            target.mkdir(exist_ok=True)
            (target / "x").write_text("x")
    (project.folder / "data/prepared").mkdir(parents=True, exist_ok=True)
    (project.folder / "data/prepared/meta.json").write_text("{}")
    project.run("dvc", "commit", "--force", stage)


@pytest.mark.parametrize("stage", STAGES)
def test_every_dependency_on_data_is_a_file_or_another_stages_out(stage):
    made = [path for other in STAGES for path in outs(other, "outs", "metrics", "plots")]
    for dep in STAGES[stage]["deps"]:
        if dep == "${data.source}" or within(dep, ("pipelines", "stn", "own_networks", "variants")):
            continue
        assert any(path == dep or path.startswith(f"{dep}/") for path in made), dep


def test_outs_are_kept_by_dvc_and_by_nothing_else():
    """DVC cannot restore a stage from the run cache if an out is not cached, or persists."""
    paths = [path.replace("${item.variant}", "stn") for s in STAGES for path in outs(s, "outs", "metrics", "plots")]
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *(f"{path}/x" if "." not in path else path for path in paths)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert [line.removesuffix("/x") for line in ignored.stdout.splitlines()] == paths
    everything = {(stage, path): o for stage in STAGES for path, o in outs(stage, "outs", "metrics", "plots").items()}
    assert [place for place, options in everything.items() if options.get("persist")] == []
    uncached = [
        (stage, path) for stage in STAGES for path, o in outs(stage, "outs").items() if o.get("cache", True) is False
    ]
    assert uncached == [("register", "registered.json")]


def test_make_clean_knows_all_outs():
    made = {path for stage in STAGES for path in outs(stage, "outs", "metrics", "plots")}
    assert [path for path in made if not any(f"{path}/".startswith(f"{known}/") for known in OUTPUTS)] == []


def test_the_folder_mlflow_does_not_hide_the_library():
    assert list((ROOT / "mlflow").rglob("*.py")) == []
    command = [sys.executable, "-c", "from importlib.util import find_spec; print(find_spec('mlflow').origin)"]
    origin = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    spec = find_spec("mlflow")
    assert spec is not None and origin == spec.origin and "site-packages" in origin


@pytest.mark.slow
def test_dvc_has_a_stage_for_each_variant(project):
    def listed() -> list[str]:
        return project.run("dvc", "stage", "list", "--name-only").stdout.split()

    others = ["evaluate", "prepare", "register", "tune", "visualize"]
    assert sorted(listed()) == sorted([*others, "train@plain", "train@stn", "train@tuned"])
    (project.folder / "variants" / "mine.yaml").write_text((project.folder / "variants" / "stn.yaml").read_text())
    project.set("variants=[mine, stn]")
    assert sorted(listed()) == sorted([*others, "train@mine", "train@stn"])


def test_a_trials_recipe_is_what_tune_depends_on():
    """A change of a setting that is not listed would not start a new study."""
    listed = {name.removeprefix("train.") for name in STAGES["tune"]["params"] if name.startswith("train.")}
    assert listed == RecipeParams.model_fields.keys() | {"preset"} < PARAMS["train"].keys()


def test_only_the_tuned_variant_waits_for_the_study(project):
    """A new winner trains train@tuned again, and no other variant."""
    graph = project.run("dvc", "dag", "--dot").stdout
    readers = set(re.findall(r'"tune" -> "([\w@]+)"', graph))
    assert readers == {"train@tuned", "visualize"}
