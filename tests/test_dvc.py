"""dvc.yaml against the code: what a stage says that it needs is what it really loads, and what it makes is DVC's."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines.commands.clean import OUTPUTS
from pipelines.tuning.search import NO_CONCERN_OF_TRIALS

ROOT = Path(__file__).resolve().parents[1]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
# What a module reads beside itself: its own files that are no imports.
FILES_READ = {"visualize": {"pipelines/report.html.j2"}, "register": {"pipelines/registered_model.py"}}
# In one process, since torch, Ray and MLflow take seconds each: they stay, the project's own modules are dropped.
LIST_IMPORTS = """
import importlib, json, sys
from pathlib import Path
root, found = Path(sys.argv[1]), {}
for stage in sys.argv[2:]:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("pipelines", "stn")]:
        del sys.modules[name]
    importlib.import_module(f"pipelines.{stage}")
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    inside = {Path(file).relative_to(root).as_posix() for file in files if file and Path(file).is_relative_to(root)}
    found[stage] = sorted(name for name in inside if not name.startswith("."))  # .venv may lie here
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    command = [sys.executable, "-c", LIST_IMPORTS, str(ROOT), *STAGES]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=900)
    return json.loads(done.stdout.splitlines()[-1])


def outs(stage: str, *kinds: str) -> dict[str, dict]:
    """The stage's outs of these kinds by path, each with its options."""
    entries = [entry for kind in kinds for entry in STAGES[stage].get(kind, [])]
    return {
        path: options or {}
        for entry in entries
        for path, options in (entry.items() if isinstance(entry, dict) else [(entry, {})])
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_bears_one_name_everywhere(stage):
    assert (ROOT / "pipelines" / f"{stage}.py").is_file()
    assert STAGES[stage]["cmd"].split()[:3] == ["python", "-m", f"pipelines.{stage}"]
    assert stage in PARAMS and stage in STAGES[stage]["params"], "its own settings do not make it run again"
    for param in STAGES[stage]["params"]:
        section, _, key = param.partition(".")
        assert section in PARAMS and (not key or key in PARAMS[section]), param


def test_every_section_is_some_stages():
    tracked = {name.partition(".")[0] for stage in STAGES.values() for name in stage["params"]}
    # The train stage takes the variants' names from its matrix; promoting and cleaning are a person's decisions.
    assert tracked | {"promote", "clean"} == set(PARAMS)
    assert STAGES["train"]["matrix"]["variant"] == "${variants}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_code_is_what_it_imports(stage, imported):
    """Code left out here would be edited without a new run; code too much would retrain for nothing."""
    code = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("pipelines/", "stn/"))]
    assert sorted(code) == sorted({*imported[stage], *FILES_READ.get(stage, ())})


def test_code_is_not_imported_late():
    """An import inside a function is missed by the lists above; the project's own modules are imported at the top."""
    late = {
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for stage in STAGES.values()
        for path in (ROOT / dep for dep in stage["deps"] if dep.endswith(".py"))
        for line in path.read_text().splitlines()
        if re.match(r"\s+(from|import) (pipelines|stn)\b", line)
    }
    assert late == set()


@pytest.mark.parametrize("stage", STAGES)
def test_every_dependency_on_data_is_a_file_or_another_stages_out(stage):
    made = [path for other in STAGES for path in outs(other, "outs", "metrics", "plots")]
    for dep in STAGES[stage]["deps"]:
        if dep == "${data.source}" or dep.startswith(("pipelines/", "stn/", "variants/")):
            continue
        assert any(path == dep or path.startswith(f"{dep}/") for path in made), dep


def test_outs_are_kept_by_dvc_and_by_nothing_else():
    """An out that is not cached, or that persists, keeps DVC from restoring its stage from the run cache."""
    paths = [path.replace("${item.variant}", "seed") for s in STAGES for path in outs(s, "outs", "metrics", "plots")]
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


def test_dvc_has_a_stage_for_each_variant(project):
    def listed() -> list[str]:
        return project.run("dvc", "stage", "list", "--name-only").stdout.split()

    others = ["evaluate", "prepare", "register", "tune", "visualize"]
    assert sorted(listed()) == sorted([*others, "train@plain", "train@seed", "train@tuned"])
    (project.folder / "variants" / "mine.yaml").write_text((project.folder / "variants" / "seed.yaml").read_text())
    project.set("variants=[mine, seed]")
    assert sorted(listed()) == sorted([*others, "train@mine", "train@seed"])


def test_a_trials_recipe_is_what_tune_depends_on():
    """All of the section train but what no trial knows of: a setting left out would be changed without a new study."""
    listed = {name.removeprefix("train.") for name in STAGES["tune"]["params"] if name.startswith("train.")}
    assert listed - {"epochs"} == PARAMS["train"].keys() - NO_CONCERN_OF_TRIALS


def test_only_the_tuned_variant_waits_for_the_study(project):
    """What tune writes is read by train@tuned alone: a new winner trains that one and leaves the others."""
    graph = project.run("dvc", "dag", "--dot").stdout
    readers = set(re.findall(r'"tune" -> "([\w@]+)"', graph))
    assert readers == {"train@tuned", "visualize"}
